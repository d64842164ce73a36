"""Which versions stay: what somebody uses or may use, and the newest; the rest goes, and nothing that a kept version names."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from cluster.store import Store
from conf.errors import UsageError
from tables import log, retention, snapshots
from tables.retention import Use, retained


def version(number: int, vacuumed: str | None = None) -> log.Version:
    return log.Version(number, "replace", "2026-11-24T10:00:00+00:00", None, vacuumed)


VERSIONS = [version(3), version(2), version(1), version(0, "2026-11-20T10:00:00+00:00")]


def test_the_newest_and_the_used_stay_each_with_its_reasons() -> None:
    uses = [Use("model flights/7", 1), Use("live flights/7", 1), Use("run ab (running)", 3), Use("model flights/1", 0), Use("run x", 9)]
    assert retained(VERSIONS, uses, 1) == {3: ("newest", "run ab (running)"), 1: ("model flights/7", "live flights/7")}
    assert retained(VERSIONS, [], 2) == {3: ("newest",), 2: ("newest",)}
    assert list(retained(VERSIONS, [], 50)) == [3, 2, 1]


def test_who_may_use_any_version_keeps_them_all() -> None:
    kept = retained(VERSIONS, [Use("run ab (running)", None)], 1)
    assert list(kept) == [3, 2, 1] and kept[1] == ("run ab (running), whose version is not known",)


def test_the_newest_is_always_kept() -> None:
    with pytest.raises(UsageError, match="newest version is always kept"):
        retained(VERSIONS, [], 0)


def commit(store: Store, numbers: list[int], mode: Any = "replace") -> snapshots.Snapshot:
    rows = pa.table({"n": numbers})
    part = snapshots.write_part(snapshots.table_folder(store, "t"), rows)
    return snapshots.commit(store, "t", rows.schema, [part], mode)


def test_a_used_version_between_removed_ones_can_be_read(store: Store) -> None:
    made = [commit(store, [n, n]) for n in range(4)]
    kept = retention.vacuum(store, "t", lambda versions: retained(versions, [Use("model t/1", 1)], 1), dry_run=False)
    assert (kept.gone, len(kept.files)) == ((2, 0), 2) and kept.kept == {3: ("newest",), 1: ("model t/1",)}
    assert snapshots.open_snapshot(store, "t", 1) == made[1]
    assert snapshots.read(made[1].files[0])["n"].to_pylist() == [1, 1] and made[3].files[0].content()


def test_the_latest_stays_even_if_it_is_asked_for_nothing(store: Store) -> None:
    made = commit(store, [1])
    assert retention.vacuum(store, "t", lambda versions: {}, dry_run=False).gone == ()
    assert snapshots.open_snapshot(store, "t") == made and made.files[0].content()


def test_a_file_that_is_not_ours_is_left_alone(store: Store) -> None:
    made = commit(store, [1])
    commit(store, [2])
    for name in ("notes.txt", "part-mine.parquet"):
        (made.folder / name).write_bytes(b"mine")
    retention.vacuum(store, "t", lambda versions: {}, dry_run=False)
    left = {each.name for each in snapshots.open_snapshot(store, "t").files} | {"notes.txt", "part-mine.parquet"}
    assert {file.name for file in log.listed(made.folder)} == left


def test_what_is_young_is_kept_for_its_readers(store: Store) -> None:
    commit(store, [1])
    commit(store, [2])
    seen = retention.vacuum(store, "t", lambda versions: {1: ("newest",)}, safe_age_s=3_600)
    assert seen.gone == () and seen.kept[0] == ("was the latest less than 1 hours ago",)


def test_a_table_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(UsageError, match="no such table"):
        retention.vacuum(store, "t", lambda versions: {})


def test_a_vacuum_waits_for_an_ingest_of_the_table(store: Store) -> None:
    from ledger import locks

    commit(store, [1])
    with locks.lease(store, "table-t", lambda text: None), locks.unless_held(store, "table-t") as free:
        assert not free
    asked: list[bool] = []

    def keep(versions: Any) -> Any:
        with locks.unless_held(store, "table-t") as free:
            asked.append(free)
        return {}

    retention.vacuum(store, "t", keep, dry_run=False)
    assert asked == [False]
