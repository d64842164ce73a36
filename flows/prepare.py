"""Split a snapshot, fit the encoder on its training rows, and encode every part as a matrix in canonical row order.

raycycle run experiment=flights --until prepare
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.progress import Progress
from cluster.store import publish
from conf.errors import UsageError
from conf.schema import Encode
from tables import snapshots
from tables.contract import Contract
from tables.encoder import Encoder
from tables.rows import row_hashes, sort_order
from tables.rules import evaluate
from tables.sketches import Sketch, merge, sketch
from tables.snapshots import Snapshot
from tables.splits import HOLDOUT, LATER, PARTS, RANKED_ROWS, TRAIN, HashSplit, Split, TimeSplit
from tables.target import Target, label_sketch
from trainers.protocol import Matrix

MIN_PART_ROWS = {"train": 10, "valid": 2, "holdout": 2}


@dataclass(frozen=True)
class Rows:
    """One part of the split: its matrix, and for rows that are judged (holdout, later) the contract rows beside it."""

    matrix: Matrix
    table: pa.Table | None

    def __len__(self) -> int:
        return len(self.matrix.y)


@dataclass(frozen=True)
class Prepared:
    """`parts` by name (train, valid, holdout, and later if there is one); `reference` are sketches of the training columns.

    `can_fold`: rows are independent of time and group, so training rows may validate in turn.
    """

    contract: Contract
    encoder: Encoder
    target: Target
    parts: dict[str, Rows]
    reference: dict[str, Sketch]
    positive_share: float
    dropped_rows: int
    can_fold: bool
    split: Split

    @property
    def train(self) -> Matrix:
        return self.parts["train"].matrix

    @property
    def valid(self) -> Matrix:
        return self.parts["valid"].matrix


def row_keys(table: pa.Table, contract: Contract) -> NDArray[np.uint64]:
    """The stable key of each row: its key columns, or all its content where the contract names none."""
    return row_hashes(table, contract.key or list(contract.columns), "key")


def keys_and_labels(file: Path, contract: Contract) -> tuple[NDArray[np.uint64], pa.Array]:
    table = snapshots.read(file)
    return row_keys(table, contract), table.column(contract.label).combine_chunks()


def summarise(file: Path, contract: Contract, split: Split) -> tuple[dict[str, Sketch], Sketch]:
    """Sketches of one file: of the feature columns of its training rows, and of all its labels."""
    table = snapshots.read(file)
    part = split.assign(table, row_keys(table, contract), contract.label)
    train = table.filter(pa.array(part == TRAIN))
    columns = {name: sketch(train.column(name).combine_chunks()) for name in contract.features}
    return columns, label_sketch(contract, table.column(contract.label).combine_chunks())


def encode(file: Path, contract: Contract, split: Split, encoder: Encoder, target: Target, kept: list[str]) -> dict[str, Any]:
    """One file as matrices by part. Rows whose label is not a known class are left out and counted."""
    table = snapshots.read(file)
    keys = row_keys(table, contract)
    part = split.assign(table, keys, contract.label)
    y = target.encode(table.column(contract.label).combine_chunks())
    usable = np.isfinite(y)
    content = row_hashes(table, list(contract.columns), "content")
    found: dict[str, Any] = {"dropped": int((~usable).sum())}
    for number, name in enumerate(PARTS):
        rows = np.flatnonzero(usable & (part == number))
        judged = number in (HOLDOUT, LATER)
        x = encoder.encode(table.take(pa.array(rows)))
        found[name] = (x, y[rows], keys[rows], content[rows], table.select(kept).take(pa.array(rows)) if judged else None)
    return found


def prepare(snapshot: Snapshot, contract: Contract, split: Split, settings: Encode, slices: list[str], progress: Progress) -> Prepared:
    """Raises UsageError when a part of the split is too small, or when the label cannot be learned."""
    split.check(contract)
    with progress.stage("prepare", snapshot.rows) as bar:
        if split.needs_keys and snapshot.rows <= RANKED_ROWS:
            found = _each(keys_and_labels, snapshot.files, contract)
            split = split.fitted(np.concatenate([k for k, _ in found]), pa.concat_arrays([labels for _, labels in found]))
        sketches = _each(summarise, snapshot.files, contract, split)
        reference = reduce(merge, (columns for columns, _ in sketches))
        labels = reduce(lambda a, b: merge({"y": a}, {"y": b})["y"], (labels for _, labels in sketches))
        target = Target.of(contract, labels)
        along = split.column if isinstance(split, TimeSplit) else None
        encoder = Encoder.fit(contract, reference, time_column=along, max_levels=settings.max_levels, min_rows=settings.min_rows)
        kept = list(dict.fromkeys([*contract.features, *slices, *contract.key]))
        encoded = _each(encode, snapshot.files, contract, split, encoder, target, kept)
        parts = {name: _gather([part[name] for part in encoded], encoder) for name in PARTS}
        bar.advance(sum(len(part) for part in parts.values()), f"{len(encoder.features)} features")
    for name, least in MIN_PART_ROWS.items():
        if len(parts[name]) < least:
            raise UsageError(
                f"the split leaves {len(parts[name])} rows in {name!r}",
                allowed=f"{least} or more",
                next="set other dataset.split bounds or shares",
            )
    return Prepared(
        contract,
        encoder,
        target,
        {name: part for name, part in parts.items() if len(part)},
        reference,
        float(parts["train"].matrix.y.mean()) if contract.task == "binary" else 0.0,
        sum(part["dropped"] for part in encoded),
        isinstance(split, HashSplit) and split.by is None,
        split,
    )


def unseen(file: Path, contract: Contract, split: Split, where: str | None, folder: Path) -> int:
    """Write the rows of one file that satisfy `where`, or that no model trained on, as a file of `folder`; returns how many."""
    table = snapshots.read(file)
    if where is not None:
        rows = pc.fill_null(evaluate(where, table), False)
    else:
        rows = pa.array(np.isin(split.assign(table, row_keys(table, contract), contract.label), (HOLDOUT, LATER)))
    chosen = table.filter(rows)
    if chosen.num_rows:
        pq.write_table(chosen, folder / file.name, compression="zstd")
    return chosen.num_rows


def unseen_rows(snapshot: Snapshot, prepared: Prepared, where: str | None, folder: Path) -> Path:
    """A Parquet folder of contract rows to score: by the rule `where`, else all that lie outside training and validation."""
    with publish(folder) as draft:
        count = sum(_each(unseen, snapshot.files, prepared.contract, prepared.split, where, draft))
        if not count:
            raise UsageError("score.where holds for no row of the snapshot", value=where, next="set score.where to another rule")
    return folder


def _each(function: Callable[..., Any], files: Iterable[Path], *shared: Any) -> list[Any]:
    """`function(file, *shared)` for every file, as Ray tasks, in the order of the files."""
    import ray

    task = ray.remote(function)
    references = [ray.put(value) for value in shared]
    return ray.get([task.remote(file, *references) for file in files])


def _gather(pieces: list[Any], encoder: Encoder) -> Rows:
    x, y, keys, content = (np.concatenate([piece[i] for piece in pieces]) for i in range(4))
    order = sort_order(keys, content)
    tables = [piece[4] for piece in pieces if piece[4] is not None]
    table = pa.concat_tables(tables).take(pa.array(order)).combine_chunks() if tables else None
    return Rows(Matrix(np.ascontiguousarray(x[order]), y[order], encoder.features), table)
