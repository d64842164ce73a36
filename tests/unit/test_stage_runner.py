"""A stage of a run: made once, then taken from the cache, and told either way."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flows.stages
from cluster.progress import Progress
from cluster.store import Store
from conf.errors import RaycycleError
from flows.plan import Reuse
from flows.stages import Place, Result, Stages
from ledger import digests, records
from ledger.code import UsedCode
from ledger.records import Record
from ledger.stages import RECORD, Cause, Kept


@dataclass(frozen=True)
class Answer:
    """What the made-up stage makes."""

    text: str

    def save(self, folder: Path) -> dict[str, str]:
        (folder / "answer.txt").write_text(self.text)
        return {"answer": digests.of_value(self.text)}

    @classmethod
    def load(cls, folder: Path) -> Answer:
        return cls((folder / "answer.txt").read_text())


@dataclass
class Run:
    """A run in a store; `made` are the places where a stage was really made, `met` how often Ray was."""

    store: Store
    run_id: str
    stages: Stages
    made: list[Place] = field(default_factory=list)
    met: list[int] = field(default_factory=list)

    @property
    def record(self) -> Record:
        return records.read(self.store.runs / self.run_id)

    @property
    def said(self) -> str:
        return self.stages.progress.out.getvalue()  # type: ignore[attr-defined, no-any-return]

    def answer(self, text: str = "42", stage: str = "prepare", source: str | None = "s1", **more: Any) -> Result[Answer]:
        def make(place: Place) -> Answer:
            self.made.append(place)
            return Answer(text)

        return self.stages.run(stage, {"source": source}, make, Answer.load, **more)


@pytest.fixture
def start(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    ray = SimpleNamespace(nodes=list, cluster_resources=lambda: {"CPU": 2.0})
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    monkeypatch.setattr(flows.stages, "connect", lambda *place, **more: contextlib.nullcontext())
    monkeypatch.setattr(flows.stages, "used_by", lambda roots, plugins, memo: UsedCode(dict.fromkeys(roots, "1"), {"python": "3.11.7"}))
    monkeypatch.setattr(flows.stages, "refuse_shared_sqlite", lambda *asked: None)

    def run(reuse: Reuse = Reuse(), **config: Any) -> Run:  # noqa: B008
        number = len(list(store.runs.iterdir())) + 1
        run_id = f"{number:02d}" * 16
        plain = {"encode": {"max_levels": 250}, "seed": 0} | config
        plan: Any = SimpleNamespace(
            config=SimpleNamespace(plugins=[], dataset=SimpleNamespace(name="flights"), cluster=SimpleNamespace(address=None, cpus=None)),
            deploys=False,
            composed=SimpleNamespace(plain=plain),
            contract=SimpleNamespace(dump=lambda: "name: flights\n"),
            reuse=reuse,
            code_of=lambda stage: [f"flows.{stage}"],
        )
        record = Record(
            run_id=run_id, verb="run", dataset="flights", status="RUNNING", started=f"2026-01-01T00:00:{number:02d}+00:00", ended=None,
            seed=0, until="report", config=plain, typed=[], contract="", code={}, pack="", environment={}, stages=[],
        )  # fmt: skip
        records.write(record, store.runs / run_id)
        made = Run(store, run_id, None)  # type: ignore[arg-type]
        progress = Progress(io.StringIO())
        made.stages = Stages(plan, store, progress, record, store.runs / run_id, "sqlite:///none", lambda: made.met.append(1))
        return made

    return run


def test_a_stage_runs_once_and_is_then_kept_with_the_reason(start: Callable[..., Run]) -> None:
    first, second = start(), start()
    made = first.answer()
    kept = second.answer("another")
    assert (len(first.made), len(second.made)) == (1, 0)
    assert made.value == kept.value == Answer("42")
    assert made.folder == kept.folder
    assert kept.outputs == {"answer": digests.of_value("42")}
    assert (len(first.met), len(second.met)) == (1, 0), "Ray is not met for what is kept"
    ran, taken = first.record.stage("prepare"), second.record.stage("prepare")
    assert ran is not None
    assert taken is not None
    assert (ran.ran, ran.why, ran.made_by) == (True, "no earlier result", first.run_id)
    assert (taken.ran, taken.why, taken.made_by) == (False, f"unchanged since run {first.run_id[:12]}", first.run_id)
    assert ran.key == taken.key == kept.folder.name
    assert ran.outputs == taken.outputs == kept.outputs
    assert ran.inputs == {"source": "s1"}
    assert first.store.root / ran.folder == kept.folder
    assert ran.resources["cpus"] == 2.0
    assert "prepare   unchanged since run" in second.said


def test_ray_is_met_once_for_all_stages_of_a_run(start: Callable[..., Run]) -> None:
    run = start()
    run.answer()
    run.answer(stage="sweep")
    assert run.met == [1]
    assert [stage.stage for stage in run.record.stages] == ["prepare", "sweep"]


@pytest.mark.parametrize(
    ("config", "source", "why"),
    [
        ({"encode": {"max_levels": 9}}, "s1", "config encode.max_levels 250 -> 9"),
        ({}, "s2", "input source changed"),
        ({"encode": {"max_levels": 9}}, "s2", "input source changed; config encode.max_levels 250 -> 9"),
    ],
)
def test_what_changed_makes_the_stage_run_and_is_told(start: Callable[..., Run], config: dict[str, Any], source: str, why: str) -> None:
    start().answer()
    run = start(**config)
    assert run.answer("43", source=source).value == Answer("43")
    assert f"prepare   runs: {why}" in run.said
    stage = run.record.stage("prepare")
    assert stage is not None
    assert (stage.ran, stage.why) == (True, why)


def test_a_key_that_the_stage_does_not_read_changes_nothing(start: Callable[..., Run]) -> None:
    start().answer()
    run = start(seed=5, deploy="none")
    run.answer()
    assert run.made == []


@pytest.mark.parametrize(
    ("reuse", "made", "why"),
    [
        (Reuse(cache=False), ["ingest", "prepare", "sweep"], "asked for by --no-cache"),
        (Reuse(start="prepare"), ["prepare", "sweep"], "asked for by --from prepare"),
        (Reuse(start="evaluate"), [], ""),
    ],
)
def test_what_is_not_to_be_reused_is_made_again(start: Callable[..., Run], reuse: Reuse, made: list[str], why: str) -> None:
    first, run = start(), start(reuse)
    for stage in ("ingest", "prepare", "sweep"):
        first.answer(stage=stage)
        run.answer("again", stage=stage)
    assert [stage.stage for stage in run.record.stages if stage.ran] == made
    assert {stage.why for stage in run.record.stages if stage.ran} == ({why} if why else set())
    assert start().answer(stage="ingest").value == Answer("again" if "ingest" in made else "42"), "the newest result is the one that counts"


def test_an_input_that_cannot_be_known_is_never_the_same_twice(start: Callable[..., Run]) -> None:
    start().answer(source=None)
    run = start()
    assert run.answer("43", source=None).value == Answer("43")
    stage = run.record.stage("prepare")
    assert stage is not None
    assert (stage.ran, stage.why) == (True, "whether source changed cannot be known")


def test_a_result_that_is_the_same_may_stand_in(start: Callable[..., Run]) -> None:
    first, run = start(), start()
    first.answer("42", source="s1")
    asked: list[Cause] = []

    def same(cause: Cause) -> Kept | None:
        asked.append(cause)
        return next(iter(run.stages.cache.all("prepare")), None)

    assert run.answer(source="s2", same=same).value == Answer("42")
    assert run.made == []
    assert asked[0].inputs == {"source": "s2"}
    stage = run.record.stage("prepare")
    assert stage is not None
    assert (stage.ran, stage.made_by, stage.inputs) == (False, first.run_id, {"source": "s1"})
    again = start(Reuse(cache=False))
    asked.clear()
    assert again.answer("43", source="s2", same=same).value == Answer("43")
    assert asked == [], "it does not stand in where nothing is to be reused"


@pytest.mark.parametrize("failure", [RaycycleError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_stage_that_fails_leaves_nothing_and_the_record_has_no_result_of_it(start: Callable[..., Run], failure: BaseException) -> None:
    run = start()

    def make(place: Place) -> Answer:
        (place.folder / "half").write_text("half")
        (place.work / "so far").write_text("1")
        raise failure

    run.answer(stage="ingest")
    with pytest.raises(type(failure)):
        run.stages.run("prepare", {"source": "s1"}, make, Answer.load)
    assert [stage.stage for stage in run.record.stages] == ["ingest"]
    assert run.stages.cache.all("prepare") == []
    (left,) = (run.store.root / "cache" / "stages" / "flights" / "prepare").iterdir()
    assert [file.name for file in left.iterdir()] == ["so far"], "the work folder is for the next try"
    second = start()

    def go_on(place: Place) -> Answer:
        return Answer((place.work / "so far").read_text())

    assert second.stages.run("prepare", {"source": "s1"}, go_on, Answer.load).value == Answer("1")
    assert not left.exists()


def test_a_result_that_cannot_be_saved_leaves_nothing(start: Callable[..., Run]) -> None:
    class Broken(Answer):
        def save(self, folder: Path) -> dict[str, str]:
            super().save(folder)
            raise OSError("disk full")

    run = start()
    with pytest.raises(OSError, match="disk full"):
        run.stages.run("prepare", {"source": "s1"}, lambda place: Broken("42"), Answer.load)
    assert run.stages.cache.all("prepare") == []
    assert run.record.stages == []


def test_a_kept_result_is_verified_when_it_is_read_and_not_before(start: Callable[..., Run]) -> None:
    kept = start().answer()
    (kept.folder / "answer.txt").write_text("43")
    result = start().answer()
    assert result.outputs == {"answer": digests.of_value("42")}
    with pytest.raises(RaycycleError, match=r"answer\.txt differs from its digest"):
        _ = result.value


def test_what_another_process_made_meanwhile_is_taken(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    first, run = start(), start()
    looked: list[bool] = []
    find = run.stages.cache.find

    def late(cause: Cause) -> Kept | None:
        looked.append(True)
        if len(looked) == 1:
            first.answer()
            return None
        return find(cause)

    monkeypatch.setattr(run.stages.cache, "find", late)
    assert run.answer("another").value == Answer("42")
    assert run.made == []
    stage = run.record.stage("prepare")
    assert stage is not None
    assert (stage.ran, stage.made_by) == (False, first.run_id)


def test_a_stage_notes_what_it_worked_with(start: Callable[..., Run]) -> None:
    run = start()

    def make(place: Place) -> Answer:
        place.resources["workers"] = 3.0
        return Answer("42")

    kept = Kept.read(run.stages.run("prepare", {}, make, Answer.load).folder)
    assert kept is not None
    assert kept.record.resources["workers"] == 3.0
    assert kept.record.resources["driver_cpu_s"] >= 0
    assert (kept.folder / RECORD).is_file()


def test_a_stage_that_acts_on_the_world_is_recorded_but_not_kept(start: Callable[..., Run]) -> None:
    run = start()
    run.stages.act("register", "flights/4", 1.23456, {"model": "d1"})
    (stage,) = run.record.stages
    assert (stage.stage, stage.ran, stage.why, stage.seconds, stage.key) == ("register", True, "flights/4", 1.235, "")
    assert run.stages.cache.all("register") == []


def test_only_the_result_that_was_asked_for_is_taken(start: Callable[..., Run]) -> None:
    run = start()
    results = [run.answer(text, source=text) for text in ("a", "b")]
    assert len({result.folder for result in results}) == 2
    again = start()
    assert [again.answer("x", source=text).value.text for text in ("b", "a")] == ["b", "a"]
    assert dataclasses.asdict(results[0].value) == {"text": "a"}


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"sweep": {"metric": "brier"}}, {"dataset": {"name": "flights", "source": {"delimiter": ";"}}}],
    ids=lambda changed: next(iter(changed)),
)
def test_an_evaluation_is_another_one_where_its_intervals_metric_or_reading_are(start: Callable[..., Run], changed: dict[str, Any]) -> None:
    """The best trial may be the same whatever the seed, the metric and the delimiter were."""
    config = {"seed": 0, "sweep": {"metric": None}, "dataset": {"name": "flights", "source": {"delimiter": ","}}}
    inputs = {"best": "b", "champion": "none"}
    base, again, other = (start(**each).stages.cause("evaluate", inputs) for each in (config, config, config | changed))
    assert base.key == again.key
    assert base.key != other.key
