"""The first thing in which a replayed stage differs from the recorded one: which column, which row, and both values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from flows.certificate import Difference
from flows.evaluation import Evaluation
from flows.prepared import Prepared
from flows.sweep import Swept
from tables import snapshots
from tables.contract import Contract
from tables.difference import first_difference
from tables.rows import TableDigest, row_hashes
from tables.snapshots import Snapshot, SnapshotFile
from tables.splits import PARTS, row_keys

ABSENT = "absent"


@dataclass(frozen=True)
class Sides:
    """Where the results of one stage lie: as recorded, and as replayed."""

    recorded: Path
    replayed: Path


def of_snapshots(lying: Snapshot, fresh: Snapshot, contract: Contract) -> Difference | None:
    """The first cell of the recorded snapshot, as its files lie, that its source gives otherwise."""
    files = tuple(SnapshotFile(file.path) for file in lying.files)  # read unverified: the change is what is looked for
    found = first_difference(replace(lying, files=files, digest=TableDigest()), fresh, contract)
    return found and Difference("ingest", "snapshot as it lies (first) against its source", found.column, found.key, found.one, found.other)


def of_prepared(sides: Sides, plugins: list[str], snapshot: Snapshot) -> Difference | None:
    """The first feature, and the first row of it, that was encoded otherwise; or what else differs."""
    one, other = (Prepared.load(folder, plugins) for folder in (sides.recorded, sides.replayed))
    names = [[feature.name for feature in each.encoder.features] for each in (one, other)]
    if names[0] != names[1]:
        first = next((a, b) for a, b in _pairs(names[0], names[1]) if a != b)
        return Difference("prepare", "features", first[0] or first[1], None, first[0] or ABSENT, first[1] or ABSENT)
    for column, feature in enumerate(one.encoder.features):
        for name in PARTS:
            if name in one.parts and name in other.parts:
                mine, theirs = one.parts[name], other.parts[name]
                if rows := _unequal_keys(mine.keys, theirs.keys):
                    return Difference("prepare", f"rows of the part {name}", None, _key(snapshot, one.contract, rows[0]), rows[1], rows[2])
                if (row := _first_unequal(mine.matrix.x[:, column], theirs.matrix.x[:, column])) is not None:
                    key = _key(snapshot, one.contract, mine.keys[row])
                    said = f"{name} matrix, feature {feature.name}"
                    return Difference("prepare", said, feature.source, key, mine.matrix.x[row, column], theirs.matrix.x[row, column])
    for name in one.parts:
        row = _first_unequal(one.parts[name].matrix.y, other.parts[name].matrix.y)
        if row is not None:
            key = _key(snapshot, one.contract, one.parts[name].keys[row])
            mine_y, theirs_y = one.parts[name].matrix.y[row], other.parts[name].matrix.y[row]
            return Difference("prepare", f"label of the part {name}", one.contract.label, key, mine_y, theirs_y)
    return None


def of_swept(sides: Sides) -> Difference | None:
    """The first trial, by number, and the first of its facts that is not the same."""
    one, other = Swept.load(sides.recorded), Swept.load(sides.replayed)
    for mine, theirs in _pairs([t.essence() for t in one.trials], [t.essence() for t in other.trials]):
        if mine != theirs:
            number = (mine or theirs)["number"]
            name = next(name for name in (mine or theirs) if not (mine and theirs) or mine[name] != theirs[name])
            values = [each[name] if each else ABSENT for each in (mine, theirs)]
            return Difference("sweep", f"trial {number} {name}", None, None, *values)
    return None


def of_evaluations(sides: Sides, prepared: Path, plugins: list[str], snapshot: Snapshot) -> Difference | None:
    """The first row that the candidate answered otherwise; else the first metric or verdict; else the model's bytes."""
    one, other = Evaluation.load(sides.recorded), Evaluation.load(sides.replayed)
    scores = [np.asarray(each.scores).reshape(len(each.scores), -1) for each in (one, other)]
    if scores[0].shape == scores[1].shape and (row := _first_unequal(*(each.sum(axis=1) for each in scores))) is not None:
        rows = Prepared.load(prepared, plugins)
        key = _key(snapshot, rows.contract, rows.parts["holdout"].keys[row])
        return Difference("evaluate", "answers on the holdout", "score", key, scores[0][row].tolist(), scores[1][row].tolist())
    for mine, theirs in _pairs(list(one.verdicts), list(other.verdicts)):
        if mine != theirs:
            return Difference(
                "evaluate", f"gate {(mine or theirs).name}", None, None, getattr(mine, "value", ABSENT), getattr(theirs, "value", ABSENT)
            )
    for name, value in one.holdout.metrics.items():
        if other.holdout.metrics.get(name) != value:
            return Difference("evaluate", f"holdout {name}", None, None, value, other.holdout.metrics.get(name, ABSENT))
    return Difference("evaluate", "the model's files", None, None, one.digest, other.digest) if one.digest != other.digest else None


