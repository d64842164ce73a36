"""Mergeable summaries of columns: the same counts whatever the order or partition of the rows, in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Values are binned by the upper 20 bits of their float32 form: sign, exponent and 11 bits of mantissa, 0.05 % wide.
_SHIFT = 12
_FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_LEVELS = 1_000_000
# Of all levels of one column together: a table of long texts must not fill the memory before it has a million of them.
MAX_CHARACTERS = 64_000_000
TOO_MANY_LEVELS = f"more than {MAX_LEVELS:,} levels, or {MAX_CHARACTERS:,} characters in them"


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Order-preserving integer codes of float32 bins: a code grows with its value."""
    bits = np.clip(values, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32).view(np.int32).astype(np.int64)
    codes = (bits & 0x7FFFFFFF) >> _SHIFT
    return np.where(bits < 0, -codes, codes)


def _centres(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The lower edge of each bin, so that small whole numbers and simple fractions come back exact."""
    bits = (np.abs(codes) << _SHIFT).astype(np.int32)
    return np.where(codes < 0, -1.0, 1.0) * bits.view(np.float32).astype(np.float64)


@dataclass(eq=False)
class NumericSketch:
    """Counts of a numeric column in fine fixed bins. Quantiles from it are exact to 0.05 % of the value; `low`, `high` are exact."""

    codes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    nulls: int = 0
    infinite: int = 0
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, array: pa.Array) -> NumericSketch:
        values = as_floats(array)
        finite = values[np.isfinite(values)]
        codes, counts = np.unique(_bins(finite), return_counts=True)
        # Adding zero makes -0.0 the 0.0 that it equals: which of the two is the smaller would hang on the order of the rows.
        low, high = (float(finite.min()) + 0.0, float(finite.max()) + 0.0) if len(finite) else (None, None)
        return cls(codes, counts.astype(np.int64), int(np.isnan(values).sum()), int(np.isinf(values).sum()), low, high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NumericSketch) and self.to_json() == other.to_json()

    def merge(self, other: NumericSketch) -> NumericSketch:
        codes, inverse = np.unique(np.concatenate([self.codes, other.codes]), return_inverse=True)
        counts = np.zeros(len(codes), np.int64)
        np.add.at(counts, inverse, np.concatenate([self.counts, other.counts]))
        low = min((x for x in (self.low, other.low) if x is not None), default=None)
        high = max((x for x in (self.high, other.high) if x is not None), default=None)
        return NumericSketch(codes, counts, self.nulls + other.nulls, self.infinite + other.infinite, low, high)

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def values(self) -> NDArray[np.float64]:
        """The lower edge of each bin that has rows, rising."""
        return _centres(self.codes)

    @property
    def missing(self) -> int:
        """Nulls and infinities: an infinity carries no usable magnitude, so the encoder treats it as missing."""
        return self.nulls + self.infinite

    def quantile(self, q: float) -> float:
        rank = np.searchsorted(np.cumsum(self.counts), q * self.count, side="left")
        return float(_centres(self.codes)[min(int(rank), len(self.codes) - 1)])

    def to_json(self) -> dict[str, Any]:
        numbers = {"nulls": self.nulls, "infinite": self.infinite, "low": self.low, "high": self.high}
        return {"codes": self.codes.tolist(), "counts": self.counts.tolist(), **numbers}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> NumericSketch:
        codes, counts = np.array(plain["codes"], np.int64), np.array(plain["counts"], np.int64)
        return cls(codes, counts, plain["nulls"], plain["infinite"], plain["low"], plain["high"])


@dataclass
class LevelSketch:
    """Exact counts of the levels of a text column, or of none of them once there are more than the bounds allow (`overflowed`).

    Whether a column overflows depends on its set of levels alone, so neither order nor layout of the rows can matter. Schemes that keep
    some levels fail at that: dropping the rarest at each merge forgets counts that later rows would have made large; a threshold on
    hashes keeps levels whatever their counts; a linear sketch (count-min) knows no names. And a column with more levels than
    `MAX_LEVELS` names its rows; it does not sort them into categories. `lost` counts its rows that have a value.
    """

    counts: Counter[str] = field(default_factory=Counter)
    nulls: int = 0
    lost: int = 0

    @classmethod
    def of(cls, array: pa.Array) -> LevelSketch:
        levels, counts = pc.value_counts(array.cast(pa.string()).drop_null()).flatten()
        if _beyond(len(levels), pc.sum(pc.utf8_length(levels)).as_py() or 0):
            return cls(nulls=array.null_count, lost=len(array) - array.null_count)
        return cls(Counter(dict(zip(levels.to_pylist(), counts.to_pylist(), strict=True))), array.null_count)

    def merge(self, other: LevelSketch) -> LevelSketch:
        nulls, rows = self.nulls + other.nulls, self.rows + other.rows
        if self.overflowed or other.overflowed:
            return LevelSketch(nulls=nulls, lost=rows)
        merged = self.counts + other.counts
        if _beyond(len(merged), sum(map(len, merged))):
            return LevelSketch(nulls=nulls, lost=rows)
        return LevelSketch(merged, nulls)

    @property
    def rows(self) -> int:
        """How many rows have a value."""
        return self.counts.total() + self.lost

    @property
    def overflowed(self) -> bool:
        return self.lost > 0

    def top(self, most: int, at_least: int) -> list[str]:
        """Levels by falling count, then by name; rarer ones than `at_least` rows are left out."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [level for level, count in ranked[:most] if count >= at_least]

    def to_json(self) -> dict[str, Any]:
        return {"levels": dict(sorted(self.counts.items())), "nulls": self.nulls, "lost": self.lost}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> LevelSketch:
        return cls(Counter(plain["levels"]), plain["nulls"], plain["lost"])


def _beyond(levels: int, characters: int) -> bool:
    return levels > MAX_LEVELS or characters > MAX_CHARACTERS


Sketch = NumericSketch | LevelSketch


def sketch(array: pa.Array) -> Sketch:
    return LevelSketch.of(array) if pa.types.is_string(array.type) else NumericSketch.of(array)


def merge(one: dict[str, Sketch], other: dict[str, Sketch]) -> dict[str, Sketch]:
    """Merge the sketches of two sets of rows, column by column."""
    return {name: one[name].merge(other[name]) for name in one} if one and other else (one or other)  # type: ignore[arg-type]


def as_floats(array: pa.Array) -> NDArray[np.float64]:
    """float64 [rows], NaN where null. Dates count days and timestamps seconds since 1970."""
    scale = 1.0
    if pa.types.is_date(array.type):
        array = array.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_timestamp(array.type):
        array, scale = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64()), 1e6
    return np.asarray(array.cast(pa.float64(), safe=False).fill_null(np.nan), np.float64) / scale
