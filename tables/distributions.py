"""How a column's values are spread, from its sketch: the same few bins for two sketches, so that they can be drawn and compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tables.sketches import LevelSketch, NumericSketch, Sketch, sketch
from tables.snapshots import SnapshotFile, read

BINS = 24
# A report needs the frequent levels; a text column with more than these names its rows.
MAX_LEVELS = 50_000
REST = "(others)"


class Spread(NamedTuple):
    """Counts of the same bins in one or more sketches. `labels` name levels; numbers have `edges`, one more than bins."""

    counts: list[NDArray[np.int64]]
    labels: list[str]
    edges: NDArray[np.float64]


def bounded_sketch(array: pa.Array) -> Sketch:
    """As `tables.sketches.sketch`, with a bound on levels that lets many columns be held at once."""
    return bounded(sketch(array))


def bounded(made: Sketch) -> Sketch:
    """The sketch, without its levels where they are too many. That hangs on the set of levels alone, as in `LevelSketch` itself."""
    if isinstance(made, LevelSketch) and len(made.counts) > MAX_LEVELS:
        return LevelSketch(nulls=made.nulls, lost=made.rows)
    return made


def merged(one: dict[str, Sketch], other: dict[str, Sketch]) -> dict[str, Sketch]:
    """The sketches of two sets of rows, column by column."""
    if not one or not other:
        return one or other
    return {name: bounded(one[name].merge(other[name])) for name in one}  # type: ignore[arg-type]


def spread(*sketches: Sketch) -> Spread | None:
    """Bins that fit all the sketches; None where there is nothing to count, or levels were too many to keep."""
    if any(isinstance(each, LevelSketch) and each.overflowed for each in sketches):
        return None
    if all(isinstance(each, NumericSketch) for each in sketches):
        return _numbers([each for each in sketches if isinstance(each, NumericSketch)])
    return _levels([each for each in sketches if isinstance(each, LevelSketch)])


def _numbers(sketches: list[NumericSketch]) -> Spread | None:
    known = [each for each in sketches if each.count]
    if not known:
        return None
    values = [each.values for each in sketches]
    distinct = np.unique(np.concatenate(values))
    if len(distinct) <= BINS:
        edges = np.append(distinct, distinct[-1])
    else:
        low, high = min(each.quantile(0.005) for each in known), max(each.quantile(0.995) for each in known)
        # Nearly all in one place, with some far away: then the whole range says more than its middle.
        edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(distinct[0], distinct[-1], BINS + 1)
    inner = edges[1:-1]
    counts = [
        np.bincount(np.searchsorted(inner, value, "right"), each.counts, len(edges) - 1).astype(np.int64)
        for each, value in zip(sketches, values, strict=True)
    ]
    return Spread(counts, [], edges)


def _levels(sketches: list[LevelSketch]) -> Spread | None:
    total = sum((each.counts for each in sketches[1:]), sketches[0].counts.copy())
    ranked = sorted(total, key=lambda level: (-total[level], level))
    if not ranked:
        return None
    names = ranked if len(ranked) <= BINS else ranked[: BINS - 1]
    counts = [[each.counts[name] for name in names] for each in sketches]
    if len(names) < len(ranked):
        counts = [[*found, each.rows - sum(found)] for found, each in zip(counts, sketches, strict=True)]
        names = [*names, REST]
    return Spread([np.array(found, np.int64) for found in counts], names, np.zeros(0))


def total_variation(one: Sketch, other: Sketch) -> float | None:
    """Half the sum of the differences between the shares of each value: 0 where they are spread alike, 1 where they share no value.

    Measured on the bins of `spread`. None where one side has no value, or kept no levels.
    """
    found = spread(one, other)
    if found is None or not all(counts.sum() for counts in found.counts):
        return None
    mine, theirs = (counts / counts.sum() for counts in found.counts)
    return round(float(np.abs(mine - theirs).sum() / 2), 6)


def read_as(file: SnapshotFile, schema: pa.Schema) -> pa.Table:
    """The columns of one file as `schema` has them; those that were added after the file was written are null in it."""
    table = read(file)
    there = dict(zip(table.column_names, table.columns, strict=True))  # a table looks its names up one after the other
    arrays = [there[field.name].cast(field.type) if field.name in there else pa.nulls(table.num_rows, field.type) for field in schema]
    return pa.table(arrays, schema=pa.schema([field.with_nullable(True) for field in schema]))