def of_scores(sides: Sides, contract: Contract) -> Difference | None:
    """The first row, by its key, that was scored otherwise."""
    tables = [
        pyarrow.dataset.dataset(sorted((folder / "scores").glob("*.parquet"))).to_table() for folder in (sides.recorded, sides.replayed)
    ]
    keys = contract.key or [name for name in tables[0].column_names if name != "model_version"]
    hashes = [row_hashes(table, keys, "key") for table in tables]
    orders = [np.argsort(each, kind="stable") for each in hashes]
    if rows := _unequal_keys(hashes[0][orders[0]], hashes[1][orders[1]]):
        return Difference("score", "scored rows", None, {"key hash": str(rows[0])}, rows[1], rows[2])
    one, other = (table.take(pa.array(order)) for table, order in zip(tables, orders, strict=True))
    for name in one.column_names:
        if name != "model_version" and not one.column(name).equals(other.column(name)):
            mine, theirs = one.column(name).to_pylist(), other.column(name).to_pylist()
            row = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b and not (a != a and b != b)), None)
            if row is not None:
                return Difference("score", "predictions", name, one.select(keys).slice(row, 1).to_pylist()[0], mine[row], theirs[row])
    return None


def _pairs(one: list[Any], other: list[Any]) -> Iterator[tuple[Any, Any]]:
    for at in range(max(len(one), len(other))):
        yield one[at] if at < len(one) else None, other[at] if at < len(other) else None


def _first_unequal(one: NDArray[Any], other: NDArray[Any]) -> int | None:
    """The first place whose bits differ; NaN is NaN."""
    if len(one) != len(other):
        return min(len(one), len(other))
    unequal = np.flatnonzero((one != other) & ~((one != one) & (other != other)))
    return int(unequal[0]) if len(unequal) else None


def _unequal_keys(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> tuple[np.uint64, str, str] | None:
    """A row that stands on one side only."""
    if len(one) == len(other) and bool((one == other).all()):
        return None
    gone, come = np.setdiff1d(one, other), np.setdiff1d(other, one)
    if len(gone) or len(come):
        return (gone[0], "present", ABSENT) if len(gone) else (come[0], ABSENT, "present")
    return one[_first_unequal(one, other) or 0], f"{len(one)} rows", f"{len(other)} rows"


def _key(snapshot: Snapshot, contract: Contract, wanted: np.uint64) -> dict[str, Any]:
    """The key columns of the row whose key has this hash."""
    for file in snapshot.files:
        table = snapshots.read(SnapshotFile(file.path))
        rows = np.flatnonzero(row_keys(table, contract) == wanted)
        if len(rows):
            found: dict[str, Any] = table.select(contract.key or list(contract.columns)).slice(int(rows[0]), 1).to_pylist()[0]
            return found
    return {"key hash": str(wanted)}


def gone(folder: Path) -> bool:
    """Whether a stage's result no longer lies where it was made."""
    return not (folder / "stage.json").is_file()
