"""Plain files: every format and encoding gives the same table, and damage is named with its place."""

from __future__ import annotations

import bz2
import contextlib
import datetime as dt
import decimal
import gzip
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conf.errors import RaycycleError, UsageError
from tables.checking import check
from tables.contract import Column, Contract
from tables.look.dialect import find_delimiter, find_encoding
from tables.rows import TableDigest
from tables.sources import formats, packed
from tables.sources.files import Files, _read_one
from tables.sources.fingerprints import stamp
from tables.sources.formats import UNREADABLE


def read(path: Path, **options) -> pa.Table:
    return pa.concat_tables(Files(path=str(path), **options).batches(), promote_options="permissive")


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("a.csv", "a,b\n1,é\n2,\n".encode(), {}),
        ("a.csv", "\ufeffa,b\r\n1,é\r\n2,NA\r\n".encode(), {}),
        ("a.csv", b'\n\n a , b \n"1", \xc3\xa9 \n2,?\n', {}),
        ("a.csv", "a;b\n1;é\n2;\n".encode("latin-1"), {"delimiter": ";", "encoding": "latin-1"}),
        ("a.csv", "a,b\n1,é\n2,\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("a.csv.gz", gzip.compress(b"a,b\n") + gzip.compress("1,é\n2,\n".encode()), {}),
        ("a.csv", bz2.compress("a,b\n1,é\n2,\n".encode()), {}),
        ("a.tsv", "a\tb\n1\té\n2\tnull\n".encode(), {"delimiter": "\t"}),
        ("a.jsonl", '{"a":"1","b":"é"}\n\n{"a":"2"}'.encode(), {}),
        ("a.json", '\ufeff{"a":"1","b":"é","c":1}\n{"a":"2","b":"NA"}\n'.encode(), {"columns": ["a", "b"]}),
    ],
)
def test_spellings_of_one_table(tmp_path: Path, name: str, data: bytes, options: dict) -> None:
    (tmp_path / name).write_bytes(data)
    assert read(tmp_path / name, **options).to_pydict() == {"a": ["1", "2"], "b": ["é", None]}


