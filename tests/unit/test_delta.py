"""Delta tables: a version is what it was, whatever was written later; what cannot be read is refused in words."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import json
import shutil
import string
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from conf.errors import UsageError
from tables.sources.delta import Delta, _read_one


def read(source: Delta) -> list[dict[str, Any]]:
    found = source.opened
    one = functools.partial(_read_one, root=source.root, storage=None, version=found, wanted=source._wanted(found.schema.names))
    rows = [row for i in range(len(found.files)) for table in one(pa.table({"id": [i]})) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["a"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Version 0 with odd partition values; version 1 with a new column; version 2 without the first rows."""
    rows = {"a": [1, 2, 3], "s": ["x y", "b/c", None], "d": [dt.date(2024, 1, 1)] * 3}
    write_deltalake(tmp_path / "t", pa.table(rows), partition_by=["s", "d"])
    write_deltalake(
        tmp_path / "t", pa.table({"a": [9], "s": ["x y"], "d": [dt.date(2024, 2, 1)], "n": [1.5]}), mode="append", schema_mode="merge"
    )
    DeltaTable(tmp_path / "t").delete("a < 3")
    return tmp_path / "t"


def test_each_version_with_its_partitions_and_later_columns(table: Path) -> None:
    first = read(Delta(path=str(table), version=0))
    assert [(row["a"], row["s"], row["d"]) for row in first] == [
        (i, s, dt.date(2024, 1, 1)) for i, s in ((1, "x y"), (2, "b/c"), (3, None))
    ]
    assert all(row["_row"] == 1 and (table / row["_file"]).is_file() for row in first)
    assert [(row["a"], row["n"]) for row in read(Delta(path=str(table), version=1))] == [(1, None), (2, None), (3, None), (9, 1.5)]
    assert [row["a"] for row in read(Delta(path=str(table)))] == [3, 9]
    assert [list(row) for row in read(Delta(path=str(table), columns=["s", "a"]))] == [["s", "a", "_file", "_row"]] * 2


def test_the_fingerprint_is_of_the_version_that_is_read(table: Path, tmp_path: Path) -> None:
    source, first = Delta(path=str(table)), Delta(path=str(table), version=0).fingerprint()
    assert Delta(path=str(table), version=2).fingerprint() == source.fingerprint() != first
    write_deltalake(table, pa.table({"a": [10], "s": ["z"], "d": [dt.date(2024, 2, 1)], "n": [1.0]}), mode="append")
    assert [row["a"] for row in read(source)] == [3, 9], "what was opened once stays that version"
    assert Delta(path=str(table)).fingerprint() != source.fingerprint()
    assert Delta(path=str(shutil.copytree(table, tmp_path / "copy")), version=0).fingerprint() == first


# Row 3 is deleted, as Delta's specification has it: a magic number, one bitmap with key 0, and that in Roaring's portable format.
DELETED = struct.pack("<IQIIIHHIH", 1681511377, 1, 0, 12346, 1, 0, 0, 16, 3)
Z85 = string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
B85 = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"


def vector(data: bytes) -> dict[str, Any]:
    """An inline deletion vector."""
    text = base64.b85encode(data + bytes(-len(data) % 4)).decode().translate(str.maketrans(B85, Z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(data), "cardinality": 1}


def edited(table: Path, kind: str, **changed: Any) -> None:
    log = table / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if kind in line:
            line[kind].update(changed)
    log.write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("metaData", {"configuration": {"delta.columnMapping.mode": "name"}}, "columnMapping"),
        ("add", {"path": "/etc/passwd"}, "outside its folder"),
        ("add", {"path": "../other.parquet"}, "outside its folder"),
        ("add", {"deletionVector": vector(b"broken")}, "deletion vectors"),
        ("add", {"deletionVector": vector(DELETED)}, "deletion vectors"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, kind: str, changed: dict[str, Any], said: str) -> None:
    write_deltalake(tmp_path / "t", pa.table({"a": range(9)}))
    edited(tmp_path / "t", kind, **changed)
    with pytest.raises(UsageError, match=said):
        _ = Delta(path=str(tmp_path / "t")).opened


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version": 7}, "version 7 of the Delta table cannot be opened"),
        ({"version": -1}, "negative"),
        ({"columns": ["aa"]}, "did you mean 'a'"),
    ],
)
def test_wrong_options_are_refused(table: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(Delta(path=str(table), **options))
    with pytest.raises(UsageError, match="there is no Delta table"):
        read(Delta(path=str(table / "none")))


def test_a_file_that_was_vacuumed_away_is_named(table: Path) -> None:
    source = Delta(path=str(table), version=0)
    (table / source.opened.files[0][0]).unlink()
    with pytest.raises(UsageError, match="the file is missing"):
        read(source)
