"""Snapshots: versions that stay, the same rows are the same version, nothing half written is seen."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from tables import snapshots
from tables.rows import TableDigest

ROWS = pa.table({"n": [1, 2, 3, 4], "t": ["a", None, "ü", "a"]})


def commit(store: Store, *tables: pa.Table) -> snapshots.Snapshot:
    parts = [snapshots.write_part(snapshots.table_folder(store, "t"), table) for table in tables]
    return snapshots.commit(store, "t", tables[0].schema, parts)


def read(snapshot: snapshots.Snapshot) -> pa.Table:
    return pa.concat_tables([snapshots.read(file) for file in snapshot.files]).sort_by("n")


def test_a_snapshot_holds_its_rows_and_their_digest(store: Store) -> None:
    made = commit(store, ROWS.slice(0, 3), ROWS.slice(3))
    assert (made.version, made.rows, len(made.files), str(made)) == (0, 4, 2, "t@0")
    assert made.digest == TableDigest.of(ROWS)
    assert read(made).equals(ROWS)


def test_an_old_version_stays_what_it_was(store: Store) -> None:
    first = commit(store, ROWS)
    second = commit(store, ROWS.slice(0, 2))
    assert (first.version, second.version) == (0, 1)
    assert snapshots.open_snapshot(store, "t") == second
    assert snapshots.open_snapshot(store, "t", 0) == first
    assert read(snapshots.open_snapshot(store, "t", 0)).equals(ROWS)
    assert read(second).equals(ROWS.slice(0, 2))


def test_the_same_rows_in_other_files_and_order_are_the_same_version(store: Store) -> None:
    first = commit(store, ROWS)
    again = commit(store, ROWS.slice(2), ROWS.slice(0, 2))
    assert again == first
    assert sorted(file.name for file in first.folder.glob("*.parquet")) == [file.name for file in first.files]


def test_one_changed_cell_or_another_type_is_another_version(store: Store) -> None:
    commit(store, ROWS)
    assert commit(store, ROWS.set_column(1, "t", pa.array(["a", None, "ü", "b"]))).version == 1
    small = ROWS.set_column(0, "n", ROWS.column("n").cast(pa.int32())).set_column(1, "t", pa.array(["a", None, "ü", "b"]))
    assert commit(store, small).version == 2


def test_a_part_is_invisible_until_it_is_committed_and_can_be_discarded(store: Store) -> None:
    made = commit(store, ROWS)
    part = snapshots.write_part(made.folder, ROWS)
    assert snapshots.open_snapshot(store, "t") == made
    snapshots.discard(store, "t", [part])
    assert not (made.folder / part.path).exists()
    assert read(made).equals(ROWS)


def test_a_part_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table: pa.Table, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(RaycycleError, match="No space left"):
        snapshots.write_part(tmp_path, ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [None, 7])
def test_what_is_not_there_says_how_to_make_it(store: Store, version: int | None) -> None:
    if version is not None:
        commit(store, ROWS)
    with pytest.raises(UsageError, match="no snapshot") as caught:
        snapshots.open_snapshot(store, "t", version)
    assert "--until ingest" in caught.value.next


@pytest.mark.parametrize("name", ["../t", "a/b", "", ".hidden", "a\x00"])
def test_names_that_lead_elsewhere_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="name is not usable"):
        snapshots.open_snapshot(store, name)


def test_a_reader_takes_the_columns_and_rows_it_asks_for(store: Store) -> None:
    import pyarrow.compute as pc

    (file,) = commit(store, ROWS).files
    assert snapshots.read(file, ["t"], pc.field("n") > 2).to_pylist() == [{"t": "ü"}, {"t": "a"}]
