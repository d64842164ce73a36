"""`raycycle init`: two files that a run accepts, or one clear refusal and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cluster.progress import Progress
from conf.errors import UsageError
from flows import look
from flows.init import NewDataset, dataset_yaml, init, name_from
from tables.checking import check
from tables.contract import Contract
from tables.look.profile import Profile
from tables.look.schedule import SplitPlan
from tables.sources.files import Files

N = 200
X = np.random.default_rng(3).normal(size=N).round(3)
Y = np.where(X + np.random.default_rng(4).normal(size=N) > 0, "yes", "no")


def csv(path: Path, header: str = "x,y", row: str = "{x},{y}", encoding: str = "utf-8") -> str:
    rows = (row.format(i=i, x=x, y=y, d=i % 28 + 1, m=i % 12 + 1) for i, (x, y) in enumerate(zip(X, Y, strict=True)))
    path.write_text("\n".join((header, *rows)) + "\n", encoding=encoding)
    return str(path)


def reread(made: NewDataset) -> tuple[Files, Contract]:
    """The source and contract as a run will see them."""
    node = OmegaConf.to_container(OmegaConf.load(made.dataset), resolve=True)
    source = dict(node["source"])
    assert source.pop("_target_") == "tables.sources.files.Files"
    return Files(**source), Contract.load(made.contract)


@pytest.mark.parametrize(
    ("header", "row", "options", "bad"),
    [
        ("x,y", "{x},{y}", {}, 0),
        ("x;y;p", "{x};{y};1.{i:03d},5", {"delimiter": ";", "numbers": {"p": "1.234,5"}}, 0),
        ("a[b],x/y,${{z}},y".replace("{{", "{").replace("}}", "}"), "{x},-,{i},{y}", {}, 0),
        ("d,x,y", "{d}/{m}/2024,{x},{y}", {}, 0),
        (" x , y ", " {x} , {y} ", {}, 0),
    ],
)
def test_written_files_read_the_table(tmp_path: Path, header: str, row: str, options: dict, bad: int) -> None:
    made = init(csv(tmp_path / "t.csv", header, row), "y", into=tmp_path / "conf")
    source, contract = reread(made)
    assert {name: getattr(source, name) for name in options} == options
    checked = check(contract, pa.concat_tables(source.batches()))
    assert (checked.good.num_rows, checked.bad.num_rows) == (N - bad, bad)
    assert made.lines()[-1].startswith("next: raycycle run dataset=t") and f"wrote {made.contract}" in "\n".join(made.lines())
    assert made.as_json()["task"] == "binary"


def test_unreadable_rows_are_counted_and_marked(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv")
    with Path(path).open("a") as file:
        file.write("1,2,3\n")
    made = init(path, "y", into=tmp_path / "conf")
    assert reread(made)[0].unreadable == "mark"
    assert f"record {N + 2} has 3 fields" in "\n".join(made.lines())


def test_older_encodings_are_read_and_said(tmp_path: Path) -> None:
    made = init(csv(tmp_path / "t.csv", "grö,y", "{x},{y}", "cp1252"), "y", into=tmp_path / "conf")
    assert reread(made)[0].encoding == "cp1252" and "cp1252" in "\n".join(made.lines())


def test_sparse_json_names_its_columns(tmp_path: Path) -> None:
    lines = [
        f'{{"x":{x},"y":"{y}"{", ".join(("", chr(34) + "k" + chr(34) + ":1")) if i > 150 else ""}}}'
        for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert reread(init(str(tmp_path / "t.jsonl"), "y", into=tmp_path / "conf"))[0].columns == ("x", "y", "k")


def test_types_that_differ_between_files_are_united(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    pq.write_table(pa.table({"x": X, "y": Y}), folder / "a.parquet")
    pq.write_table(pa.table({"x": [str(x) for x in X], "y": Y}), folder / "b.parquet")
    made = init(str(folder), "y", into=tmp_path / "conf")
    source, contract = reread(made)
    assert contract.columns["x"].type == "double"
    assert sum(check(contract, each).good.num_rows for each in source.batches()) == 2 * N


def test_large_tables_are_sampled_from_all_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MAX_ROWS", 60)
    folder = tmp_path / "t"
    folder.mkdir()
    for part in range(4):
        pq.write_table(pa.table({"i": np.arange(N) + part * N, "x": X, "y": Y}), folder / f"{part}.parquet")
    sample = look.look_at(Files(path=str(folder)), Progress(quiet=True))
    assert sample.rows == 4 * N and sample.table["i"].to_pylist() == list(range(0, 4 * N, 16))
    assert "looked at 50 rows" in init(str(folder), "y", into=tmp_path / "conf").lines()[0]


def test_many_columns_are_looked_at_in_reasonable_time(tmp_path: Path) -> None:
    wide = {f"c{i}": np.roll(X, i) for i in range(1000)}
    pq.write_table(pa.table({**wide, "y": Y}), tmp_path / "t.parquet")
    assert len(reread(init(str(tmp_path / "t.parquet"), "y", into=tmp_path / "conf"))[1].features) > 990


def test_null_spellings_are_told_with_their_columns_and_read_as_a_run_does(tmp_path: Path) -> None:
    def row(i: int) -> str:
        u, v, w = "?" if i % 9 == 0 else X[i], "NA" if i % 7 == 0 else "abc"[i % 3], "?" if i % 5 == 0 else i % 4
        return f"{i},{u},{v},{w},{'' if i % 8 == 0 else 'r'},{Y[i]}"

    folder = tmp_path / "t" / "country=NA"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("\n".join(["n,u,v,w,empty,y", *map(row, range(N))]))
    (tmp_path / "t" / "country=DE").mkdir()
    (tmp_path / "t" / "country=DE" / "a.csv").write_text("\n".join(["n,u,v,w,empty,y", *map(row, range(N))]))
    made = init(str(tmp_path / "t"), "y", into=tmp_path / "conf")
    told = {finding.columns: finding.line() for finding in made.profile.findings if "write" in finding.what}
    assert set(told) == {("u", "w"), ("v",)}
    assert told["u", "w"].startswith("u, w write null as '?': read as null")
    assert told["v",].startswith("v writes null as 'NA': read as null")
    source, contract = reread(made)
    table = check(contract, pa.concat_tables(source.batches())).typed
    assert {name: column.nulls for name, column in made.profile.columns.items()} == {
        name: table[name].null_count for name in contract.columns
    }
    assert not contract.columns["country"].nullable and contract.columns["w"].nullable


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("t.csv", ""),
        ("inf.csv", "named table_inf: inf is a word of Hydra"),
        ("2024.csv", "named table_2024: a name begins with a letter"),
        ("My Table.csv", "named my_table: a name is small letters"),
    ],
)
def test_another_name_than_the_files_is_told(tmp_path: Path, file: str, said: str) -> None:
    lines = init(csv(tmp_path / file), "y", into=tmp_path / "conf").lines()
    assert [line for line in lines if "named" in line] == [line for line in lines if said and said in line]
    assert bool(said) == any("named" in line for line in lines)
    assert "named" not in "".join(init(csv(tmp_path / file), "y", "chosen", into=tmp_path / "conf").lines())


def test_files_there_already_are_kept_unless_forced(tmp_path: Path) -> None:
    path, into = csv(tmp_path / "t.csv"), tmp_path / "conf"
    made = init(path, "y", into=into)
    init(path, "y", into=into)  # the same bytes again: a run that was cut off can be repeated
    made.contract.write_text("edited by hand")
    with pytest.raises(UsageError, match="already"):
        init(path, "y", into=into)
    assert made.contract.read_text() == "edited by hand"
    init(path, "y", into=into, force=True)
    assert Contract.load(made.contract).label == "y"


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv")
    for arguments in ((str(tmp_path / "none.csv"), "y"), (path, "Y"), (path, "y", "../t"), (path, "y", "null")):
        with pytest.raises(UsageError):
            init(*arguments, into=tmp_path / "conf")
    (tmp_path / "header.csv").write_text("x,y\n")
    with pytest.raises(UsageError, match="no rows"):
        init(str(tmp_path / "header.csv"), "y", into=tmp_path / "conf")
    with pytest.raises(UsageError, match=r"\?\?\?"):
        init(csv(tmp_path / "t.csv", "x,???,y", "{x},{i},{y}"), "y", into=tmp_path / "conf")
    with pytest.raises(UsageError, match="raycycle adds a column of this name: '_row'"):
        init(csv(tmp_path / "t.csv", "x,_row,y", "{x},{i},{y}"), "y", into=tmp_path / "conf")
    assert not (tmp_path / "conf").exists()


def test_folder_that_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        init(csv(tmp_path / "t.csv"), "y", into=tmp_path / "conf")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/Titanic Train.csv.gz", "titanic_train"),
        ("data/2024-sales.parquet", "table_2024_sales"),
        ("logs/*.csv", "table"),
        ("folder/", "folder"),
        ("null.csv", "table_null"),
        ("é.csv", "table"),
        ("v1.2.csv", "v1_2"),
    ],
)
def test_name_can_be_typed_on_the_command_line(path: str, name: str) -> None:
    assert name_from(path) == name


@given(
    st.text(min_size=1, max_size=12),
    st.lists(st.sampled_from(["${", "}", "\\", "a", "???", ".", "\n", "'", '"', " ", "é"]), min_size=1, max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_odd_names_survive_yaml_and_omegaconf(text: str, pieces: list[str]) -> None:
    for name in {text, "".join(pieces)} - {"???"}:
        source = Files(path=f"/data/{name}", column_nulls={name: (name,)}, columns=(name,))
        seen = Profile(
            label=name,
            task="binary",
            positive=name,
            classes=[name, "b"],
            metric="roc_auc",
            rows=1,
            looked_at=1,
            columns={},
            findings=[],
            split=SplitPlan(by=name),
            slices=[name],
        )
        node = OmegaConf.to_container(OmegaConf.create(yaml.safe_load(dataset_yaml("t", source, seen))), resolve=True)
        assert node["split"]["by"] == name and node["slices"] == [name]
        assert Files(**{k: v for k, v in node["source"].items() if k != "_target_"}) == source