def test_csv_names_and_quoted_newlines_survive(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a[b]","c\nd",,"${x}",1.5\n"x\ny","1,2",3,4,5\n')
    assert read(tmp_path / "a.csv").to_pydict() == {"a[b]": ["x\ny"], "c\nd": ["1,2"], "column_3": ["3"], "${x}": ["4"], "1.5": ["5"]}


def test_nulls_and_number_styles_of_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('p;q;r\n1.234,5;"$1,200";none\n-;5%;-\n')
    source = {"delimiter": ";", "column_nulls": {"p": ["-"]}, "numbers": {"p": "1.234,5", "q": "1,234.5"}}
    assert read(tmp_path / "a.csv", **source).to_pydict() == {"p": ["1234.5", None], "q": ["1200", "5"], "r": ["none", "-"]}


def test_parquet_types_become_plain(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC)
    table = pa.table(
        {
            "a.b": pa.array(["x", "?"]).dictionary_encode(),
            "large": pa.array(["x", "y"], pa.large_string()),
            "bytes": pa.array([b"x", b"y"]),
            "money": pa.array([decimal.Decimal("1.50"), None]),
            "clock": pa.array([dt.time(1), None]),
            "zoned": pa.array([moment, None], pa.timestamp("ns", "Europe/Paris")),
            "lasted": pa.array([dt.timedelta(seconds=1.5), None]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    got = read(tmp_path / "a.parquet")
    assert [str(t) for t in got.schema.types] == ["string"] * 3 + ["double", "string", "timestamp[us, tz=Europe/Paris]", "double"]
    assert got.slice(0, 1).to_pylist() == [
        {"a.b": "x", "large": "x", "bytes": "x", "money": 1.5, "clock": "01:00:00.000000", "zoned": moment, "lasted": 1.5}
    ]
    assert got["a.b"].to_pylist() == ["x", None]


def test_json_values_become_text_whatever_stands_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"i":1,"f":1,"m":1,"b":true,"n":null}\n{"i":2,"f":2.5,"m":"x","b":false}\n{"f":NaN}\n')
    got = read(tmp_path / "a.jsonl")
    assert [str(t) for t in got.schema.types] == ["string"] * 5
    assert list(got.to_pydict().values()) == [["1", "2", None], ["1", "2.5", None], ["1", "x", None], ["true", "false", None], [None] * 3]


JSON_VALUES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3)


@given(values=st.lists(JSON_VALUES, max_size=6))
def test_a_json_value_is_spelled_alike_in_any_block(values: list[Any]) -> None:
    alone = [formats.as_text([value])[0].as_py() for value in values]
    assert formats.as_text(values).to_pylist() == alone
    assert all(text == str(value) for text, value in zip(alone, values, strict=True) if type(value) is int)


def test_folder_is_one_table_with_its_partitions(tmp_path: Path) -> None:
    for name, text in {
        "year=2023/a.csv": "a,b\n1,2\n",
        "year=2024/b.csv": "b,a\n4,3\n",
        "_SUCCESS": "",
        ".x.csv": "z\n",
        "empty.csv": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read(tmp_path).to_pylist() == [{"a": "1", "b": "2", "year": "2023"}, {"b": "4", "a": "3", "year": "2024"}]
    assert read(tmp_path / "year=*" / "*.csv").num_rows == 2


def test_wide_parquet_is_read_in_a_moment(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"c{i}": [1.0] for i in range(3000)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").num_columns == 3000


@pytest.mark.parametrize(
    ("name", "data", "options", "said"),
    [
        ("a.csv", b"", {}, "empty"),
        ("a.csv", b"a,a\n1,2\n", {}, "several columns of one name: 'a'"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n\n1\n", {}, r"record 3 has 3 fields instead of 2; record 4 has 1 field instead"),
        ("a.csv", b"a,b\nx,1\n\xe9,2\n", {}, "line 3, is not utf-8"),
        ("a.csv", b"a,b\n1,\0\n", {}, "NUL"),
        ("a.csv", b"PK\x03\x04....", {}, "Excel"),
        ("a.csv.gz", gzip.compress(bytes(range(32, 127)) * 99)[:-12], {}, "cut off"),
        ("a.jsonl", b'{"a":1}\n{"a":\n', {}, "line 2 is not JSON"),
        ("a.jsonl", b'{"a":1}\n[1]\n', {}, "line 2 is not a JSON object"),
        ("a.json", b'[{"a":1}]', {}, "JSON array"),
        ("a.parquet", b"PAR1 and then nothing", {}, "cut off"),
        ("a.csv", b"a\n1\n", {"format": "cvs"}, "did you mean 'csv'"),
        ("a.csv", b"a\n1\n", {"delimiter": "::"}, "delimiter"),
        ("a.csv", b"a\n1\n", {"encoding": "utf9"}, "encoding"),
        ("a.csv", b"a\n1\n", {"unreadable": "skip"}, "unreadable"),
        ("a.csv", b"a\n1\n", {"numbers": {"a": "1 234"}}, "numbers"),
        ("a.csv", b"a\n1\n", {"columns": ["z"]}, "no column 'z'"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, name: str, data: bytes, options: dict, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / name, **options)


def test_unreadable_rows_can_be_marked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1\n3,4\n")
    got = read(tmp_path / "a.csv", unreadable="mark")
    assert got["a"].to_pylist() == ["1", "3", None]
    assert got[UNREADABLE].to_pylist() == [None, None, "a.csv: record 3 has 1 field instead of 2"]


def origins(source: Files) -> list[tuple[str, int, str | None]]:
    """File, record number and first value of each row, as a Ray task reads them."""
    found = source.found()
    task = partial(_read_one, source=source, found=found, before=[stamp(path) for path, _ in found], expected=source.expected(found))
    tables = [table for i in range(len(found)) for table in task(pa.table({"id": [i]}))]
    return [(row["_file"], row["_row"], next(iter(row.values()))) for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("name", "text", "numbers"),
    [
        ("a.csv", "a,b\n1,x\n2,x\n3,x\n", [2, 3, 4]),
        ("a.csv", '\n\na,b\n1,x\n\n2,"x\ny"\n9\n8,8,8\n3,x\n', [4, 5, 8, 6, 7]),
        ("a.jsonl", '{"a": "1"}\n\n{"a": "2"}\n[]\n{"a": "3"}', [1, 3, 5, 4]),
        ("a.jsonl", '\n{"a": "1"}\n \n{"a": "2"}\n{"a": "3"}\n', [2, 4, 5]),
    ],
)
@pytest.mark.parametrize("block", [12, 8 << 20])
def test_each_row_tells_its_record(
    tmp_path: Path, name: str, text: str, numbers: list[int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that can be read and then, in the block where they are noticed, those that cannot."""
    monkeypatch.setattr(packed, "BLOCK_BYTES", block)
    (tmp_path / "year=2024").mkdir()
    (tmp_path / "year=2024" / name).write_text(text)
    found = origins(Files(path=str(tmp_path), unreadable="mark"))
    assert {file for file, _, _ in found} == {f"year=2024/{name}"}
    assert sorted(number for _, number, _ in found) == sorted(numbers)
    assert [(number, value) for _, number, value in found if value] == list(zip(numbers, ["1", "2", "3"], strict=False))


def test_a_parquet_row_tells_its_number_and_a_column_of_that_name_stays(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(70_000)}), tmp_path / "a.parquet")
    found = origins(Files(path=str(tmp_path)))
    assert found[0] == ("a.parquet", 1, 0) and found[-1] == ("a.parquet", 70_000, 69_999)
    pq.write_table(pa.table({"_row": ["mine"], "_file": ["mine"]}), tmp_path / "a.parquet")
    assert origins(Files(path=str(tmp_path))) == [("mine", "mine", "mine")]
    assert read(tmp_path).column_names == ["_row", "_file"]


@pytest.mark.parametrize("change", [lambda file: file.write_text("a,b\n1,2\n3,4\n"), Path.unlink, lambda file: file.write_text("a,b\n1\n")])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    source = Files(path=str(tmp_path / "a.csv"))
    found, before = source.found(), [stamp(tmp_path / "a.csv")]
    change(tmp_path / "a.csv")
    with pytest.raises(RaycycleError, match=r"changed or removed while it was read.*a\.csv"):
        list(_read_one(pa.table({"id": [0]}), source, found, before, ["a", "b"]))


@pytest.mark.parametrize(("name", "start"), [("a.csv", b"a,b\n1,2\n"), ("a.csv", b"a,b\n"), ("a.jsonl", b'{"a":1}\n')])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, name: str, start: bytes, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(pack(start + b"\n" * (3 << 20)))
    assert sum(table.num_rows for table in Files(path=str(tmp_path / name)).batches()) == (start != b"a,b\n")
    monkeypatch.setattr(packed, "FREE_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="holds more than"):
        read(tmp_path / name)


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BLOCK_BYTES", 1 << 10)
    (tmp_path / "a.jsonl").write_text('{"a":1}\n{"a":"' + "x" * 5000)
    with pytest.raises(UsageError, match="holds a row longer than"):
        read(tmp_path / "a.jsonl")


def test_parquet_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": ["x" * 5_000_000]}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert read(tmp_path / "a.parquet").num_rows == 1
    monkeypatch.setattr(packed, "FREE_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="claims a row group of 5,000,"):
        read(tmp_path / "a.parquet")


def test_ten_thousand_columns(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(10_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + ",".join("1" for _ in names) + "\n")
    assert read(tmp_path / "a.csv").num_columns == 10_000
    assert origins(Files(path=str(tmp_path), columns=("c1", "c9999"))) == [("a.csv", 2, "1")]


def test_nested_columns_are_read_and_refused_only_where_a_contract_wants_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"y": ["a", "b"], "tags": [["x"], []], "at": [{"lat": 1.0}, None]}), tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet")
    column, label = Column(type="string"), Column(type="string", role="label")
    assert check(Contract(name="t", task="binary", label="y", columns={"y": label}), table).good.num_rows == 2
    with pytest.raises(UsageError, match="nested columns"):
        check(Contract(name="t", task="binary", label="y", columns={"y": label, "tags": column}), table)


@pytest.mark.parametrize(("second", "said"), [("a\n1\n", "b.csv has no column 'b'"), ("a,b,c\n1,2,3\n", "b.csv has a column 'c'")])
def test_files_of_a_folder_have_the_same_columns(tmp_path: Path, second: str, said: str) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text(second)
    with pytest.raises(UsageError, match=said):
        read(tmp_path)


def test_paths_that_hold_no_table(tmp_path: Path) -> None:
    (tmp_path / "flights.csv").write_text("a\n1\n")
    (tmp_path / "table" / "_delta_log").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    for name, said in {"flight.csv": "did you mean 'flights.csv'", "none": "no data file", "table": "Delta"}.items():
        with pytest.raises(UsageError, match=said):
            Files(path=str(tmp_path / name)).found()


def test_extension_types_are_refused_before_they_are_rebuilt(tmp_path: Path) -> None:
    class Evil(pa.ExtensionType):
        rebuilt = False

        def __init__(self) -> None:
            super().__init__(pa.int64(), "evil")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"payload"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Evil:
            cls.rebuilt = True
            return cls()

    pa.register_extension_type(Evil())
    try:
        for shift in range(3):  # each alignment of base64
            column = pa.ExtensionArray.from_storage(Evil(), pa.array([1]))
            pq.write_table(pa.table({"n" * (shift + 1): [1], "e": column}), tmp_path / "a.parquet")
            Evil.rebuilt = False
            with pytest.raises(UsageError, match="extension type"):
                read(tmp_path / "a.parquet")
            assert not Evil.rebuilt
    finally:
        pa.unregister_extension_type("evil")


def test_options_from_hydra_become_plain() -> None:
    node = OmegaConf.create({"null_values": ["", "x"], "column_nulls": {"1": ["-"]}, "numbers": {"a": "1,234.5"}, "columns": ["a"]})
    source = Files(path="x", **node)
    assert source == Files(path="x", null_values=("", "x"), column_nulls={"1": ("-",)}, numbers={"a": "1,234.5"}, columns=("a",))
    assert type(source.column_nulls) is dict


@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", "."), ("|", ",")])
def test_delimiter_is_found(tmp_path: Path, delimiter: str, decimal: str) -> None:
    lines = [delimiter.join(("name", "x", "y"))] + [
        delimiter.join((f'"a{delimiter}{i}"', f"1{decimal}5" if delimiter != "," else "1.5", "z")) for i in range(9)
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert find_delimiter(str(tmp_path / "a.csv"), "utf-8") == delimiter


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("a,é", "utf-8", "utf-8"),
        ("a,e", "ascii", "utf-8"),
        ("a,é", "cp1252", "cp1252"),
        ("a,\x81é", "latin-1", "latin-1"),
        ("a,é", "utf-16", "utf-16"),
        ("abcdefghijk,é", "utf-16-le", "utf-16-le"),
    ],
)
def test_encoding_is_found(tmp_path: Path, text: str, encoding: str, found: str) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert find_encoding([str(tmp_path / "a.csv")]) == found


def test_mixed_encodings_are_refused(tmp_path: Path) -> None:
    for name, encoding in (("a.csv", "utf-8"), ("b.csv", "cp1252")):
        (tmp_path / name).write_bytes("é".encode(encoding))
    with pytest.raises(UsageError, match=r"a\.csv: utf-8, b\.csv: cp1252"):
        find_encoding([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])


@pytest.mark.parametrize("text", ["x,y\n", "x,y\n1,2\n", "x,y\n1\n", "x,y\n\xff,2\n", "x,y\n" + "1,2\n" * 4_000_000], ids=len)
def test_nothing_of_a_csv_reader_outlives_its_generator(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's threads abort a process that ends while they hold a Python function."""
    gone: list[bool] = []
    wait = formats._wait_until_gone

    def noted(held: Any) -> None:
        wait(held)
        gone.append(held() is None)

    monkeypatch.setattr(formats, "_wait_until_gone", noted)
    (tmp_path / "t.csv").write_text(text, encoding="latin-1")
    batches = Files(path=str(tmp_path / "t.csv")).batches()
    with contextlib.suppress(UsageError):
        next(batches, None)
        batches.close()
    del batches
    assert gone == [True]


CELLS = {
    "text": st.sampled_from(["a", "é", "NA", "", "1", "01", "true", "2020-01-01", " b "]),
    "whole": st.sampled_from(["1", "-7", "2.0", "2.5", "x", "", "999999999999999999", "9999999999999999999", "true"]),
    "real": st.sampled_from(["1", "0.1", "-0", "1e3", "inf", "NaN", "x", "", "1152921504606846977"]),
    "flag": st.sampled_from(["true", "FALSE", "1", "0", "yes", "maybe", ""]),
    "moment": st.sampled_from(["2020-01-01", "2020-01-01T10:00:00Z", "31.12.2019", "2020-02-30", "20200101", "", "7"]),
    "y": st.sampled_from(["a", "b", ""]),
}
TYPED = {"text": "string", "whole": "int64", "real": "double", "flag": "bool", "moment": "timestamp", "y": "string"}
PROMISE = Contract(
    name="t",
    task="binary",
    label="y",
    columns={name: Column(type=kind, role="label" if name == "y" else "feature") for name, kind in TYPED.items()},  # type: ignore[arg-type]
)


def as_csv(rows: list[list[str]]) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in row) for row in [list(TYPED), *rows]) + "\n"


def as_json(rows: list[list[str]]) -> str:
    """Numbers and truth values bare where they can be: each line with types of its own."""
    bare = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?(e\d+)?|true|false|NaN")
    cells = [[cell if bare.fullmatch(cell) else json.dumps(cell or None) for cell in row] for row in rows]
    return "".join("{" + ", ".join(f'"{name}": {cell}' for name, cell in zip(TYPED, row, strict=True)) + "}\n" for row in cells)


def digests(folder: Path, parts: list[list[list[str]]], write: Callable[[list[list[str]]], str], suffix: str) -> list[TableDigest]:
    """Of the good rows, and of the bad ones with their reasons."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for i, part in enumerate(parts):
        (folder / f"{i}{suffix}").write_text(write(part))
    checked = [check(PROMISE, table) for table in Files(path=str(folder), columns=tuple(TYPED)).batches()]
    return [
        sum((TableDigest.of(each.good) for each in checked), TableDigest()),
        sum((TableDigest.of(each.bad) for each in checked), TableDigest()),
    ]


@pytest.mark.parametrize(("write", "suffix"), [(as_csv, ".csv"), (as_json, ".jsonl")])
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_type_hangs_on_files_blocks_or_the_order_of_rows(
    tmp_path: Path, write: Callable[[list[list[str]]], str], suffix: str, data: st.DataObject
) -> None:
    rows = [list(row) for row in data.draw(st.lists(st.tuples(*CELLS.values()), min_size=1, max_size=8))]
    whole = digests(tmp_path / "t", [rows], write, suffix)
    mixed = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "BLOCK_BYTES", data.draw(st.sampled_from([400, 8 << 20])))
        assert digests(tmp_path / "t", [mixed[cut:], mixed[:cut]], write, suffix) == whole
    assert sum(each.rows for each in whole) == len(rows)
