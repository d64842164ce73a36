"""A run that was killed goes on to the same result, and commands side by side share the work.  `make chaos` kills many more."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from chaos.experiment import Command, Experiment, Truth, nobody_left, nothing_half_done, outputs, runs_in_tracking
from chaos.kills import Moment, Reference, Story, survive, undisturbed

from cluster.store import Store, drop_drafts
from ledger import records, stages
from ledger.stages import Cause, StageCache
from tables import snapshots

CAUSE = Cause(stage="prepare", modules={}, libraries={}, config={}, inputs={})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment.make(tmp_path_factory.mktemp("resume") / "home")


@pytest.fixture(scope="module")
def reference(experiment: Experiment) -> Reference:
    return undisturbed(experiment)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("number", "moment"),
    enumerate([Moment("driver", "evaluate", 0.5), Moment("worker", "sweep", 0.5), Moment("raylet", "prepare", 0.5)]),
    ids=lambda value: value.victim if isinstance(value, Moment) else "",
)
def test_a_killed_run_ends_like_an_undisturbed_one(experiment: Experiment, reference: Reference, number: int, moment: Moment) -> None:
    story = Story(moment, number=number)
    survive(experiment, reference, story)
    assert story.killed != Story(moment).killed, story.line()


@pytest.mark.timeout(900)
def test_two_identical_commands_share_the_work_and_another_seed_is_in_nobodys_way(experiment: Experiment, reference: Reference) -> None:
    with experiment.store("together") as store:
        commands = [experiment.start(store), experiment.start(store), experiment.start(store, "seed=7")]
        try:
            found = [records.find(store, command.answer()["run_id"])[0] for command in commands]
            nobody_left(store, commands)
            _learned_once(*found[:2])
            assert outputs(found[0]) == outputs(found[1]) == reference.truth.outputs
            assert found[2].stages[2].outputs != found[0].stages[2].outputs
            assert Truth.of(store, found[0].run_id) == reference.truth
            nothing_half_done(store)
            assert runs_in_tracking(store) == {record.run_id: "FINISHED" for record in found}
        finally:
            _end(commands)


def _learned_once(one: records.Record, other: records.Record) -> None:
    """Of two runs of the same, each stage that is kept ran in one of them at most: a third may have been quicker with the first two."""
    for mine, theirs in zip(one.stages, other.stages, strict=True):
        if mine.key:
            assert not (mine.ran and theirs.ran and mine.key == theirs.key), mine.stage
            assert mine.made_by == theirs.made_by or mine.stage == "report"


def _end(commands: list[Command]) -> None:
    for command in commands:
        command.end()


HOLDER = """
import sys
from pathlib import Path
from cluster.store import Store, write_atomic
from conf.errors import RaycycleError
from ledger.stages import Cause, StageCache
cache = StageCache(Store.open(sys.argv[1]), "people", print)
cause = Cause(stage="prepare", modules={}, libraries={}, config={}, inputs={})
try:
    with cache.making(cause) as lease, cache.publishing(cause, lease, sys.argv[2]) as draft:
        (draft.folder / "result.txt").write_text(sys.argv[2])
        print("made", flush=True)
        sys.stdin.readline()
except RaycycleError as error:
    sys.exit(str(error))
