"""Stories: what is told of a run, a snapshot and a version, what is refused, and that no damaged or foreign file is told from."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from stores import COMMIT, RUN, kept, recorded
from typer.testing import CliRunner

from cluster.store import Store, write_json
from conf.errors import RaycycleError, UsageError
from flows import certificate, lineage_graph, reproducible
from flows.cli import app
from flows.explain import Explained, explain, write_graph
from ledger import records
from ledger.digests import of_file
from ledger.records import Record, StageRun
from ledger.registry import Champion, Registered
from ledger.tracking import TrackingDown
from tables import snapshots

SECOND = "bc" * 16
PARAMS = {"max_depth": 6, "learning_rate": 0.08}


class Registry:
    """A registry of the given versions, or one that is down."""

    def __init__(self, *versions: Registered, down: bool = False) -> None:
        self.versions, self.down = versions, down

    def find(self, reference: str) -> Registered:
        if self.down:
            raise TrackingDown("tracking does not answer")
        for version in self.versions:
            if reference in (str(version), *(f"{version.name}@{alias}" for alias in version.aliases)):
                return version
        raise UsageError("the model has no such version", value=reference)

    def champion_now(self, name: str) -> Champion:
        return Champion(next((each for each in self.versions if "champion" in each.aliases), None), stale=self.down)


@pytest.fixture(autouse=True)
def same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine nor this repository is what these tests are about."""
    monkeypatch.setattr(reproducible, "environment", lambda: {"python": "3.11.7"})
    monkeypatch.setattr(reproducible, "_has_commit", lambda commit: commit == COMMIT)


def stages(
    store: Store, run_id: str = RUN, ran: bool = True, passed: bool = True, quarantined: dict[str, int] | None = None
) -> list[StageRun]:
    """All stages of a run on a snapshot of two rows, kept in the cache."""
    table = pa.table({"x": [1, 2]})
    part = snapshots.write_part(snapshots.table_folder(store, "flights"), table)
    snapshot = snapshots.commit(store, "flights", table.schema, [part])
    rows = str(snapshot.digest)
    ingested = {"name": "flights", "version": snapshot.version, "quarantined": quarantined or {}, "warned": {"odd": 3}}
    trials = [
        {"number": n, "family": "xgboost", "params": PARAMS, "metrics": {"log_loss": 0.5 - n / 10}, "status": s}
        for n, s in ((0, "failed"), (1, "finished"))
    ]
    swept = {"best": 1, "metric": "log_loss", "trials": trials}
    verdicts = [{"name": "not_worse", "passed": passed, "reason": "log_loss is 2 % worse" if not passed else "better"}]
    holdout = {"rows": 1200, "metrics": {"log_loss": 0.4565}, "intervals": {"log_loss": [0.44, 0.47]}}
    judged = {"trial": trials[1], "params": PARAMS, "holdout": holdout, "constant": {"log_loss": 0.6}, "champion": {"log_loss": 0.45}}
    judged |= {"champion_name": "flights/1", "verdicts": verdicts}
    scores: list[tuple[str, dict[str, str | None], dict[str, str], dict[str, Any]]] = [
        ("ingest", {"source": "5" * 64}, {"rows": rows, "quarantined": "6" * 64}, {"ingested.json": ingested}),
        ("prepare", {"snapshot": rows}, {"encoder": "e" * 64, "train": "7" * 64}, {"prepared.json": {}}),
        ("sweep", {"encoder": "e" * 64, "train": "7" * 64}, {"best": "b" * 64}, {"swept.json": swept}),
        ("evaluate", {"best": "b" * 64, "encoder": "e" * 64, "champion": "none"}, {"model": "d" * 64}, {"evaluation.json": judged}),
    ]  # fmt: skip
    found = [kept(store, *each, run_id=run_id, ran=ran) for each in scores]
    return [*found, StageRun(stage="register", ran=True, why="flights/2", seconds=0.1, outputs={"model": "d" * 64})]


