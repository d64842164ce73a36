"""Rows that are one and the same thing, brought together by the hash of their key at any size, so that one of them stays.

Each batch is scattered into a file of its own, sorted by key hash; then each range of hashes is gathered from all files and settled by
itself. A range is made small enough for memory, and one heavy key cannot fill it: what lost so far is forgotten on the way.

Measured beside Ray Data 2.60's own hash shuffle (`bench/duplicates.py`, 2 cores, a million rows): 7.3 s to 16.3 s, and less memory. Its
number of partitions must be known before the rows are, while here it follows from what was scattered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import UsageError, some, suggest
from conf.schema import Duplicates
from tables.contract import Contract
from tables.privacy.treatment import treated_contract, treatments
from tables.rows import Hashes, equal_to_the_one_before, row_hashes

RANGE_BYTES = 64 << 20
TIMES = ("timestamp", "date", "int64", "double")
# Columns that only travel: the hash of the key, where a row was read, and whether it is in the table already. They are no content.
HASH, OLD = "_hash", "_old"
HIDDEN = ("_file", "_row", HASH, OLD)


@dataclass(frozen=True, kw_only=True)
class Once:
    """Rows that agree in `columns` are one; the one with the latest `time` stays, or where there is none the first by content.

    Which one that is hangs on the rows alone. A row that lacks a part of its key is like no other, unless the whole row is the key.
    `rule` names the breach that the others are; without one they are duplicates, removed and counted.
    """

    columns: tuple[str, ...]
    time: str | None = None
    whole_row: bool = False
    rule: str = ""
    severity: str = "quarantine"


@dataclass(frozen=True, order=True)
class Piece:
    """A scattered file, of `size` bytes in memory; `mark` tells its rows, so that pieces are in an order that no file name decides."""

    size: int
    mark: int
    path: str


def asked(contract: Contract, settings: Duplicates | None) -> tuple[Once, ...]:
    """What the dataset asks for, then what the contract promises. Raises UsageError for columns that are not there or are no time."""
    onces = () if settings is None else (_removed(contract, settings),)
    return onces + tuple(Once(columns=tuple(names), rule=f"unique:{','.join(names)}") for names in contract.unique)


def _removed(contract: Contract, settings: Duplicates) -> Once:
    if settings.by == "exact":
        return Once(columns=tuple(treated_contract(contract).columns), whole_row=True)
    time = settings.time or contract.time
    columns = _columns(contract, settings.by)
    if time is None or contract.columns.get(time) is None or contract.columns[time].type not in TIMES:
        raise UsageError(
            "dataset.duplicates.time does not say which row is the latest",
            value=time,
            allowed=some([name for name, column in contract.columns.items() if column.type in TIMES]) or "a number or a time",
            next="name a column that grows with time, or set dataset.duplicates.by=exact",
        )
    return Once(columns=columns, time=time)


def _columns(contract: Contract, names: Sequence[str]) -> tuple[str, ...]:
    changed = treatments(contract)
    for name in names:
        if name not in contract.columns:
            said = f"dataset.duplicates.by names no column{suggest(name, contract.columns)}"
            raise UsageError(said, value=name, allowed=some(contract.columns))
        if name in changed and not changed[name].separates:
            said = "dataset.duplicates.by names a column whose treatment makes different values alike"
            raise UsageError(said, value=name, allowed="a column without a treatment, or one that is hashed or tokenised")
    return tuple(names)


def content(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in HIDDEN]


def scatter(once: Once, rows: pa.Table, file: Path) -> Piece:
    """Write `rows` in the order of their key's hash. Uncompressed, so that a range of it is found and read without the rest."""
    hashes = row_hashes(rows, once.columns)
    order = np.argsort(hashes)
    ordered = rows.take(pa.array(order)).append_column(HASH, pa.array(hashes[order])).combine_chunks()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, ordered.schema) as writer:
        writer.write_table(ordered)
    return Piece(ordered.nbytes, int(hashes.sum(dtype=np.uint64)), str(file))


