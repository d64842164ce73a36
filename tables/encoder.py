"""The encoder: the one definition of every feature, used alike in training, batch scoring and serving.

Fitted from mergeable sketches of the training rows; stored as JSON; Arrow batch in, float32 matrix out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.store import read_json, write_json
from conf.errors import RaycycleError, UsageError
from tables.contract import Contract
from tables.features import Feature
from tables.sketches import TOO_MANY_LEVELS, LevelSketch, NumericSketch, Sketch, as_floats

DatePart = Literal["weekday", "hour", "day_of_year", "days"]
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class NumericSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="numeric"):
    """A number as it is; missing ones become `fill` (the training median), marked by an indicator when training had any."""

    column: str
    fill: float
    indicator: bool

    def features(self) -> list[Feature]:
        value = [Feature(self.column, "numeric", self.column)]
        return [*value, Feature(f"{self.column} is missing", "indicator", self.column)] if self.indicator else value

    def encode(self, array: pa.Array, out: NDArray[np.float32]) -> None:
        values = as_floats(array)
        missing = ~np.isfinite(values)
        out[:, 0] = np.clip(np.where(missing, self.fill, values), -_FLOAT32_MAX, _FLOAT32_MAX)
        if self.indicator:
            out[:, 1] = missing


class LevelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="levels"):
    """A category as its code: 0 is unseen or rare, then the training levels by falling count; null is a level of its own."""

    column: str
    levels: list[str]
    null_code: int

    def features(self) -> list[Feature]:
        return [Feature(self.column, "categorical", self.column, len(self.levels) + 1 + (self.null_code > 0))]

    def encode(self, array: pa.Array, out: NDArray[np.float32]) -> None:
        codes = pc.index_in(array, value_set=pa.array(self.levels, pa.string()), skip_nulls=True)
        out[:, 0] = np.asarray(codes.fill_null(-1)) + 1
        if array.null_count and self.null_code:
            out[np.asarray(array.is_null()), 0] = self.null_code


class DateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="date"):
    """Parts of a date, each a number: weekday (Monday 0), hour, day of the year, days since 1970. Missing: `fills`, marked."""

    column: str
    parts: list[DatePart]
    fills: list[float]
    indicator: bool

    def features(self) -> list[Feature]:
        parts = [Feature(f"{self.column} {part}", "numeric", self.column) for part in self.parts]
        return [*parts, Feature(f"{self.column} is missing", "indicator", self.column)] if self.indicator else parts

    def encode(self, array: pa.Array, out: NDArray[np.float32]) -> None:
        missing = np.asarray(array.is_null())
        for i, (part, fill) in enumerate(zip(self.parts, self.fills, strict=True)):
            out[:, i] = np.where(missing, fill, as_floats(_PARTS[part](array)))
        if self.indicator:
            out[:, len(self.parts)] = missing


_PARTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "weekday": pc.day_of_week,
    "hour": lambda array: pc.hour(array) if pa.types.is_timestamp(array.type) else pa.array(np.zeros(len(array), np.int64)),
    "day_of_year": pc.day_of_year,
    "days": lambda array: array.cast(pa.date32()).cast(pa.int32()),
}

Spec = NumericSpec | LevelSpec | DateSpec


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[1]
    specs: list[Spec]
    dropped: dict[str, str]


class Encoder:
    """The fitted transform of a contract's feature columns. `features` describes the matrix columns, in order."""

    def __init__(self, specs: list[Spec], dropped: dict[str, str]) -> None:
        self.specs, self.dropped = specs, dropped
        self.features = tuple(feature for spec in specs for feature in spec.features())
        self.columns = [spec.column for spec in specs]

    @classmethod
    def fit(cls, contract: Contract, sketches: dict[str, Sketch], *, time_column: str | None, max_levels: int, min_rows: int) -> Encoder:
        """Decide every feature from the training rows' sketches.

        A column with one value (or none) is dropped and named in `dropped`. `time_column` is the one the split runs along: its day
        count and day of the year lie outside the training range by construction, so they are no features.
        """
        specs: list[Spec] = []
        dropped: dict[str, str] = {}
        for name in contract.features:
            spec = _decide(name, contract.columns[name].type, sketches[name], name == time_column, max_levels, min_rows)
            if isinstance(spec, str):
                dropped[name] = spec
            else:
                specs.append(spec)
        if not specs:
            raise UsageError("no feature varies in the training rows", value=dropped, next="add columns, or give their role as feature")
        return cls(specs, dropped)

    def encode(self, rows: pa.RecordBatch | pa.Table) -> NDArray[np.float32]:
        """float32 [rows, features] for typed contract rows (columns of the types of `tables.casting.ARROW`)."""
        out = np.empty((rows.num_rows, len(self.features)), np.float32)
        at = 0
        for spec in self.specs:
            array = rows.column(spec.column)
            if isinstance(array, pa.ChunkedArray):
                array = array.combine_chunks()
            width = len(spec.features())
            spec.encode(array, out[:, at : at + width])
            at += width
        return out

    def save(self, folder: Path) -> None:
        stored = _Stored(format=1, specs=self.specs, dropped=self.dropped)
        write_json(folder / "encoder.json", msgspec.to_builtins(stored))

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Raises RaycycleError when the file is damaged, or of another version."""
        try:
            stored = msgspec.convert(read_json(folder / "encoder.json"), _Stored)
        except msgspec.ValidationError as error:
            raise RaycycleError(f"{folder / 'encoder.json'} is not an encoder of this version ({error})") from error
        return cls(stored.specs, stored.dropped)


def _decide(name: str, kind: str, sketch: Sketch, along_time: bool, max_levels: int, min_rows: int) -> Spec | str:
    """How a column becomes features, or why it becomes none."""
    if isinstance(sketch, LevelSketch):
        if sketch.overflowed:
            return TOO_MANY_LEVELS
        levels = sketch.top(max_levels, min(min_rows, max(1, sketch.counts.total() // 20)))
        if not levels:
            return "no level is frequent enough" if sketch.counts else "all null"
        if len(sketch.counts) == 1 and not sketch.nulls:
            return "constant"
        return LevelSpec(name, levels, len(levels) + 1 if sketch.nulls else 0)
    if not sketch.count:
        return "all null"
    # Not by bins: years, prices or moments that lie close together share one and yet differ.
    constant = sketch.low == sketch.high
    if constant and not sketch.missing:
        return "constant"
    if kind in ("date", "timestamp"):
        return _date_spec(name, kind, sketch, along_time)
    return NumericSpec(name, sketch.quantile(0.5), sketch.missing > 0)


def _date_spec(name: str, kind: str, sketch: NumericSketch, along_time: bool) -> DateSpec:
    per_day = 1.0 if kind == "date" else 86_400.0
    parts: list[DatePart] = ["weekday"]
    if kind == "timestamp":
        parts.append("hour")
    if not along_time:
        parts += ["day_of_year", "days"]
    median_day = math.floor(sketch.quantile(0.5) / per_day)
    fills = {"weekday": 3.0, "hour": 12.0, "day_of_year": 182.0, "days": float(median_day)}
    return DateSpec(name, parts, [fills[part] for part in parts], sketch.nulls > 0)
