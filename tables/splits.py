"""Which rows train, validate and hold out: by time, or by a hash of a stable row key, never by position or chance."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from conf.errors import UsageError, some
from tables.contract import Contract
from tables.rows import row_hashes

TRAIN, VALID, HOLDOUT, LATER = 0, 1, 2, 3
PARTS = ("train", "valid", "holdout", "later")

# Above this many rows plain hash thresholds give the wanted shares closely enough in every class.
RANKED_ROWS = 200_000


class Split(Protocol):
    """How rows are assigned; `needs_keys` says that `fitted` wants to see the keys and labels of a small table first."""

    needs_keys: ClassVar[bool]

    def check(self, contract: Contract) -> None: ...

    def fitted(self, keys: NDArray[np.uint64], labels: pa.Array) -> Split: ...

    def assign(self, table: pa.Table, keys: NDArray[np.uint64], label: str) -> NDArray[np.uint8]:
        """The part (TRAIN .. LATER) of each row; `keys` are uint64 [rows] row-key hashes."""
        ...


def row_keys(table: pa.Table, contract: Contract) -> NDArray[np.uint64]:
    """The stable key of each row: its key columns, or all its content where the contract names none."""
    return row_hashes(table, contract.key or list(contract.columns), "key")


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Rows before `valid_from` train, before `holdout_from` validate, before `later_from` (if any) hold out; the rest come later."""

    column: str
    valid_from: Any
    holdout_from: Any
    later_from: Any = None
    needs_keys: ClassVar[bool] = False

    def check(self, contract: Contract) -> None:
        if self.column not in contract.columns:
            raise UsageError("split.column is not in the contract", value=self.column, allowed=some(contract.columns))
        kind = contract.schema([self.column]).field(0).type
        bounds = [b for b in (self.valid_from, self.holdout_from, self.later_from) if b is not None]
        try:
            moments = [_scalar(bound, kind).as_py() for bound in bounds]
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise UsageError(f"split bounds do not fit column {self.column!r} ({error})", value=bounds, allowed=str(kind)) from None
        if any(a >= b for a, b in itertools.pairwise(moments)):
            raise UsageError("split bounds must rise: valid_from < holdout_from < later_from", value=bounds)

    def fitted(self, keys: NDArray[np.uint64], labels: pa.Array) -> TimeSplit:
        return self

    def assign(self, table: pa.Table, keys: NDArray[np.uint64], label: str) -> NDArray[np.uint8]:
        values = table.column(self.column)
        part = np.zeros(table.num_rows, np.uint8)
        for bound in (self.valid_from, self.holdout_from, self.later_from):
            if bound is not None:
                # A row without a time cannot be proven to be old, so it counts as the newest.
                after = pc.fill_null(pc.greater_equal(values, _scalar(bound, values.type)), True)
                part += np.asarray(after, bool)
        return part


def _scalar(bound: Any, kind: pa.DataType) -> pa.Scalar:
    if isinstance(bound, str) and pa.types.is_timestamp(kind):
        moment = dt.datetime.fromisoformat(bound)
        return pa.scalar(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC), kind)
    if isinstance(bound, str) and pa.types.is_date(kind):
        return pa.scalar(dt.date.fromisoformat(bound[:10]), kind)
    return pa.scalar(bound, kind)


@dataclass(frozen=True, kw_only=True)
class HashSplit:
    """Shares of rows by a hash of the row key, or of the group in column `by` so that no group lies on both sides.

    `thresholds` (class -> where validation and training begin on the hash's 0..1 scale) come from `fitted`; on a small table they give
    each class its exact share.
    """

    valid: float = 0.16
    holdout: float = 0.2
    by: str | None = None
    stratify: bool = True
    thresholds: tuple[tuple[str, float, float], ...] = ()
    needs_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("valid", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"split.{name} is not a share", value=getattr(self, name), allowed="more than 0, less than 1")
        if self.valid + self.holdout >= 1:
            raise UsageError("split leaves nothing to train on", value=self.valid + self.holdout, allowed="valid + holdout < 1")

    def check(self, contract: Contract) -> None:
        if self.by is not None and self.by not in contract.columns:
            raise UsageError("split.by is not in the contract", value=self.by, allowed=some(contract.columns))
        if self.stratify and self.by is None and contract.task == "regression":
            raise UsageError(
                "split.stratify needs classes", value=True, allowed="false for regression", next="set dataset.split.stratify=false"
            )

    def fitted(self, keys: NDArray[np.uint64], labels: pa.Array) -> HashSplit:
        if self.by is not None or len(keys) > RANKED_ROWS:
            return self
        unit = _unit(keys)
        found = []
        classes = _classes(labels) if self.stratify else np.full(len(keys), "", object)
        for each in sorted(set(classes)):
            ranked = np.sort(unit[classes == each])
            # At least one row of each class must train; the other parts get what is left of their share.
            held, kept = (min(round(len(ranked) * share), len(ranked) - 1) for share in (self.holdout, self.holdout + self.valid))
            found.append((str(each), float(ranked[held]), float(ranked[kept])))
        return HashSplit(valid=self.valid, holdout=self.holdout, by=self.by, stratify=self.stratify, thresholds=tuple(found))

    def assign(self, table: pa.Table, keys: NDArray[np.uint64], label: str) -> NDArray[np.uint8]:
        unit = _unit(row_hashes(table, [self.by]) if self.by is not None else keys)
        held, kept = np.full(len(keys), self.holdout), np.full(len(keys), self.holdout + self.valid)
        classes = _classes(table.column(label)) if self.stratify and self.thresholds else None
        for name, to_valid, to_train in self.thresholds:
            rows = slice(None) if classes is None else classes == name
            held[rows], kept[rows] = to_valid, to_train
        return np.where(unit < held, HOLDOUT, np.where(unit < kept, VALID, TRAIN)).astype(np.uint8)


def _classes(labels: pa.Array | pa.ChunkedArray) -> NDArray[np.object_]:
    """The label of each row as text; rows without one are a class of their own."""
    return np.asarray(labels.cast(pa.string()).fill_null(""))


def _unit(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    return (keys >> np.uint64(11)).astype(np.float64) / float(1 << 53)