def whole(store: Store, run_id: str = RUN, *, ran: bool = True, passed: bool = True, **changed: Any) -> Record:
    """A run that went through, and its record."""
    made = stages(store, run_id, ran, passed, {"late.nullable": 40, "double": 2})
    rows = made[0].outputs["rows"]
    what = {"snapshot": {"name": "flights", "version": 0, "digest": rows}, "metric": "log_loss", "model": "flights", "version": 2}
    return recorded(
        store, run_id, **{"stages": made, "made": {**what, "passed": passed, "against": "flights/1", "bundle": "d" * 64}, **changed}
    )


def version(store: Store, *aliases: str, run_id: str = RUN) -> Registered:
    folder = store.folder("artifacts") / "model"
    write_json(folder / "bundle.json", {})
    return Registered("flights", 2, of_file(folder / "bundle.json"), folder, run_id, True, aliases)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one run, for tests that leave it as it is."""
    store = Store.open(tmp_path_factory.mktemp("ran") / "store")
    whole(store)
    return store


@pytest.fixture(scope="module")
def twice(ran: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a second run whose stages were all kept, for tests that leave it as it is."""
    store = Store.open(shutil.copytree(ran.root, tmp_path_factory.mktemp("twice") / "store"))
    whole(store, SECOND, ran=False, started="2026-11-24T10:00:00+00:00", ended=None)
    return store


@pytest.fixture
def own(ran: Store, tmp_path: Path) -> Store:
    """The store with one run, to be changed."""
    return Store.open(shutil.copytree(ran.root, tmp_path / "own"))


def changed_record(store: Store, **changed: Any) -> Record:
    """The run, but with other facts in its record."""
    record = msgspec.structs.replace(records.read(store.runs / RUN), **changed)
    records.write(record, store.runs / RUN)
    return record


def text(found: Explained) -> str:
    """The story without its line breaks."""
    return " ".join(" ".join(found.lines).split())


def test_the_story_of_a_run(own: Store) -> None:
    said = text(explain(own, Registry(version(own, "candidate")), "latest"))
    for part in (
        f"Run {RUN}: run of flights, FINISHED.",
        "ann@desk started it on 2026-11-23 at 10:00:00 UTC, with seed 0. It took 42.5 s.",
        "command raycycle run experiment=flights",
        f"Commit {COMMIT[:12]} on main, unchanged.",
        "Snapshot flights@0: 2 rows, digest rows1:2:",
        "Its source had the fingerprint 555555555555.",
        "Not let in: 42 rows, by rule late.nullable (40), double (2).",
        "- sweep ran in 1.5 s (no earlier result); read encoder eeeeeeeeeeee, train 777777777777; made best bbbbbbbbbbbb",
        "xgboost, trial 1 of 2 (1 failed), with learning_rate 0.08, max_depth 6.",
        "0.4565 (95 %: 0.4400 to 0.4700) on 1,200 rows nobody learned from; a constant answer has 0.6000; the champion of then has 0.4500.",
        "1 of 1 said yes. - not_worse yes: better",
        "Registered as flights/2, against champion flights/1; it passed its gates and was not released (the run ended before).",
        "The champion is nobody now.",
        f"again raycycle reproduce {RUN[:12]} can replay it.",
    ):
        assert part in said


def test_the_fields_tell_the_same_and_leave_the_commands_own_alone(ran: Store) -> None:
    facts = explain(ran, Registry(), "aa").facts
    assert facts["data"]["rows"] == 2
    assert facts["won"]["params"] == PARAMS
    assert facts["gates"][0]["name"] == "not_worse"
    assert facts["reproduce"]["possible"] is True
    assert [stage["stage"] for stage in facts["stages"]] == ["ingest", "prepare", "sweep", "evaluate", "register"]
    assert not {"verb", "ok", "exit_code", "seconds", "error_"} & facts.keys()


