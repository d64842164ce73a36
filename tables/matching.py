"""How the rows of two tables match, by hashes of their keys and contents, with repeats counted and memory bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tables.rows import Hashes

Numbers = NDArray[np.int64]
BUCKET_ROWS = 4_000_000
ROW = np.dtype([("key", "<u8"), ("content", "<u8"), ("row", "<i8")])


class Matched(NamedTuple):
    """Rows by their numbers: only in one table, only in the other, and pairs of one key whose contents differ; `same` counts the rest."""

    removed: Numbers
    added: Numbers
    changed: tuple[Numbers, Numbers]
    same: int


@dataclass(frozen=True)
class Buckets:
    """Arrays on disk, each row of them in the bucket of its number, so that one bucket at a time fits in memory."""

    folder: Path
    dtype: np.dtype[Any]
    count: int = 1

    def add(self, side: int, bucket: NDArray[Any], rows: NDArray[Any]) -> None:
        """Append `rows` of one side, each to its `bucket` (a number below `count`)."""
        order = np.argsort(bucket, kind="stable")
        bounds = np.searchsorted(bucket[order], np.arange(self.count + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            with self._file(side, int(number)).open("ab") as out:
                rows[order[bounds[number] : bounds[number + 1]]].tofile(out)

    def read(self, side: int, number: int) -> NDArray[Any]:
        file = self._file(side, number)
        return np.fromfile(file, self.dtype) if file.exists() else np.zeros(0, self.dtype)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Both sides of one bucket after the other."""
        for number in range(self.count):
            yield self.read(0, number), self.read(1, number)

    def _file(self, side: int, number: int) -> Path:
        return self.folder / f"{self.dtype.itemsize}-{side}-{number}"


def rows_of(keys: Hashes, content: Hashes, first: int) -> NDArray[Any]:
    """Rows numbered from `first` on, as `match` takes them."""
    made = np.zeros(len(keys), ROW)
    made["key"], made["content"], made["row"] = keys, content, np.arange(first, first + len(keys))
    return made


def match(one: NDArray[Any], other: NDArray[Any]) -> Matched:
    """Match the rows (`ROW`) of one bucket: equal rows first, then those of one key in the order of their contents; repeats count.

    Where the key is the whole row no two rows of one key differ, so that nothing is changed.
    """
    rows = np.concatenate([one, other])
    side = np.repeat(np.array([0, 1]), [len(one), len(other)])
    order = np.lexsort((side, rows["content"], rows["key"]))
    rows, side = rows[order], side[order]
    equal = _pairs(_groups(rows["key"], rows["content"]), side) >= 0
    rows, side = rows[~equal], side[~equal]
    # Sorting is stable, so the rows of a side stay in the order of their contents.
    order = np.lexsort((side, rows["key"]))
    rows, side = rows[order], side[order]
    pair = _pairs(_groups(rows["key"]), side)
    alone = pair < 0
    mine, theirs = (rows["row"][(side == each) & ~alone][np.argsort(pair[(side == each) & ~alone])] for each in (0, 1))
    removed, added = (np.sort(rows["row"][(side == each) & alone]) for each in (0, 1))
    return Matched(removed, added, (mine, theirs), int(equal.sum()) // 2)


def _groups(*columns: NDArray[Any]) -> Numbers:
    """The number of each row's group; rows of one group stand together and are alike in all columns."""
    new = np.zeros(len(columns[0]), bool)
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.cumsum(new, dtype=np.int64)


def _pairs(group: Numbers, side: Numbers) -> Numbers:
    """A number for each pair of a group's rows, one of each side, in their order; -1 for rows that find no partner.

    Rows stand by group, and those of side 0 first.
    """
    if not len(group):
        return np.zeros(0, np.int64)
    size = int(group[-1]) + 1
    mine, theirs = np.bincount(group[side == 0], minlength=size), np.bincount(group[side == 1], minlength=size)
    both = np.minimum(mine, theirs)
    within = np.arange(len(group)) - np.searchsorted(group, group)
    place = np.where(side == 0, within, within - mine[group])
    first = np.cumsum(both) - both
    return np.where(place < both[group], first[group] + place, -1)
