"""The stage cache: a result lies under the digest of all that it follows from, whole or not at all."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError
from ledger import digests
from ledger.stages import RECORD, Cause, Kept, StageCache, flat

CAUSE = Cause(
    stage="prepare",
    modules={"flows.prepare": "a1", "tables.encoder": "b2"},
    libraries={"numpy": "2.1.0", "python": "3.11.7"},
    config={"encode.max_levels": 250, "dataset.split.column": "month"},
    inputs={"snapshot": "rows1:9:ff"},
)
CHANGES: list[dict[str, Any]] = [
    {"stage": "sweep"},
    {"modules": {**CAUSE.modules, "tables.encoder": "b3"}},
    {"modules": {**CAUSE.modules, "tables.rules": "c1"}},
    {"libraries": {**CAUSE.libraries, "numpy": "2.2.0"}},
    {"config": {**CAUSE.config, "encode.max_levels": 251}},
    {"config": {**CAUSE.config, "encode.min_rows": 10}},
    {"inputs": {"snapshot": "rows1:9:fe"}},
    {"inputs": {"snapshot": None}},
    {"inputs": {**CAUSE.inputs, "other": "x"}},
]


def but(cause: Cause = CAUSE, **changed: Any) -> Cause:
    return msgspec.structs.replace(cause, **changed)


class Killed(BaseException):
    """The end of a process that runs no clean-up of its own."""


@pytest.fixture
def cache(store: Store) -> StageCache:
    return StageCache(store, "flights", lambda said: None)


def keep(cache: StageCache, cause: Cause = CAUSE, run_id: str = "r1", **files: str) -> Kept:
    with cache.making(cause) as lease, cache.publishing(cause, lease, run_id) as draft:
        for name, text in (files or {"answer": "42"}).items():
            (draft.folder / name).parent.mkdir(exist_ok=True)
            (draft.folder / name).write_text(text)
        (draft.folder / "parts").mkdir()
        (draft.folder / "parts" / "x.npy").write_bytes(b"\x00\x01")
        draft.outputs["rows"] = "d1"
        draft.seconds, draft.resources = 1.5, {"cpus": 2.0}
    return cache.made(cause)


@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: str(*changed))
def test_the_key_follows_from_each_part_of_the_cause(changed: dict[str, Any]) -> None:
    assert but(**changed).key != CAUSE.key


def test_the_key_follows_from_nothing_else() -> None:
    turned = Cause(
        stage=CAUSE.stage,
        modules=dict(reversed(CAUSE.modules.items())),
        libraries=dict(reversed(CAUSE.libraries.items())),
        config=dict(reversed(CAUSE.config.items())),
        inputs=dict(CAUSE.inputs),
    )
    assert turned.key == CAUSE.key
    assert len({CAUSE.key, *(but(**changed).key for changed in CHANGES)}) == len(CHANGES) + 1
    assert len(CAUSE.key) == 32


def test_what_changed_is_told_inputs_first_then_configuration_and_code() -> None:
    changed: dict[str, Any] = {
        "inputs": {"snapshot": "rows1:9:00", "other": "new"},
        "config": {**CAUSE.config, "encode.max_levels": 100, "encode.min_rows": 2},
        "modules": {**CAUSE.modules, "tables.encoder": "b3"},
        "libraries": {**CAUSE.libraries, "numpy": "2.2.0"},
    }
    told = {name: but(**{name: value}).difference(CAUSE) for name, value in changed.items()}
    assert told == {
        "inputs": "input other changed and 1 more",
        "config": "config encode.max_levels 250 -> 100 and 1 more",
        "modules": "code tables.encoder changed",
        "libraries": "library numpy 2.1.0 -> 2.2.0",
    }, "the first of each kind, by name"
    assert but(**changed).difference(CAUSE) == "; ".join([told["inputs"], told["config"], told["modules"]])
    assert but(inputs=changed["inputs"], libraries=changed["libraries"]).difference(CAUSE) == f"{told['inputs']}; {told['libraries']}"
    assert CAUSE.difference(CAUSE) == "nothing changed"
    assert but(config={**CAUSE.config, "seed": 1.0}).difference(but(config={**CAUSE.config, "seed": 1})) == "config seed 1 -> 1.0"
    assert but(config={"encode.max_levels": 250}).difference(CAUSE) == "config dataset.split.column month -> unset"
    assert but(config={**CAUSE.config, "sweep.folds": 3}).difference(CAUSE) == "config sweep.folds unset -> 3"


def test_a_long_value_is_told_in_short() -> None:
    told = but(config={**CAUSE.config, "dataset.split.column": "m" * 500}).difference(CAUSE)
    assert len(told) < 120
    assert told.endswith("…")


def test_a_cause_without_an_input_is_the_same_whatever_that_was() -> None:
    one, other = (but(inputs={"best": "b", "champion": digest}) for digest in ("c1", "c2"))
    assert one.but("champion") == other.but("champion") != one
    assert one.but("best") != other.but("best")


def test_what_was_published_is_found_verified_and_told(cache: StageCache, store: Store) -> None:
    assert cache.find(CAUSE) is None
    made = keep(cache)
    found = cache.find(CAUSE)
    assert found == made
    assert found is not None
    assert found.verified() is found
    record = found.record
    assert (record.run_id, record.outputs, record.seconds, record.resources) == ("r1", {"rows": "d1"}, 1.5, {"cpus": 2.0})
    assert record.cause == CAUSE
    assert record.files == {
        "answer": digests.of_file(found.folder / "answer"),
        "parts/x.npy": digests.of_file(found.folder / "parts/x.npy"),
    }
    assert found.folder == store.root / "cache" / "stages" / "flights" / "prepare" / CAUSE.key
    assert cache.find(but(stage="sweep")) is None
    assert StageCache(store, "taxi", print).find(CAUSE) is None


@pytest.mark.parametrize("damage", ["changed", "gone", "link"])
def test_a_file_that_is_not_as_it_was_kept_is_named(cache: StageCache, tmp_path: Path, damage: str) -> None:
    kept = keep(cache)
    file = kept.folder / "parts" / "x.npy"
    if damage == "changed":
        file.write_bytes(b"\x00\x02")
    else:
        file.rename(tmp_path / "elsewhere")
    if damage == "link":
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RaycycleError, match=r"x\.npy differs from its digest") as caught:
        kept.verified()
    assert "--from prepare" in caught.value.next
    assert kept.verified("answer") is kept, "only the parts that are asked for"
    with pytest.raises(RaycycleError):
        kept.verified("parts")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"stage": "prepare"}', "\udcff"])
def test_a_damaged_record_is_named(cache: StageCache, text: str) -> None:
    kept = keep(cache)
    (kept.folder / RECORD).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RaycycleError, match=RECORD):
        cache.find(CAUSE)


def test_an_edited_record_is_named(cache: StageCache) -> None:
    kept = keep(cache)
    plain = read_json(kept.folder / RECORD)
    write_json(kept.folder / RECORD, plain | {"outputs": {"answer": "0" * 64}})
    with pytest.raises(RaycycleError, match="another digest"):
        cache.find(CAUSE)


def test_a_record_of_another_version_is_named(cache: StageCache) -> None:
    kept = keep(cache)
    plain = read_json(kept.folder / RECORD)
    for changed in ({"format": 2}, {"more": 1}, {"files": {"answer": 1}}):
        write_json(kept.folder / RECORD, plain | changed)
        with pytest.raises(RaycycleError, match="no stage record of this version") as caught:
            cache.find(CAUSE)
        assert str(kept.folder) in caught.value.next


def test_why_a_result_is_not_there_is_told_against_the_newest_one(cache: StageCache) -> None:
    assert cache.why(CAUSE) == "no earlier result"
    keep(cache, but(inputs={"snapshot": "old"}))
    time.sleep(0.002)
    keep(cache)
    assert cache.why(but(config={**CAUSE.config, "encode.max_levels": 9})) == "config encode.max_levels 250 -> 9"
    assert cache.why(but(stage="sweep")) == "no earlier result"


def test_all_results_of_a_stage_are_listed_newest_first(cache: StageCache) -> None:
    for run in ("r1", "r2", "r3"):
        keep(cache, but(inputs={"snapshot": run}), run)
        time.sleep(0.002)
    cache.work(CAUSE)
    assert [kept.record.run_id for kept in cache.all("prepare")] == ["r3", "r2", "r1"]
    assert cache.all("sweep") == []


@pytest.mark.parametrize("crash", [RuntimeError, KeyboardInterrupt, Killed])
def test_a_crash_while_publishing_leaves_no_result(cache: StageCache, crash: type[BaseException]) -> None:
    cache.work(CAUSE)
    with pytest.raises(crash), cache.making(CAUSE) as lease, cache.publishing(CAUSE, lease, "r1") as draft:
        (draft.folder / "answer").write_text("4")
        raise crash
    assert cache.find(CAUSE) is None
    assert [file.name for file in cache.folder(CAUSE).parent.iterdir()] == [f"{CAUSE.key}.unfinished"], "what it has so far stays"
    assert keep(cache).verified()
    assert [file.name for file in cache.folder(CAUSE).parent.iterdir()] == [CAUSE.key]


def test_a_crash_leaves_the_earlier_result_as_it_was(cache: StageCache) -> None:
    first = keep(cache)
    with pytest.raises(RuntimeError), cache.making(CAUSE) as lease, cache.publishing(CAUSE, lease, "r2") as draft:
        (draft.folder / "answer").write_text("other")
        raise RuntimeError
    assert cache.find(CAUSE) == first
    assert first.verified()
    again = keep(cache, run_id="r3", answer="43")
    assert again.record.run_id == "r3"
    assert (again.folder / "answer").read_text() == "43"


def test_the_draft_of_a_killed_process_is_removed_by_the_next_one(cache: StageCache) -> None:
    draft = cache.folder(CAUSE).with_name(f".{CAUSE.key}.a1b2_c3d")
    draft.mkdir(parents=True)
    (draft / "answer").write_text("4")
    other = cache.folder(CAUSE).with_name(f".{CAUSE.key[:-1]}.a1b2_c3d")
    other.mkdir()
    assert cache.all("prepare") == []
    with cache.making(CAUSE):
        assert not draft.exists()
        assert other.exists()


def test_what_was_left_beside_a_whole_result_goes_when_that_is_found(cache: StageCache) -> None:
    kept = keep(cache)
    left = [cache.work(CAUSE), kept.folder.with_name(f".{CAUSE.key}.a1b2_c3d")]
    left[1].mkdir()
    with cache.making(CAUSE):
        left[1].mkdir()
        assert cache.find(CAUSE) == kept
        assert all(folder.exists() for folder in left), "somebody makes it anew, and needs them"
    assert cache.find(CAUSE) == kept
    assert not any(folder.exists() for folder in left)


def test_a_lease_that_was_lost_publishes_nothing(cache: StageCache, store: Store) -> None:
    with pytest.raises(RaycycleError, match="taken this work over"), cache.making(CAUSE) as lease:
        newer = read_json(lease.file) | {"number": lease.number + 1, "token": "another"}
        write_json(lease.file, newer)
        with cache.publishing(CAUSE, lease, "r1") as draft:
            (draft.folder / "answer").write_text("late")
    assert cache.find(CAUSE) is None
    assert not list(cache.folder(CAUSE).parent.glob(".*"))


def test_a_result_that_was_removed_in_between_is_told(cache: StageCache) -> None:
    kept = keep(cache)
    shutil.rmtree(kept.folder)
    with pytest.raises(RaycycleError, match="is gone"):
        cache.made(CAUSE)


def test_flat_keeps_the_keys_that_begin_with_a_prefix() -> None:
    config = {"encode": {"max_levels": 5}, "encoder": {"x": 1}, "gates": {"a": {}, "b": {"at": [1, 2]}}, "seed": 0, "plugins": []}
    assert flat(config, ("encode", "gates", "seed")) == {"encode.max_levels": 5, "gates.a": {}, "gates.b.at": [1, 2], "seed": 0}
    assert flat(config, ("gates.b",)) == {"gates.b.at": [1, 2]}
    assert flat(config, ("plugins", "nothing")) == {"plugins": []}
    assert flat({}, ("a",)) == {}
