"""What a data report tells of a snapshot: every column's values, nulls and strength, the label over time, and what looks like a leak.

Files are summarised one by one, in any order; the summaries are merged to the same facts, whatever the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.errors import UsageError
from flows.label_periods import Period, by_day, periods_of
from flows.leaks import TOO_GOOD, Probe
from flows.versions import private_columns, schema_of
from tables.contract import Contract
from tables.distributions import bounded_sketch, merged, read_as
from tables.features import Feature
from tables.look.inference import Reading
from tables.look.suspects import MAX_PROBED, LabelProbe
from tables.rows import row_hashes
from tables.sketches import Sketch, as_floats
from tables.snapshots import Snapshot, SnapshotFile
from tables.target import Target, label_sketch

MAX_COLUMNS = 200
SAMPLE_CELLS = 10_000_000

EachFile = Callable[..., Iterator[Any]]


def one_by_one(function: Callable[..., Any], files: Iterable[SnapshotFile], *shared: Any) -> Iterator[Any]:
    """`function(file, *shared)` for every file, here."""
    return (function(file, *shared) for file in files)


def as_tasks(function: Callable[..., Any], files: Iterable[SnapshotFile], *shared: Any) -> Iterator[Any]:
    """The same as Ray tasks, in the order that they end in; few at once, so that their results fit in memory."""
    import ray

    task, references = ray.remote(function), [ray.put(value) for value in shared]
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    for file in files:
        if len(running) >= most:
            done, running = ray.wait(running)
            yield ray.get(done[0])
        running.append(task.remote(file, *references))
    while running:
        done, running = ray.wait(running)
        yield ray.get(done[0])


@dataclass(frozen=True)
class Seen:
    """A summary of some files' rows. `sample` holds those with the smallest `hashes` of their content: the same in any layout.

    `daily` counts rows by the day of the time column (days since 1970) and the label's text; `labels` counts the label.
    """

    nulls: Counter[str]
    sketches: dict[str, Sketch]
    labels: Sketch
    daily: Counter[tuple[int, str]]
    hashes: NDArray[np.uint64]
    sample: pa.Table
    most: int

    def merge(self, other: Seen) -> Seen:
        hashes, rows = np.concatenate([self.hashes, other.hashes]), pa.concat_tables([self.sample, other.sample])
        first = np.argsort(hashes, kind="stable")[: self.most]
        return Seen(
            self.nulls + other.nulls,
            merged(self.sketches, other.sketches),
            merged({"": self.labels}, {"": other.labels})[""],
            self.daily + other.daily,
            hashes[first],
            rows.take(pa.array(first)).combine_chunks(),
            self.most,
        )


def summarise(file: SnapshotFile, schema: pa.Schema, contract: Contract, sketched: list[str], most: int) -> Seen:
    """The summary of one file, with sketches of the columns `sketched` and a sample of at most `most` rows."""
    table = read_as(file, schema)
    hashes = row_hashes(table, schema.names, "sample")
    first = np.argsort(hashes, kind="stable")[:most]
    return Seen(
        Counter({name: column.null_count for name, column in zip(schema.names, table.columns, strict=True)}),
        {name: bounded_sketch(table.column(name).combine_chunks()) for name in sketched},
        label_sketch(contract, table.column(contract.label).combine_chunks()),
        by_day(table, contract),
        hashes[first],
        table.take(pa.array(first)).combine_chunks(),
        most,
    )


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One column. `strength`: what it alone tells of the label, on rows it was not fitted on; `suspect`: why it looks like a leak."""

    name: str
    type: str
    role: str
    private: bool
    nulls: int
    sketch: Sketch | None
    strength: float | None
    suspect: str = ""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is told of a snapshot. `left_out` counts the columns that are not among `columns`; `sampled` rows measured the strengths."""

    snapshot: str
    rows: int
    digest: str
    contract: Contract
    columns: list[ColumnFacts]
    left_out: int
    measure: str
    sampled: int
    strongest: list[tuple[str, float]]
    suspects: dict[str, str]
    labels: Sketch
    periods: list[Period]
    quarantined: dict[str, int] | None
    warned: dict[str, int] | None


def facts_of(
    snapshot: Snapshot,
    contract: Contract,
    quarantined: dict[str, int] | None,
    warned: dict[str, int] | None,
    each: EachFile = one_by_one,
) -> DataFacts:
    """Look at every row once; at a table of more than `MAX_COLUMNS` columns twice, the second time at those that are shown."""
    there = {field.name: field for field in schema_of(snapshot)}
    schema = pa.schema([there[name] for name in contract.columns if name in there])
    if contract.label not in there:
        raise UsageError(f"{snapshot} has no label {contract.label!r}", next="open a version that was made under this contract")
    names = schema.names
    private = private_columns(contract, names)
    most = max(1_000, min(MAX_PROBED, SAMPLE_CELLS // len(names)))
    narrow = len(names) <= MAX_COLUMNS
    sketched = [name for name in names if narrow and name not in private]
    seen: Seen = reduce(Seen.merge, each(summarise, snapshot.files, schema, contract, sketched, most))
    strengths, suspects, measure = _strengths(seen, contract, names)
    shown = names if narrow else _shown(names, contract, strengths, suspects)
    sketches = seen.sketches
    if not narrow:
        wanted = pa.schema([there[name] for name in shown if name not in private])
        sketches = reduce(merged, each(sketches_of, snapshot.files, wanted))
    columns = [
        ColumnFacts(
            name=name,
            type=str(contract.columns[name].type),
            role=str(contract.columns[name].role),
            private=name in private,
            nulls=seen.nulls[name],
            sketch=sketches.get(name),
            strength=strengths.get(name),
            suspect=suspects.get(name, ""),
        )
        for name in shown
    ]
    return DataFacts(
        snapshot=str(snapshot),
        rows=snapshot.rows,
        digest=str(snapshot.digest),
        contract=contract,
        columns=columns,
        left_out=len(names) - len(shown),
        measure=measure,
        sampled=seen.sample.num_rows,
        strongest=sorted(strengths.items(), key=lambda each: (-each[1], each[0])),
        suspects=suspects,
        labels=seen.labels,
        periods=periods_of(seen.daily, seen.labels, seen.sample, contract) if contract.label not in private else [],
        quarantined=quarantined,
        warned=warned,
    )


def sketches_of(file: SnapshotFile, schema: pa.Schema) -> dict[str, Sketch]:
    """The sketches of one file's columns."""
    table = read_as(file, schema)
    return {name: bounded_sketch(table.column(name).combine_chunks()) for name in schema.names}