"""


def _holder(store: Store, name: str) -> subprocess.Popen[str]:
    """A process that makes a result and publishes it when it is told to."""
    words = [sys.executable, "-c", HOLDER, str(store.root), name]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=Path(stages.__file__).parents[1])
    assert process.stdout
    assert process.stdout.readline() == "made\n"
    return process


@pytest.mark.parametrize("lost", ["*.lock", "*"], ids=["lock", "lock and number"])
def test_who_lost_a_lock_without_knowing_publishes_nothing(store: Store, lost: str) -> None:
    first = _holder(store, "first")
    os.kill(first.pid, signal.SIGSTOP)
    for file in store.locks.glob(f"stage-{CAUSE.key}{lost}"):
        file.unlink()
    second = _holder(store, "second")
    assert second.communicate("\n", timeout=60)[1] == ""
    os.kill(first.pid, signal.SIGCONT)
    said = first.communicate("\n", timeout=60)[1]
    assert (first.returncode, second.returncode) == (1, 0)
    assert "another process has taken this work over" in said
    cache = StageCache(store, "people", print)
    assert (cache.made(CAUSE).verified().folder / "result.txt").read_text() == "second"
    assert [kept.record.run_id for kept in cache.all("prepare")] == ["second"]
    assert list(cache.folder(CAUSE).parent.iterdir()) == [cache.folder(CAUSE)]


def test_parts_that_no_version_names_are_removed_and_old_versions_stay_readable(store: Store) -> None:
    folder = snapshots.table_folder(store, "people")
    tables = [pa.table({"n": [n, n + 1]}) for n in range(3)]
    for table in tables:
        snapshots.commit(store, "people", table.schema, [snapshots.write_part(folder, table)])
    orphan = snapshots.write_part(folder, tables[0])
    foreign = folder / "part-00000-somebody.parquet"
    foreign.write_bytes(b"not ours")
    assert snapshots.drop_orphans(store, "people") == 1
    assert not (folder / orphan.path).exists()
    assert foreign.exists()
    for version, table in enumerate(tables):
        found = snapshots.open_snapshot(store, "people", version)
        assert [snapshots.read(file) for file in found.files] == [table]


def test_parts_stay_that_only_a_checkpoint_of_the_table_tells_of(store: Store) -> None:
    from deltalake import DeltaTable

    folder = snapshots.table_folder(store, "people")
    for n in range(3):
        table = pa.table({"n": [n]})
        snapshots.commit(store, "people", table.schema, [snapshots.write_part(folder, table)])
    DeltaTable(str(folder)).create_checkpoint()
    for version in (0, 1):  # as Delta clears away its old commits
        (folder / "_delta_log" / f"{version:020}.json").unlink()
    assert snapshots.drop_orphans(store, "people") == 0
    assert [snapshots.read(file)["n"].to_pylist() for file in snapshots.open_snapshot(store, "people").files] == [[2]]


def test_what_a_process_left_that_died_just_after_it_published_goes_when_the_result_is_found(store: Store) -> None:
    cache = StageCache(store, "people", print)
    with cache.making(CAUSE) as lease, cache.publishing(CAUSE, lease, "one") as draft:
        (draft.folder / "result.txt").write_text("1")
    left = [cache.work(CAUSE), cache.folder(CAUSE).with_name(f".{CAUSE.key}.abcd_123")]
    left[1].mkdir()
    with cache.making(CAUSE):
        left[1].mkdir()
        assert cache.find(CAUSE)
        assert [path.exists() for path in left] == [True, True], "somebody makes it anew"
    assert cache.find(CAUSE)
    assert [path.exists() for path in left] == [False, False]


def test_drafts_of_another_name_that_begins_alike_are_left(tmp_path: Path) -> None:
    for name in (".a.abcd_123", ".a.b.abcd_123", ".ab.abcd_123", "a"):
        (tmp_path / name).mkdir()
    drop_drafts(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.b.abcd_123", ".ab.abcd_123", "a"]


class _Backwards(dt.datetime):
    """A clock that is an hour earlier each time it is asked."""

    hours = 0

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        cls.hours += 1
        return dt.datetime(2026, 3, 1, tzinfo=tz) - dt.timedelta(hours=cls.hours)


def test_a_clock_that_goes_backwards_hides_no_result(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "dt", SimpleNamespace(datetime=_Backwards, UTC=dt.UTC))
    cache = StageCache(store, "people", print)
    causes = [Cause(stage="prepare", modules={}, libraries={}, config={"n": n}, inputs={}) for n in range(3)]
    for number, cause in enumerate(causes):
        with cache.making(cause) as lease, cache.publishing(cause, lease, str(number)) as draft:
            (draft.folder / "result.txt").write_text(str(number))
    assert {kept.record.run_id for kept in cache.all("prepare")} == {"0", "1", "2"}
    assert [cache.made(cause).verified().record.run_id for cause in causes] == ["0", "1", "2"]
    assert min(kept.record.seconds for kept in cache.all("prepare")) >= 0
    other = Cause(stage="prepare", modules={}, libraries={}, config={"n": 9}, inputs={})
    assert cache.why(other) == "config n 0 -> 9", "the earliest is taken for the newest: that misleads, and breaks nothing"
