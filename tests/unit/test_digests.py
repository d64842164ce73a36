"""Digests name bytes and values, whatever the order in which they were met."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from conf.targets import SOURCE
from ledger import digests


def test_a_file_is_named_by_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert digests.of_file(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.none(), max_size=6))
def test_the_order_of_keys_does_not_matter_and_every_value_does(value: dict) -> None:
    assert digests.of_value(dict(reversed(value.items()))) == digests.of_value(value)
    assert digests.of_value(json.loads(json.dumps(value))) == digests.of_value(value)
    assert digests.of_value({**value, "more than four": 0}) != digests.of_value(value)


def test_a_number_is_not_its_text() -> None:
    assert len({digests.of_value(value) for value in (1, "1", True, [1], {"1": 1}, None)}) == 6


def test_a_folder_is_its_files_by_path(tmp_path: Path) -> None:
    (tmp_path / "b" / "empty").mkdir(parents=True)
    (tmp_path / "b" / "f").write_text("x")
    (tmp_path / "a").write_text("y")
    found = digests.of_folder(tmp_path)
    assert list(found) == ["a", "b/f"]
    assert found["b/f"] == hashlib.sha256(b"x").hexdigest()


def test_the_lock_file_is_that_of_this_tree() -> None:
    assert digests.lock_digest() == digests.of_file(SOURCE / "requirements.lock")