def test_a_refusal_says_why_and_against_whom(store: Store) -> None:
    whole(store, passed=False)
    said = text(explain(store, Registry(), "latest"))
    assert "- not_worse NO: log_loss is 2 % worse" in said
    assert "Registered as flights/2, against champion flights/1; refused: log_loss is 2 % worse." in said


def test_a_stage_from_the_cache_names_the_run_that_made_it(twice: Store) -> None:
    found = explain(twice, Registry(), "latest")
    assert f"- prepare was kept, unchanged since run {RUN[:12]} (1.5 s)" in text(found)
    assert found.facts["stages"][1]["made_by"] == RUN


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"code": {"commit": None, "branch": None, "files": {}, "left_out": {".": "no git repository"}}}, "its code was not kept"),
        ({"code": {"commit": "1" * 40, "branch": "main", "files": {}, "left_out": {}}}, "commit 111111111111 is not in this repository"),
        ({"made": {}, "status": "KILLED"}, "before its record named a snapshot"),
        ({"made": {"snapshot": {"name": "flights", "version": 7, "digest": "x"}}}, "its snapshot is gone"),
        ({"made": {"snapshot": {"name": "flights", "version": 0, "digest": "x"}}}, "not the snapshot that the run learned from"),
    ],
)
def test_what_prevents_a_replay_is_said(own: Store, changed: dict[str, Any], why: str) -> None:
    changed_record(own, **changed)
    found = explain(own, Registry(), "latest")
    assert found.facts["reproduce"]["possible"] is False
    assert f"It cannot be reproduced: {why}" in text(found) or why in text(found)


def test_gone_files_of_the_snapshot_prevent_a_replay(own: Store) -> None:
    next((own.tables / "flights").glob("*.parquet")).unlink()
    assert "1 of the 1 files of flights@0 are gone" in text(explain(own, Registry(), "latest"))
    assert "It cannot be read any more: 1 of its 1 files are gone" in text(explain(own, Registry(), "flights@0"))


def test_redacted_files_and_fast_searches_are_doubts(own: Store) -> None:
    files = {"conf/x.yaml": {"sha256": "a" * 64, "size": 1, "mode": "100644", "redacted": 2}}
    code = {"commit": COMMIT, "branch": "main", "files": files, "left_out": {}}
    made = records.read(own.runs / RUN).made | {"lost_trials": [3]}
    changed_record(own, code=code, config={"sweep": {"mode": "fast"}, "deploy": "none"}, made=made)
    said = text(explain(own, Registry(), "latest"))
    assert "with 1 changed file (conf/x.yaml). Secrets were taken out of 1 kept file (conf/x.yaml)." in said
    assert "- but secrets were taken out of 1 kept files" in said
    assert "- but it searched in fast mode" in said
    assert "- but the workers of 1 trials died (3)" in said


def test_a_damaged_file_is_named_and_its_facts_are_left_out(own: Store) -> None:
    record = records.read(own.runs / RUN)
    folder = own.root / next(stage.folder for stage in record.stages if stage.stage == "evaluate")
    file = folder / "evaluation.json"
    file.write_text(file.read_text().replace("0.4565", "0.0001"))
    found = explain(own, Registry(), "latest")
    assert "0.0001" not in text(found)
    assert found.facts["gates"] == []
    assert str(file) in found.facts["untold"][0]
    assert f"not told {file} differs from its digest" in text(found)


def test_the_story_of_a_snapshot(twice: Store) -> None:
    found = explain(twice, Registry(), "flights@0")
    said = text(found)
    assert said.startswith("Snapshot flights@0: 2 rows, digest rows1:2:")
    assert f"Run {RUN[:12]} made it on 2026-11-23 at 10:00:00 UTC, from a source with the fingerprint 555555555555." in said
    assert f"2 runs learned from it: {RUN[:12]} (2026-11-23, FINISHED), {SECOND[:12]} (2026-11-24, FINISHED)." in said
    assert "Model versions that came of it: flights/2." in said
    assert found.record is not None and found.record.run_id == RUN


