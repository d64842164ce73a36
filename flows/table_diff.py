"""How two versions of a table differ: rows added, removed and changed by key, cells changed by column, columns, distributions.

$ raycycle data diff flights@3 flights@4
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.progress import Bar, Progress
from cluster.store import Store
from conf.errors import UsageError, some
from flows.versions import contract_of, private_columns, schema_changes, schema_of
from tables.contract import Contract
from tables.distributions import bounded_sketch, merged, read_as, total_variation
from tables.matching import BUCKET_ROWS, ROW, Buckets, Numbers, match, rows_of
from tables.rows import row_hashes
from tables.sketches import Sketch
from tables.snapshots import Snapshot, SnapshotFile

MAX_DRAWN = 200
BUCKET_CELLS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One column in both versions; without sketches where its values are private. `shift` is the total variation distance, 0 to 1."""

    name: str
    type: str
    private: bool
    one: Sketch | None
    other: Sketch | None
    nulls: tuple[int, int]
    shift: float | None


@dataclass(frozen=True, kw_only=True)
class TableDiff:
    """`one` and `other` by name, with their rows. Without a `key` whole rows are matched, so that none is changed.

    `cells` counts the changed rows that differ in each column. `retyped` columns are not compared.
    """

    one: str
    other: str
    rows: tuple[int, int]
    digests: tuple[str, str]
    key: list[str]
    same: int
    added: int
    removed: int
    changed: int
    cells: dict[str, int]
    columns: list[str]
    retyped: list[str]
    drawn: list[Drawn]
    left_out: int

    def as_json(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("same", "added", "removed", "changed", "cells", "key")}
        shifts = {each.name: each.shift for each in self.drawn if each.shift is not None}
        nulls = {each.name: list(each.nulls) for each in self.drawn}
        sides = {"one": self.one, "other": self.other, "rows": list(self.rows), "digests": list(self.digests)}
        return {**sides, **counts, "columns": self.columns, "not_compared": self.retyped, "shift": shifts, "nulls": nulls}

    def lines(self) -> list[str]:
        by = f"by {', '.join(self.key)}" if self.key else "by whole rows: no key is known"
        said = [f"{self.one} ({self.rows[0]:,} rows) -> {self.other} ({self.rows[1]:,} rows), matched {by}"]
        said.append(f"  {self.added:,} added, {self.removed:,} removed, {self.changed:,} changed, {self.same:,} the same")
        if self.cells:
            ranked = sorted(self.cells.items(), key=lambda each: (-each[1], each[0]))
            said.append(f"  changed cells: {some([f'{name} {count:,}' for name, count in ranked], 8)}")
        said += [f"  column {each}" for each in self.columns[:20]]
        if len(self.columns) > 20:
            said.append(f"  and {len(self.columns) - 20:,} more columns (--json)")
        moved = sorted(
            (each for each in self.drawn if each.shift and each.shift >= 0.0005), key=lambda each: (-(each.shift or 0.0), each.name)
        )
        if moved:
            said.append(f"  distributions moved most: {some([f'{each.name} {each.shift:.1%}' for each in moved], 6)}")
        return said


def diff(store: Store, one: Snapshot, other: Snapshot, progress: Progress) -> TableDiff:
    """Compare two versions, of one table or of two, in bounded memory: one file, then one bucket of hashes at a time.

    Raises UsageError when they have no column of one name and type in common.
    """
    contract = contract_of(store, other.name, other.version) or contract_of(store, one.name, one.version)
    mine, theirs = schema_of(one), schema_of(other)
    types, types_there = ({field.name: str(field.type) for field in schema} for schema in (mine, theirs))
    common = [name for name in types if types_there.get(name) == types[name]]
    if not common:
        raise UsageError(f"{one} and {other} have no column in common", value=some(types), allowed=some(types_there))
    key = list(contract.key) if contract and contract.key and set(contract.key) <= set(common) else []
    private = private_columns(contract, common)
    drawn = _by_interest(common, contract)[:MAX_DRAWN]
    schema = pa.schema([mine.field(name) for name in common])
    with progress.stage("diff", one.rows + other.rows) as bar, tempfile.TemporaryDirectory(dir=store.folder("cache")) as folder:
        comparing = _Comparing((one, other), schema, key, [name for name in drawn if name not in private], Path(folder), bar)
        counts, cells = comparing.counted()
    return TableDiff(
        one=str(one),
        other=str(other),
        rows=(one.rows, other.rows),
        digests=(str(one.digest), str(other.digest)),
        key=key,
        **counts,
        cells=cells,
        columns=schema_changes(types, types_there),
        retyped=[name for name in types if name in types_there and name not in common],
        drawn=[_drawn(schema.field(name), name in private, comparing) for name in drawn],
        left_out=len(common) - len(drawn),
    )


def _by_interest(names: Sequence[str], contract: Contract | None) -> list[str]:
    """The label first, then features, then the rest: what a page shows of a wide table."""
    order = {"label": 0, "feature": 1}
    roles = {name: str(column.role) for name, column in contract.columns.items()} if contract else {}
    return sorted(names, key=lambda name: order.get(roles.get(name, ""), 2))