def _shown(names: list[str], contract: Contract, strengths: dict[str, float], suspects: dict[str, str]) -> list[str]:
    """Of a wide table the label, keys, suspects and the columns that tell most; in the contract's order."""
    always = {contract.label, contract.time, *contract.key}
    ranked = sorted(names, key=lambda name: (name not in always, name not in suspects, -strengths.get(name, -np.inf)))
    kept = set(ranked[:MAX_COLUMNS])
    return [name for name in names if name in kept]


def _strengths(seen: Seen, contract: Contract, names: list[str]) -> tuple[dict[str, float], dict[str, str], str]:
    """How well each column alone tells the label, on the sample, and which tell it too well; and in what that is measured."""
    label = seen.sample.column(contract.label).combine_chunks()
    try:
        target = Target.of(contract, seen.labels)
    except UsageError:  # one class only: nothing can tell it
        return {}, {}, ""
    y = target.encode(label)
    probe = LabelProbe.of(contract.task, y if contract.task == "regression" else np.nan_to_num(y, nan=-1).astype(np.int64))
    if len(probe.y) < 20 or len(np.unique(probe.y)) < 2:
        return {}, {}, ""
    strengths: dict[str, float] = {}
    suspects: dict[str, str] = {}
    for name in names:
        if name == contract.label:
            continue
        reading = as_reading(seen.sample.column(name).combine_chunks())
        strengths[name] = round(float(np.nan_to_num(probe.score(reading), nan=0.0)), 6)
        if contract.columns[name].role == "feature":
            if probe.is_copy(reading):
                suspects[name] = "is the label under other names"
            elif share := probe.tells_by_null(reading):
                suspects[name] = f"where it is missing, {share:.0%} of the rows have one label"
    features = tuple((Feature(name, "numeric", name), strengths[name]) for name in contract.features if name in strengths)
    ranked = tuple(sorted(features, key=lambda each: (-each[1], each[0].name)))
    if ranked:
        suspects |= {each.feature: each.why for each in Probe(contract.task, ranked, ()).suspects(TOO_GOOD) if each.feature not in suspects}
    return strengths, suspects, probe.measure


def as_reading(array: pa.Array) -> Reading:
    """A typed column as the probe of labels takes it."""
    if pa.types.is_string(array.type):
        coded = array.dictionary_encode()
        codes = np.asarray(coded.indices.fill_null(-1)).astype(np.int64)
        levels = coded.dictionary.to_pylist()
        return Reading(type="string", values=codes, distinct=len(levels), nulls=array.null_count, levels=levels)
    values = as_floats(array)
    values = np.where(np.isfinite(values), values, np.nan)
    missing = int(np.isnan(values).sum())
    return Reading(type="double", values=values, distinct=len(np.unique(values)), nulls=missing, levels=[])