def test_a_killed_run_made_its_snapshot_all_the_same(own: Store) -> None:
    changed_record(own, made={}, status="RUNNING", ended=None)
    assert f"Run {RUN[:12]} made it" in text(explain(own, Registry(), "flights@0"))
    said = text(explain(own, Registry(), "latest"))
    assert f"Run {RUN}: run of flights, KILLED." in said
    assert "Registered as flights/2, against champion flights/1; it passed its gates and was not released" in said


def test_the_story_of_a_version(own: Store) -> None:
    entry = {"name": "flights", "version": 2, "folder": "x", "digest": "y", "previous": {"name": "flights", "version": 1}}
    write_json(own.root / "releases.json", {"format": 1, "sequence": 3, "models": {"flights": entry}})
    found = explain(own, Registry(version(own, "candidate", "champion")), "flights@champion")
    said = text(found)
    assert said.startswith("Model version flights/2: candidate and champion; its gates said yes.")
    assert f"Run {RUN[:12]} made it on 2026-11-23" in said
    assert "the bundle lies in" in said
    assert "xgboost, trial 1 of 2" in said
    assert "It answers once the platform is up (raycycle up); it replaced flights/1. flights/2 was measured against flights/1." in said
    assert found.facts["aliases"] == ["candidate", "champion"]


def test_a_version_whose_bundle_changed_or_went_is_said(own: Store) -> None:
    registry = Registry(version(own))
    (registry.versions[0].folder / "bundle.json").write_text("other")
    assert "the bundle has another digest in" in text(explain(own, registry, "flights/2"))
    (registry.versions[0].folder / "bundle.json").unlink()
    assert "the bundle is gone from" in text(explain(own, registry, "flights/2"))


def test_with_tracking_down_a_version_is_told_from_the_records(ran: Store) -> None:
    said = text(explain(ran, Registry(down=True), "flights/2"))
    assert "Model version flights/2: aliases not known" in said
    assert "not told its aliases: tracking does not answer" in said
    with pytest.raises(TrackingDown):
        explain(ran, Registry(down=True), "flights/3")


def test_a_version_whose_run_is_gone_says_so(store: Store) -> None:
    said = text(explain(store, Registry(version(store)), "flights/2"))
    assert f"the record of run {RUN[:12]}, which made flights/2, is gone or damaged" in said


@pytest.mark.parametrize(
    "reference",
    ["..", "../x", "/etc", "/etc/passwd", "%2e%2e", "a#b", "a\0", "../flights@0", "..@0", "/etc@1", "%2e@1", "a#@0", "a\0@0", "../x/1",
     "..@champion", "%2e/1", "a\0/1", "a#/2", "", " ", "aa/../bb", "aa\n", "\x1b[2J", "flights@", "flights/x",
     "flights@99999999999999999999"],
)  # fmt: skip
def test_what_is_no_id_is_refused_and_nothing_is_read(ran: Store, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "open_snapshot", None)
    with pytest.raises(UsageError) as refused:
        explain(ran, Registry(), reference)
    assert refused.value.allowed


def test_what_is_not_there_is_refused_with_what_is_close(own: Store) -> None:
    recorded(own, "ab" * 16)
    with pytest.raises(UsageError, match="more than one run") as several:
        explain(own, Registry(), "a")
    assert set(several.value.allowed.split(", ")) == {RUN, "ab" * 16}
    with pytest.raises(UsageError, match="no run has this id"):
        explain(own, Registry(), "ff")
    with pytest.raises(UsageError, match="did you mean 'flights'"):
        explain(own, Registry(), "flighs@0")
    with pytest.raises(UsageError) as wrong:
        explain(own, Registry(), "flights@9")
    assert wrong.value.allowed == "flights@0"
    with pytest.raises(UsageError, match="did you mean 'flights@0'"):
        explain(own, Registry(), "flights0")


