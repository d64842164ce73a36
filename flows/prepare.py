"""Split a snapshot, fit the encoder on its training rows, and encode every part as a matrix in canonical row order.

$ raycycle run experiment=flights --until prepare
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.progress import Progress
from cluster.store import publish
from conf.errors import UsageError
from conf.schema import Encode
from flows.prepared import Prepared, Rows
from tables import snapshots
from tables.contract import Contract
from tables.encoder import Encoder
from tables.privacy.treatment import treated_contract
from tables.rows import row_hashes, sort_order
from tables.rules import evaluate
from tables.sketches import Sketch, merge, sketch
from tables.snapshots import Snapshot, SnapshotFile
from tables.splits import HOLDOUT, LATER, PARTS, RANKED_ROWS, TRAIN, Split, TimeSplit, row_keys
from tables.target import Target, label_sketch
from trainers.protocol import Matrix

MIN_PART_ROWS = {"train": 10, "valid": 2, "holdout": 2}


def keys_and_labels(file: SnapshotFile, contract: Contract) -> tuple[NDArray[np.uint64], pa.Array]:
    """The row keys and the labels of one file, for a split that must see all of a small table."""
    table = snapshots.read(file)
    return row_keys(table, contract), table.column(contract.label).combine_chunks()


def summarise(file: SnapshotFile, contract: Contract, split: Split) -> tuple[dict[str, Sketch], Sketch]:
    """Sketches of one file: of the feature columns of its training rows, and of all its labels."""
    table = snapshots.read(file)
    part = split.assign(table, row_keys(table, contract), contract.label)
    train = table.filter(pa.array(part == TRAIN))
    columns = {name: sketch(train.column(name).combine_chunks()) for name in contract.features}
    return columns, label_sketch(contract, table.column(contract.label).combine_chunks())


class Piece(NamedTuple):
    """One part of one file. `keys` and `content` are hashes, uint64 [rows], that put rows in canonical order."""

    x: NDArray[np.float32]
    y: NDArray[np.float64]
    keys: NDArray[np.uint64]
    content: NDArray[np.uint64]
    table: pa.Table


def encode(
    file: SnapshotFile, contract: Contract, split: Split, encoder: Encoder, target: Target, kept: list[str]
) -> tuple[dict[str, Piece], int]:
    """One file by part, and how many rows were left out since their label is no known class. Judged parts keep the columns `kept`."""
    table = _one_zero(snapshots.read(file))
    keys = row_keys(table, contract)
    part = split.assign(table, keys, contract.label)
    y = target.encode(table.column(contract.label).combine_chunks())
    usable = np.isfinite(y)
    content = row_hashes(table, list(contract.columns), "content")
    found = {}
    for number, name in enumerate(PARTS):
        rows = np.flatnonzero(usable & (part == number))
        mine = table.take(pa.array(rows))
        judged = mine.select(kept if number in (HOLDOUT, LATER) else [])
        found[name] = Piece(encoder.encode(mine), y[rows], keys[rows], content[rows], judged)
    return found, int((~usable).sum())


def _one_zero(table: pa.Table) -> pa.Table:
    """-0.0 as 0.0. To every hash they are one value, so which of two such rows comes first would hang on the files they lie in."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            table = table.set_column(i, field, pc.add(table.column(i), pa.scalar(0.0, field.type)))
    return table


def prepare(snapshot: Snapshot, contract: Contract, split: Split, settings: Encode, slices: list[str], progress: Progress) -> Prepared:
    """Raises UsageError when a part of the split is too small, or when the label cannot be learned."""
    incoming, contract = contract, treated_contract(contract)
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
        parts = {name: _gather([parts_of_file[name] for parts_of_file, _ in encoded], encoder) for name in PARTS}
        bar.advance(sum(len(part) for part in parts.values()), f"{len(encoder.features)} features")
    for name, least in MIN_PART_ROWS.items():
        if len(parts[name]) < least:
            raise UsageError(
                f"the split leaves {len(parts[name])} rows in {name!r}",
                allowed=f"{least} or more",
                next="set other dataset.split bounds or shares",
            )
    return Prepared(
        contract=incoming,
        encoder=encoder,
        target=target,
        parts={name: part for name, part in parts.items() if len(part)},
        reference=reference,
        positive_share=float(parts["train"].matrix.y.mean()) if contract.task == "binary" else 0.0,
        dropped_rows=sum(dropped for _, dropped in encoded),
        split=split,
    )


def unseen(file: SnapshotFile, contract: Contract, split: Split, where: str | None, folder: Path) -> int:
    """Write the rows of one file that satisfy `where`, or that no model trained on, as a file of `folder`; returns how many."""
    table = _one_zero(snapshots.read(file))
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
        count = sum(_each(unseen, snapshot.files, prepared.treated, prepared.split, where, draft))
        if not count:
            raise UsageError("score.where holds for no row of the snapshot", value=where, next="set score.where to another rule")
    return folder


def _each(function: Callable[..., Any], files: Iterable[SnapshotFile], *shared: Any) -> list[Any]:
    """`function(file, *shared)` for every file, as Ray tasks, in the order of the files."""
    import ray

    task = ray.remote(function)
    references = [ray.put(value) for value in shared]
    return ray.get([task.remote(file, *references) for file in files])


def _gather(pieces: list[Piece], encoder: Encoder) -> Rows:
    """What `encode` made of one part in every file, in canonical row order."""
    columns = zip(*pieces, strict=True)
    x, y, keys, content = (np.concatenate(next(columns)) for _ in range(4))
    order = sort_order(keys, content)
    table = pa.concat_tables(next(columns)).take(pa.array(order)).combine_chunks()
    return Rows(Matrix(np.ascontiguousarray(x[order]), y[order], encoder.features), keys[order], table)
