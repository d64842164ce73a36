"""A source's fingerprint changes with what its rows depend on, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from conf.errors import UsageError
from tables.sources import fingerprints, flights
from tables.sources.files import Files
from tables.sources.fingerprints import fingerprint
from tables.sources.flights import Flights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("year=2023/a.csv", "x,y\n1,2\n"), ("year=2024/b.csv", "x,y\n3,4\n")):
        (tmp_path / "t" / name).parent.mkdir(parents=True)
        (tmp_path / "t" / name).write_text(text)
        os.utime(tmp_path / "t" / name, (1_700_000_000, 1_700_000_000))
    return tmp_path / "t"


def test_it_is_that_of_names_contents_and_options_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    wanted = Files(path=str(folder)).fingerprint()
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "_SUCCESS").write_text("no data")
    assert Files(path=str(tmp_path / "copy")).fingerprint() == wanted
    assert Files(path=str(tmp_path / "copy"), delimiter=";").fingerprint() != wanted
    assert Files(path=str(tmp_path / "copy"), column_nulls={"x": ["-"]}).fingerprint() != wanted
    (tmp_path / "copy" / "year=2023").rename(tmp_path / "copy" / "year=2022")
    assert Files(path=str(tmp_path / "copy")).fingerprint() != wanted
    (folder / "year=2024" / "b.csv").write_text("x,y\n3,5\n")
    assert Files(path=str(folder)).fingerprint() != wanted


def test_one_file_and_a_glob_have_one_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    for path in ("year=2023/a.csv", "*/*.csv", "year=202[34]/*.csv"):
        assert Files(path=str(folder / path)).fingerprint() == Files(path=str(tmp_path / "copy" / path)).fingerprint()
    assert Files(path=str(folder / "year=2023" / "*.csv")).fingerprint() != Files(path=str(folder / "year=2024" / "*.csv")).fingerprint()


def test_no_row_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read into Arrow")

    for name in ("OSFile", "table", "array"):
        monkeypatch.setattr(pa, name, refuse)
    assert Files(path=str(folder)).fingerprint()
    monkeypatch.setattr(flights, "read_csv", refuse)
    assert Flights().fingerprint()


def test_the_memo_spares_what_did_not_change(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo, source = tmp_path / "cache" / "memo.json", Files(path=str(folder))
    wanted = source.fingerprint()
    read: list[str] = []
    monkeypatch.setattr(fingerprints, "of_file", lambda file, of=fingerprints.of_file: read.append(file.name) or of(file))
    assert source.fingerprint(memo) == wanted and read == ["a.csv", "b.csv"]
    assert source.fingerprint(memo) == wanted and len(read) == 2
    (folder / "year=2024" / "b.csv").write_text("x,y\n3,5\n")  # the same size
    assert source.fingerprint(memo) != wanted and read[2:] == ["b.csv"]
    memo.write_text("{")
    assert source.fingerprint(memo) != wanted and len(read) == 5


def test_a_file_changed_a_moment_ago_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    """Its next change could bear the same time and size."""
    (folder / "year=2024" / "b.csv").write_text("x,y\n3,5\n")
    Files(path=str(folder)).fingerprint(tmp_path / "memo.json")
    assert [Path(path).name for path in json.loads((tmp_path / "memo.json").read_text())["files"]] == ["a.csv"]


def test_the_memo_forgets_files_that_are_gone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    fingerprint({"a": tmp_path / "a"}, {}, tmp_path / "memo.json")
    (tmp_path / "a").unlink()
    fingerprint({"b": tmp_path / "b"}, {}, tmp_path / "memo.json")
    assert [Path(path).name for path in json.loads((tmp_path / "memo.json").read_text())["files"]] == ["b"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        fingerprint({"a": tmp_path / "a"}, {})


def test_months_are_a_set() -> None:
    assert Flights(months=[2, 1, 2]).fingerprint() == Flights(months=[1, 2]).fingerprint() != Flights().fingerprint()
    assert Flights(months=list(range(1, 13))).fingerprint() == Flights().fingerprint()
