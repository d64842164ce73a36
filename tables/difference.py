"""Where two snapshots of a table first differ: what to look at when a run does not come out again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import UsageError
from tables.contract import Contract
from tables.rows import Hashes, row_hashes, sort_order
from tables.snapshots import Snapshot, read
from tables.splits import row_keys


class Difference(NamedTuple):
    """`column` is None where a row is in one table only: then its side holds the row as a dict, and the other None."""

    column: str | None
    key: dict[str, Any]
    one: Any
    other: Any


class _Hashed(NamedTuple):
    """The rows of a snapshot in canonical order; `place` is where each stands among the rows of all files, one after the other."""

    keys: Hashes
    content: Hashes
    place: NDArray[np.int64]

    def of(self, key: np.uint64) -> _Hashed:
        start, stop = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
        return _Hashed(self.keys[start:stop], self.content[start:stop], self.place[start:stop])

    def first_beyond(self, other: _Hashed) -> int | None:
        """The place of the first row here that the other has less often; both hold the rows of one key."""
        repeat = np.arange(len(self.content)) - np.searchsorted(self.content, self.content, "left")
        there = np.searchsorted(other.content, self.content, "right") - np.searchsorted(other.content, self.content, "left")
        beyond = np.flatnonzero(repeat >= there)
        return int(self.place[beyond[0]]) if len(beyond) else None


def first_difference(one: Snapshot, other: Snapshot, contract: Contract) -> Difference | None:
    """The first in the order of key hashes, and of the contract's columns; None where the same rows are in both, in any order and files.

    Rows are matched by the contract's key, where it names none by all that they hold. Values are equal as in digests: -0.0 is 0.0, NaN is
    NaN and not null. Only hashes are held of all rows, so the tables may be larger than memory, but not each of their files.
    """
    if one.digest == other.digest:
        return None
    mine, theirs = _hashed(one, contract), _hashed(other, contract)
    key = _first_key(mine, theirs)
    if key is None:
        return None
    mine, theirs = mine.of(key), theirs.of(key)
    return _told(_row(one, mine.first_beyond(theirs), contract), _row(other, theirs.first_beyond(mine), contract), contract)


def _hashed(snapshot: Snapshot, contract: Contract) -> _Hashed:
    keys, content = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for file in snapshot.files:
        table = read(file)
        if lacking := [name for name in contract.columns if name not in table.column_names]:
            raise UsageError(
                f"{snapshot} has no such column", value=lacking[0], next="compare under the contract that both were made under"
            )
        keys.append(row_keys(table, contract))
        content.append(row_hashes(table, list(contract.columns), "content"))
    all_keys, all_content = np.concatenate(keys), np.concatenate(content)
    order = sort_order(all_keys, all_content)
    return _Hashed(all_keys[order], all_content[order], order)


def _first_key(one: _Hashed, other: _Hashed) -> np.uint64 | None:
    """The smallest key hash whose rows differ: all rows before the first place where the sorted tables part are the same."""
    count = min(len(one.keys), len(other.keys))
    parted = np.flatnonzero((one.keys[:count] != other.keys[:count]) | (one.content[:count] != other.content[:count]))
    at = int(parted[0]) if len(parted) else count
    return min((table.keys[at] for table in (one, other) if at < len(table.keys)), default=None)


def _row(snapshot: Snapshot, place: int | None, contract: Contract) -> pa.Table | None:
    if place is None:
        return None
    for file in snapshot.files:
        table = read(file)
        if place < table.num_rows:
            return table.slice(place, 1).select(list(contract.columns))
        place -= table.num_rows
    raise IndexError(place)


def _told(mine: pa.Table | None, theirs: pa.Table | None, contract: Contract) -> Difference:
    one, other = (None if row is None else row.to_pylist()[0] for row in (mine, theirs))
    key = {name: (one or other or {})[name] for name in contract.key or contract.columns}
    if mine is None or theirs is None:
        return Difference(None, key, one, other)
    column = next(name for name in contract.columns if row_hashes(mine, [name]) != row_hashes(theirs, [name]))
    return Difference(column, key, (one or {})[column], (other or {})[column])