def ranges(pieces: Sequence[Piece], range_bytes: int = RANGE_BYTES) -> list[tuple[int, int]]:
    """Ranges of hashes, first and last, that hold about `range_bytes` each."""
    count = -(-sum(piece.size for piece in pieces) // range_bytes)
    bounds = [index * 2**64 // count for index in range(count + 1)] if count else []
    return [(first, following - 1) for first, following in itertools.pairwise(bounds)]


def gather(pieces: Sequence[Piece], first: int, last: int) -> Iterator[pa.Table]:
    """The rows whose hash lies in the range, from one file after another."""
    for piece in sorted(pieces):
        with pa.memory_map(piece.path) as source:
            for batch in _batches(pa.ipc.open_file(source)):
                hashes = np.asarray(batch.column(HASH))
                start = int(np.searchsorted(hashes, np.uint64(first), "left"))
                end = int(np.searchsorted(hashes, np.uint64(last), "right"))
                if end > start:
                    # Taken, not sliced: a slice would hold on to the whole file.
                    yield pa.Table.from_batches([batch]).take(pa.array(np.arange(start, end)))


def _batches(file: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
    for index in range(file.num_record_batches):
        yield file.get_batch(index)


def settle(once: Once, tables: Iterator[pa.Table], lose: Callable[[pa.Table], None], range_bytes: int = RANGE_BYTES) -> pa.Table | None:
    """The rows that stay, each key once; `lose` is given the others, a few at a time. None where there are no rows."""
    held: list[pa.Table] = []
    size = settled = 0
    for table in tables:
        held.append(table)
        size += table.nbytes
        if size > max(2 * settled, range_bytes):
            held = [_one_of_each(once, _together(held), lose)]
            size = settled = held[0].nbytes
    return _one_of_each(once, _together(held), lose) if held else None


def _together(tables: list[pa.Table]) -> pa.Table:
    """Rows of an older version may lack a column, those of a source may not know where they were read."""
    return pa.concat_tables(tables, promote_options="default")


def _one_of_each(once: Once, rows: pa.Table, lose: Callable[[pa.Table], None]) -> pa.Table:
    """Only rows whose hash is there twice are looked at closely: mostly they are few."""
    hashes = np.asarray(rows.column(HASH).combine_chunks())
    repeated = np.flatnonzero(_repeated(hashes))
    if not once.whole_row:
        for name in once.columns:
            repeated = repeated[np.asarray(rows.column(name).combine_chunks().is_valid())[repeated]]
    if not len(repeated):
        return rows
    alike = rows.take(pa.array(repeated)).combine_chunks()
    order = _best_first(once, alike)
    lost = repeated[order[equal_to_the_one_before(alike, once.columns, order)]]
    lose(rows.take(pa.array(np.sort(lost))))
    stays = np.ones(rows.num_rows, bool)
    stays[lost] = False
    return rows.filter(pa.array(stays))


def _repeated(hashes: Hashes) -> NDArray[np.bool_]:
    """Whether another row has the same hash. It sorts: the files' own orders make that cheap."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    found = np.zeros(len(hashes), bool)
    found[order] = np.append(same, False) | np.insert(same, 0, False)
    return found


def _best_first(once: Once, rows: pa.Table) -> NDArray[np.int64]:
    """An order with rows of one key together, and first of them the one that stays."""
    orders = [np.asarray(rows.column(HASH).combine_chunks())]
    if once.rule and OLD in rows.column_names:
        orders.append(~np.asarray(rows.column(OLD).combine_chunks()))
    if once.time:
        orders.append(_latest_first(rows.column(once.time).combine_chunks()))
    orders.append(row_hashes(rows, content(rows)))
    return np.lexsort(orders[::-1])


def _latest_first(times: pa.Array) -> NDArray[np.float64] | NDArray[np.int64]:
    """Numbers that are smaller the later a time is; unknown times come last."""
    if pa.types.is_floating(times.type):
        numbers = np.array(times.cast(pa.float64()).fill_null(-np.inf))
        return -np.where(np.isnan(numbers), -np.inf, numbers)
    if pa.types.is_date32(times.type):
        times = times.cast(pa.int32())
    lowest = np.iinfo(np.int64).min
    return ~np.array(times.cast(pa.int64()).fill_null(lowest))
