"""The first thing in which a replayed stage differs from the recorded one: which column, which row, and both values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from msgspec import structs
from numpy.typing import NDArray

from cluster.store import read_json
from flows.certificate import Difference
from flows.evaluation import Evaluation
from flows.prepared import Prepared
from flows.score import predictions_digest
from flows.sweep import Swept
from tables import difference, snapshots
from tables.contract import Column, Contract
from tables.difference import first_difference
from tables.rows import TableDigest
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
    files = tuple(replace(file, sha256="") for file in lying.files)  # read unverified: the change is what is looked for
    found = first_difference(replace(lying, files=files, digest=TableDigest()), fresh, contract)
    return found and _of_row("ingest", "snapshot as it lies (first) against its source", found)


def of_prepared(sides: Sides, plugins: list[str], snapshot: Snapshot) -> Difference | None:
    """The first row that is in another part; else the first feature, label or judged cell, and the first row of it, that is another."""
    one, other = (Prepared.load(folder, plugins) for folder in (sides.recorded, sides.replayed))
    names = [[feature.name for feature in each.encoder.features] for each in (one, other)]
    if names[0] != names[1]:
        first = next((a, b) for a, b in _pairs(names[0], names[1]) if a != b)
        return Difference("prepare", "features", first[0] or first[1], None, first[0] or ABSENT, first[1] or ABSENT)
    for name in PARTS:
        keys = [each.parts[name].keys if name in each.parts else np.zeros(0, np.uint64) for each in (one, other)]
        if rows := _unequal_keys(*keys):
            return Difference("prepare", f"rows of the part {name}", None, _key(snapshot, one.treated, rows[0]), rows[1], rows[2])
    for what, column, name, mine, theirs in _cells(one, other):
        if (row := _first_unequal(mine, theirs)) is not None:
            key = _key(snapshot, one.treated, one.parts[name].keys[row])
            return Difference("prepare", f"{name} {what}", column, key, mine[row], theirs[row])
    return None


def _cells(one: Prepared, other: Prepared) -> Iterator[tuple[str, str, str, NDArray[Any], NDArray[Any]]]:
    """What, of which column, in which part, on both sides: each feature, then the labels, then what rows are judged by."""
    parts = [(name, one.parts[name], other.parts[name]) for name in PARTS if name in one.parts]
    for at, feature in enumerate(one.encoder.features):
        for name, mine, theirs in parts:
            yield f"matrix, feature {feature.name}", feature.source, name, mine.matrix.x[:, at], theirs.matrix.x[:, at]
    for name, mine, theirs in parts:
        yield "label", one.contract.label, name, mine.matrix.y, theirs.matrix.y
    for name, mine, theirs in parts:
        for column in mine.table.column_names:
            if column in theirs.table.column_names:
                yield "rows", column, name, *(np.array(each.table.column(column).to_pylist(), object) for each in (mine, theirs))


def of_swept(sides: Sides) -> Difference | None:
    """The first trial, by number, and the first of its facts that is not the same."""
    one, other = Swept.load(sides.recorded), Swept.load(sides.replayed)
    for mine, theirs in _pairs([t.essence() for t in one.trials], [t.essence() for t in other.trials]):
        if found := _unlike(mine or {}, theirs or {}):
            return Difference("sweep", f"trial {(mine or theirs)['number']} {found[0]}", None, None, found[1], found[2])
    return None


def of_evaluations(sides: Sides, prepared: Path, plugins: list[str], snapshot: Snapshot) -> Difference | None:
    """The first row that the candidate answered otherwise; else the first verdict or metric; else the model's bytes."""
    one, other = Evaluation.load(sides.recorded), Evaluation.load(sides.replayed)
    rows = Prepared.load(prepared, plugins)
    label = rows.contract.label
    for what, column, mine, theirs in (
        ("label of the holdout", label, one.y, other.y),
        ("answers on the holdout", "score", one.scores, other.scores),
    ):
        if mine.shape == theirs.shape and (row := _first_unequal(mine, theirs)) is not None:
            key = _key(snapshot, rows.treated, rows.parts["holdout"].keys[row])
            return Difference("evaluate", what, column, key, mine[row], theirs[row])
    judged = [read_json(folder / "evaluation.json") for folder in (sides.recorded, sides.replayed)]
    for name in ("verdicts", "holdout", "constant", "later", "slices", "calibration", "importance", "leaks"):
        if found := _unlike(_named(name, judged[0][name]), _named(name, judged[1][name])):
            return Difference("evaluate", found[0], None, None, found[1], found[2])
    return Difference("evaluate", "the model's files", None, None, one.digest, other.digest) if one.digest != other.digest else None


