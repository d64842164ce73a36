"""Snapshots: versions that stay, the same rows are the same version, nothing half written is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from tables import snapshots
from tables.rows import TableDigest

ROWS = pa.table({"n": [1, 2, 3, 4], "t": ["a", None, "ü", "a"]})
PART = snapshots.Part("part-x.parquet", 0, TableDigest())


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


@pytest.mark.parametrize(
    "name",
    [
        "../t",
        "a/b",
        "",
        ".hidden",
        "a\x00",
        "..",
        "a..b",
        "%2e%2e",
        "t%2f..%2fu",
        "t#u",
        "/tmp/t",
        "file:///tmp/t",
        "t?versionId=1",
        "a\\b",
    ],
)
def test_names_that_lead_elsewhere_are_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="name is not usable"):
        snapshots.open_snapshot(store, name)
    with pytest.raises(UsageError, match="name is not usable"):
        snapshots.commit(store, name, ROWS.schema, [])


def test_a_table_that_is_a_link_out_of_the_store_is_refused(store: Store, tmp_path: Path) -> None:
    made = commit(store, ROWS)
    made.folder.rename(tmp_path / "elsewhere")
    made.folder.symlink_to(tmp_path / "elsewhere")
    for act in (lambda: snapshots.open_snapshot(store, "t"), lambda: commit(store, ROWS), lambda: snapshots.discard(store, "t", [PART])):
        with pytest.raises(UsageError, match="out of the store"):
            act()
    assert len(list((tmp_path / "elsewhere").glob("*.parquet"))) == 1


def test_a_store_that_is_itself_a_link_is_fine(store: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.root)
    made = commit(Store.open(tmp_path / "link"), ROWS)
    assert read(made).equals(ROWS) and snapshots.open_snapshot(store, "t").digest == made.digest


def test_files_carry_the_digest_of_their_bytes(store: Store) -> None:
    part = snapshots.write_part(snapshots.table_folder(store, "t"), ROWS)
    made = snapshots.commit(store, "t", ROWS.schema, [part])
    (file,) = made.files
    assert file.sha256 == part.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert made.paths == (made.folder / part.path,) and file.name == part.path
    other = snapshots.write_part(made.folder, ROWS.slice(1))
    again = snapshots.commit(store, "t", ROWS.schema, [replace(other, sha256="")])
    assert again.files[0].sha256 == other.sha256


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("harm", "said"), [(cut, "SHA-256"), (flip, "SHA-256"), (Path.unlink, "No such file")])
def test_a_damaged_file_is_named_and_the_same_rows_again_mend_it(store: Store, harm: Callable[[Path], None], said: str) -> None:
    made = commit(store, ROWS)
    (file,) = made.files
    harm(file.path)
    with pytest.raises(RaycycleError, match=said) as caught:
        snapshots.read(file)
    assert str(file.path) in str(caught.value) and "ingest again" in caught.value.next
    if said == "SHA-256":
        assert file.sha256 in caught.value.what and hashlib.sha256(file.path.read_bytes()).hexdigest() in caught.value.what
    again = commit(store, ROWS)
    assert again.version == 1 and again.digest == made.digest
    assert read(again).equals(ROWS)


def rewrite_log(snapshot: snapshots.Snapshot, change: Callable[[dict[str, str]], object]) -> None:
    log = snapshot.folder / "_delta_log" / f"{snapshot.version:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "commitInfo" in action:
            change(action["commitInfo"])
    log.write_text("\n".join(map(json.dumps, actions)))


def test_a_version_from_before_file_digests_is_read_without_the_check(store: Store) -> None:
    made = commit(store, ROWS)
    rewrite_log(made, lambda info: info.pop("raycycle.files"))
    old = snapshots.open_snapshot(store, "t")
    assert old.files[0].sha256 == "" and read(old).equals(ROWS)
    assert commit(store, ROWS) == old
    cut(old.paths[0])
    with pytest.raises(RaycycleError, match="damaged"):
        snapshots.read(old.files[0])


@pytest.mark.parametrize(
    "change", [lambda info: info.pop("raycycle.digest"), lambda info: info.update({"raycycle.files": '{"other.parquet": ""}'})]
)
def test_a_version_that_others_wrote_is_refused_and_written_over(store: Store, change: Callable[[dict[str, str]], object]) -> None:
    rewrite_log(commit(store, ROWS), change)
    with pytest.raises(RaycycleError, match="not written by raycycle"):
        snapshots.open_snapshot(store, "t")
    assert commit(store, ROWS).version == 1


def test_a_wrong_question_to_a_whole_file_is_no_damage(store: Store) -> None:
    import pyarrow.compute as pc

    with pytest.raises(pa.ArrowInvalid):
        snapshots.read(commit(store, ROWS).files[0], where=pc.field("none") > 2)


def test_a_reader_takes_the_columns_and_rows_it_asks_for(store: Store) -> None:
    import pyarrow.compute as pc

    (file,) = commit(store, ROWS).files
    assert snapshots.read(file, ["t"], pc.field("n") > 2).to_pylist() == [{"t": "ü"}, {"t": "a"}]