def test_latest_of_an_empty_store_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="no run yet"):
        explain(store, Registry(), "latest")


def test_a_damaged_record_that_is_asked_for_is_named(store: Store) -> None:
    (store.runs / RUN).mkdir()
    (store.runs / RUN / records.FILE).write_text("{")
    with pytest.raises(RaycycleError, match="damaged") as error:
        explain(store, Registry(), "aa")
    assert RUN in str(error.value.value)


def test_the_graph_joins_what_was_read_to_what_made_it(twice: Store) -> None:
    graph = lineage_graph.of_run(records.read(twice.runs / SECOND), {})
    assert set(graph.edges) == {
        *(("source", "ingest"), ("ingest", "prepare"), ("prepare", "sweep"), ("sweep", "evaluate"), ("prepare", "evaluate")),
        ("evaluate", "register"),
    }
    titles = {box.key: box.title for box in graph.boxes}
    assert titles["ingest"] == f"snapshot, kept from run {RUN[:12]}"
    assert titles["register"] == "version, ran in 0.1 s"


def test_the_graph_is_one_small_drawing_with_escaped_names(ran: Store) -> None:
    hostile = lineage_graph.of_run(records.read(ran.runs / RUN), {"sweep": "<script>alert(1)</script>&\x1b"})
    svg = lineage_graph.draw(hostile)
    found = ElementTree.fromstring(svg)
    assert svg == lineage_graph.draw(hostile)
    assert not [each for each in found.iter() if each.tag.endswith("script")]
    assert "prefers-color-scheme:dark" in svg
    assert len(svg) < 60_000
    assert svg.count("http") == 1  # the name space alone: nothing is loaded


def test_the_graph_is_written_into_the_folder_of_the_run(own: Store, tmp_path: Path) -> None:
    found = explain(own, Registry(), "latest")
    assert write_graph(own, found, None) == own.runs / RUN / "explain-run.svg"
    assert write_graph(own, found, tmp_path / "g.svg") == tmp_path / "g.svg"
    with pytest.raises(UsageError, match="folder of --graph"):
        write_graph(own, found, tmp_path / "new" / "g.svg")
    with pytest.raises(UsageError, match="SVG"):
        write_graph(own, found, tmp_path / "g.html")
    alone = explain(own, Registry(version(own, run_id="9" * 32)), "flights/2")
    assert write_graph(own, alone, None) is None


def test_the_command_keeps_its_own_fields_and_ends_with_the_graph(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(store)
    monkeypatch.setenv("RAYCYCLE_HOME", str(store.root))
    graph = str(store.runs / RUN / "explain-run.svg")
    told = CliRunner().invoke(app, ["explain", "aa"])
    assert (told.exit_code, told.stdout.splitlines()[-1]) == (0, graph)
    fields = json.loads(CliRunner().invoke(app, ["explain", "latest", "--json"]).stdout)
    assert (fields["verb"], fields["run_id"], fields["kind"], fields["graph"]) == ("explain", RUN, "run", graph)
    wrong = CliRunner().invoke(app, ["explain", "../" + RUN])
    assert (wrong.exit_code, wrong.stdout) == (2, "")


def test_a_certificate_of_another_record_is_none(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own.runs / RUN
    (folder / "certificate").mkdir()
    (folder / "certificate" / certificate.JSON_FILE).write_text("{}")
    said = SimpleNamespace(verdict="equal", made="2026-11-24", by="somebody", record_digest=of_file(folder / records.FILE))
    monkeypatch.setattr(certificate, "read", lambda folder, store: said)
    assert explain(own, Registry(), "latest").facts["reproduce"]["certificate"]["verdict"] == "equal"
    changed_record(own, seed=99)
    found = explain(own, Registry(), "latest").facts
    assert found["reproduce"]["certificate"] is None
    assert "of another record.json" in found["untold"][0]
