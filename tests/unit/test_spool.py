"""The spool's file: what was told comes back in order, and a killed process tears at most its last line."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store import Store
from conf.errors import RaycycleError
from ledger.spool import UNTOUCHED_S, SpoolFile, is_left, read

NOBODY = 2**22 + 1  # above the largest process id of Linux


def spool(store: Store, **owner: object) -> SpoolFile:
    """A spool of this process, or of the owner that is said."""
    made = SpoolFile.create(store, "a1")
    header = json.loads(made.path.read_text()) | owner
    made.path.write_text(json.dumps(header) + "\n")
    return made


def test_what_was_told_comes_back_in_order_after_its_owner(store: Store) -> None:
    file = spool(store)
    for number in range(20):
        file.append({"op": "child", "number": number, "name": "ü\n\r\u2028\ud800"})
    entries = read(file.path)
    assert (entries[0]["pid"], entries[0]["host"]) == (os.getpid(), socket.gethostname())
    assert [entry["number"] for entry in entries[1:]] == list(range(20))
    assert {entry["name"] for entry in entries[1:]} == {"ü\n\r\u2028\ud800"}


def test_values_of_any_kind_are_kept(store: Store) -> None:
    file = spool(store)
    file.append({"op": "log", "params": {"a": Path("/x"), "b": np.float32(0.5)}, "metrics": {"m": float("inf")}})
    assert read(file.path)[1] == {"op": "log", "params": {"a": "/x", "b": "0.5"}, "metrics": {"m": float("inf")}}


@given(st.lists(st.text(max_size=5), max_size=4), st.integers(0, 400))
def test_a_spool_cut_anywhere_is_its_beginning(tmp_path_factory: pytest.TempPathFactory, names: list[str], cut: int) -> None:
    file = SpoolFile.create(Store.open(tmp_path_factory.mktemp("cut")), "a1")
    for name in names:
        file.append({"op": "log", "name": name})
    whole = read(file.path)
    file.path.write_bytes(file.path.read_bytes()[:-cut] if cut else file.path.read_bytes())
    left = read(file.path)
    assert left == whole[: len(left)]
    assert len(left) >= len(whole) - 1 - cut // 20


def test_a_line_after_a_torn_one_is_not_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = spool(store), os.write
    with monkeypatch.context() as patched, pytest.raises(RaycycleError, match="disk is full"):
        patched.setattr(os, "write", lambda handle, line: write(handle, line[:5]))
        file.append({"op": "log", "number": 1})
    file.append({"op": "log", "number": 2})
    assert [entry.get("number") for entry in read(file.path)] == [None, 2]


def test_a_spool_that_vanished_has_no_entries(tmp_path: Path) -> None:
    assert read(tmp_path / "gone.jsonl") == []
    assert is_left(tmp_path / "gone.jsonl", []) is False


@pytest.mark.parametrize(
    ("owner", "ops", "age_s", "left"),
    [
        ({}, ["start", "end"], 0, False),
        ({}, ["start", "end", "left"], 0, True),
        ({"created": 5.0}, ["start"], 0, True),
        ({"pid": NOBODY}, [], 0, True),
        ({"pid": NOBODY, "host": "another"}, ["start"], 10 * UNTOUCHED_S, False),
        ({"pid": NOBODY, "host": "another"}, ["start", "end"], 0, False),
        ({"pid": NOBODY, "host": "another"}, ["start", "end"], 2 * UNTOUCHED_S, True),
        ({"pid": NOBODY, "format": 99}, ["start", "end"], 0, False),
    ],
)
def test_whose_spool_may_be_replayed(store: Store, owner: dict[str, object], ops: list[str], age_s: float, left: bool) -> None:
    file = spool(store, **owner)
    for op in ops:
        file.append({"op": op})
    os.utime(file.path, (time.time() - age_s,) * 2)
    assert is_left(file.path, read(file.path)) is left


def test_the_owner_is_known_by_its_start_too(store: Store) -> None:
    assert read(SpoolFile.create(store, "b").path)[0]["created"] == psutil.Process().create_time()