@dataclass
class _Comparing:
    """The work of one comparison. A file that both versions have is the same rows in both: it is read once, for its sketches alone."""

    sides: tuple[Snapshot, Snapshot]
    schema: pa.Schema
    key: list[str]
    sketched: list[str]
    folder: Path
    bar: Bar

    def __post_init__(self) -> None:
        self.shared = {file.name for file in self.sides[0].files} & {file.name for file in self.sides[1].files}
        if self.sides[0].folder != self.sides[1].folder:
            self.shared = set()
        self.files = [[file for file in side.files if file.name not in self.shared] for side in self.sides]
        self.firsts: list[list[int]] = [[], []]
        self.sketches: list[dict[str, Sketch]] = [{}, {}]
        self.nulls: list[dict[str, int]] = [dict.fromkeys(self.schema.names, 0) for _ in self.sides]

    def counted(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows are the same, added, removed and changed; and in how many changed rows each column differs."""
        same = self._shared_rows()
        hashed = Buckets(self.folder, ROW, max(1, -(-sum(side.rows for side in self.sides) // BUCKET_ROWS)))
        for side in (0, 1):
            self._hash(side, hashed)
        pairs = Buckets(self.folder, np.dtype([("row", "<i8"), ("pair", "<i8")]), max(1, *map(len, self.files)))
        counts = {"same": same, "added": 0, "removed": 0, "changed": 0}
        for bucket in hashed:
            found = match(*bucket)
            counts["same"] += found.same
            counts["added"] += len(found.added)
            counts["removed"] += len(found.removed)
            for side, rows in enumerate(found.changed):
                self._note_pairs(side, rows, counts["changed"], pairs)
            counts["changed"] += len(found.changed[0])
        return counts, self._cells(pairs, counts["changed"])

    def _shared_rows(self) -> int:
        rows = 0
        for file in self.sides[0].files:
            if file.name in self.shared:
                table = self._read(file)
                self._sketch((0, 1), table)
                rows += table.num_rows
                self.bar.advance(2 * table.num_rows)
        return rows

    def _hash(self, side: int, hashed: Buckets) -> None:
        first = 0
        names = self.schema.names
        for file in self.files[side]:
            table = self._read(file)
            self._sketch((side,), table)
            content = row_hashes(table, names, "content")
            # Without a key the row is its own: two hashes of it that differ in salt are 128 bits.
            rows = rows_of(row_hashes(table, self.key or names, "key"), content, first)
            hashed.add(side, rows["key"] % np.uint64(hashed.count), rows)
            self.firsts[side].append(first)
            first += table.num_rows
            self.bar.advance(table.num_rows)

    def _note_pairs(self, side: int, rows: Numbers, first: int, pairs: Buckets) -> None:
        """Keep which rows of which file are the changed ones, with the number of the pair that each belongs to."""
        if not len(rows):
            return
        file = np.searchsorted(self.firsts[side], rows, "right") - 1
        noted = np.zeros(len(rows), pairs.dtype)
        noted["row"], noted["pair"] = rows - np.array(self.firsts[side])[file], np.arange(first, first + len(rows))
        pairs.add(side, file, noted)

    def _cells(self, pairs: Buckets, changed: int) -> dict[str, int]:
        """By column the changed rows that differ in it, by the hashes of the values."""
        names = [name for name in self.schema.names if name not in self.key]
        if not changed or not names:
            return {}
        per_bucket = max(1, BUCKET_CELLS // len(names))
        values = Buckets(self.folder, np.dtype([("pair", "<i8"), ("hash", "<u8", (len(names),))]), -(-changed // per_bucket))
        for side in (0, 1):
            for number, file in enumerate(self.files[side]):
                noted = pairs.read(side, number)
                if len(noted):
                    rows = self._read(file).take(pa.array(noted["row"]))
                    made = np.zeros(len(noted), values.dtype)
                    made["pair"] = noted["pair"]
                    for column, name in enumerate(names):
                        made["hash"][:, column] = row_hashes(rows, [name])
                    values.add(side, noted["pair"] // per_bucket, made)
        total = np.zeros(len(names), np.int64)
        for one, other in values:
            mine, theirs = (rows["hash"][np.argsort(rows["pair"])] for rows in (one, other))
            total += (mine != theirs).sum(axis=0)
        return {name: int(count) for name, count in zip(names, total, strict=True) if count}

    def _read(self, file: SnapshotFile) -> pa.Table:
        return read_as(file, self.schema)

    def _sketch(self, sides: tuple[int, ...], table: pa.Table) -> None:
        made = {name: bounded_sketch(table.column(name).combine_chunks()) for name in self.sketched}
        for side in sides:
            self.sketches[side] = merged(self.sketches[side], made)
            for name, column in zip(self.schema.names, table.columns, strict=True):
                self.nulls[side][name] += column.null_count


def _drawn(field: pa.Field, private: bool, comparing: _Comparing) -> Drawn:
    one, other = (side.get(field.name) for side in comparing.sketches)
    nulls = (comparing.nulls[0][field.name], comparing.nulls[1][field.name])
    shift = total_variation(one, other) if one and other else None
    return Drawn(name=field.name, type=str(field.type), private=private, one=one, other=other, nulls=nulls, shift=shift)