def of_scores(sides: Sides, contract: Contract) -> Difference | None:
    """The first row, by its key, that was scored otherwise; without a key rows are matched by the columns that the scores keep."""
    one, other = (_scores(folder / "scores") for folder in (sides.recorded, sides.replayed))
    lying = next(iter((*one.paths, *other.paths)), None)
    if lying is None:
        return None
    names = [name for name in pq.read_schema(lying).names if name != "model_version"]
    columns = {name: contract.columns.get(name) or Column(type="double") for name in names}
    keys = contract.key or [name for name in names if name in contract.columns]
    found = first_difference(one, other, structs.replace(contract, columns=columns, key=keys))
    return found and _of_row("score", "predictions", found)


def _scores(folder: Path) -> Snapshot:
    """Scored rows as a table that can be compared."""
    files = tuple(SnapshotFile(file) for file in sorted(folder.glob("*.parquet")))
    return Snapshot("scores", 0, folder, TableDigest.parse(predictions_digest(folder)), files)


def _of_row(stage: str, what: str, found: difference.Difference) -> Difference:
    values = [ABSENT if each is None and found.column is None else each for each in (found.one, found.other)]
    return Difference(stage, what, found.column, found.key, *values)


def _named(name: str, facts: Any) -> dict[str, Any]:
    """Facts as they are told: each verdict by its gate; two gates may be of one kind."""
    return {f"gate {at} {each['name']}": each for at, each in enumerate(facts, 1)} if name == "verdicts" else {name: facts}


def _pairs(one: list[Any], other: list[Any]) -> Iterator[tuple[Any, Any]]:
    return itertools.zip_longest(one, other)


def _unlike(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first place, as `a.b.c`, where two plain values differ, and what stands there."""
    if isinstance(one, list) and isinstance(other, list):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        inside = (_unlike(one.get(at, ABSENT), other.get(at, ABSENT), f"{path}.{at}" if path else str(at)) for at in one | other)
        return next((found for found in inside if found), None)
    return None if repr(one) == repr(other) else (path, one, other)  # 1 is not 1.0 here, nor 0.0 -0.0: their digests differ


def _first_unequal(one: NDArray[Any], other: NDArray[Any]) -> int | None:
    """The first row whose bits differ, as they do in digests; both have the same shape and type."""
    if one.dtype != object:
        one, other = (np.ascontiguousarray(each).view(f"u{each.itemsize}") for each in (one, other))
    unequal = np.flatnonzero((one != other).reshape(len(one), math.prod(one.shape[1:])).any(axis=1))
    return next((int(row) for row in unequal if one.dtype != object or repr(one[row]) != repr(other[row])), None)


def _unequal_keys(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> tuple[np.uint64, str, str] | None:
    """The first key that not as many rows have on both sides, and how many have it there; both are in canonical order."""
    if np.array_equal(one, other):
        return None
    count = min(len(one), len(other))
    parted = np.flatnonzero(one[:count] != other[:count])
    at = int(parted[0]) if len(parted) else count
    first = min(each[at] for each in (one, other) if at < len(each))  # sorted as they are, all before it is the same
    there = [int((each == first).sum()) for each in (one, other)]
    return first, *(f"{number} rows" if number > 1 else "present" if number else ABSENT for number in there)  # type: ignore[return-value]


def _key(snapshot: Snapshot, contract: Contract, wanted: np.uint64) -> dict[str, Any]:
    """The key columns of the row whose key has this hash."""
    for file in snapshot.files:
        table = snapshots.read(replace(file, sha256=""))
        rows = np.flatnonzero(row_keys(table, contract) == wanted)
        if len(rows):
            found: dict[str, Any] = table.select(contract.key or list(contract.columns)).slice(int(rows[0]), 1).to_pylist()[0]
            return found
    return {"key hash": str(wanted)}


def gone(folder: Path) -> bool:
    """Whether a stage's result no longer lies where it was made."""
    return not (folder / "stage.json").is_file()
