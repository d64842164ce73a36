"""What a contract promises of the whole table, judged from facts that are gathered batch by batch and add up in any order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import RaycycleError
from tables import drift
from tables.casting import one_array
from tables.contract import Contract
from tables.promises import Distribution, Severity, seconds_of
from tables.sketches import LevelSketch, NumericSketch, Sketch, merge, sketch

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class TableFacts:
    """`latest` is the largest value of the freshness column, in microseconds since 1970 UTC; `sketches` are of the `distributions`.

    Take them from rows as they are written, after any treatment: the next snapshot is compared with what this one holds.
    """

    rows: int = 0
    latest: int | None = None
    sketches: dict[str, Sketch] = field(default_factory=dict)

    @classmethod
    def of(cls, contract: Contract, table: pa.Table) -> TableFacts:
        """Those that the contract asks for: of a contract that promises nothing about the table, only how many rows there are."""
        columns = [name for name in contract.distributions if name in table.column_names]
        return cls(table.num_rows, _latest(contract, table), {name: sketch(one_array(table.column(name))) for name in columns})

    def __add__(self, other: TableFacts) -> TableFacts:
        latest = max((each for each in (self.latest, other.latest) if each is not None), default=None)
        return TableFacts(self.rows + other.rows, latest, merge(self.sketches, other.sketches))

    def to_json(self) -> dict[str, Any]:
        sketches = {name: {"kind": type(each).__name__, **each.to_json()} for name, each in sorted(self.sketches.items())}
        return {"rows": self.rows, "latest": self.latest, "sketches": sketches}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> TableFacts:
        kinds: dict[str, type[NumericSketch] | type[LevelSketch]] = {"NumericSketch": NumericSketch, "LevelSketch": LevelSketch}
        sketches: dict[str, Sketch] = {name: kinds[each["kind"]].from_json(each) for name, each in plain["sketches"].items()}
        return cls(plain["rows"], plain["latest"], sketches)


def compares_with_last(contract: Contract) -> bool:
    """Whether the facts of the last snapshot are needed to judge a new one."""
    return bool(contract.distributions or (contract.rows and contract.rows.change is not None))


def _latest(contract: Contract, table: pa.Table) -> int | None:
    if not contract.freshness or contract.freshness.column not in table.column_names:
        return None
    times = table.column(contract.freshness.column)
    if not pa.types.is_temporal(times.type):
        return None
    zone = times.type.tz if pa.types.is_timestamp(times.type) else None
    latest: int | None = pc.max(times.cast(pa.timestamp("us", zone)).cast(pa.int64())).as_py()
    return latest


class Breach(NamedTuple):
    """A promise about the whole table that does not hold."""

    name: str
    severity: Severity
    said: str


def judge(contract: Contract, facts: TableFacts, last: TableFacts | None, now: dt.datetime) -> list[Breach]:
    """What is wrong with a table of these facts; `last` are those of the snapshot before, if there is one. `now` bears a time zone."""
    return [*_rows(contract, facts, last), *_freshness(contract, facts, now), *_distributions(contract, facts, last)]


def _rows(contract: Contract, facts: TableFacts, last: TableFacts | None) -> Iterator[Breach]:
    if not (bounds := contract.rows):
        return
    if bounds.min is not None and facts.rows < bounds.min:
        yield Breach("rows.min", bounds.severity, f"the table has {facts.rows:,} rows, fewer than {bounds.min:,}")
    if bounds.max is not None and facts.rows > bounds.max:
        yield Breach("rows.max", bounds.severity, f"the table has {facts.rows:,} rows, more than {bounds.max:,}")
    if bounds.change is not None and last and last.rows and abs(facts.rows - last.rows) > bounds.change * last.rows:
        change = facts.rows / last.rows - 1
        said = f"{facts.rows:,} rows after {last.rows:,}: {change:+.1%}, allowed is {bounds.change:.1%} either way"
        yield Breach("rows.change", bounds.severity, said)


def _freshness(contract: Contract, facts: TableFacts, now: dt.datetime) -> Iterator[Breach]:
    if not (fresh := contract.freshness):
        return
    if facts.latest is None:
        yield Breach("freshness", fresh.severity, f"{fresh.column} holds no time to tell how fresh the table is")
        return
    age = (now - _EPOCH) // dt.timedelta(microseconds=1) - facts.latest
    if age > seconds_of(fresh.max_age) * 1e6:
        # The age itself differs from run to run, and what is said about the same data should not.
        latest = (_EPOCH + dt.timedelta(microseconds=facts.latest)).isoformat(timespec="seconds")
        yield Breach("freshness", fresh.severity, f"the latest {fresh.column} is {latest}, more than {fresh.max_age} ago")


def _distributions(contract: Contract, facts: TableFacts, last: TableFacts | None) -> Iterator[Breach]:
    for name, bounds in contract.distributions.items():
        if name not in facts.sketches:
            yield Breach(f"{name}.distribution", bounds.severity, f"{name} is not in the table as it is written")
        elif last and name in last.sketches:
            yield from _moved(name, bounds, last.sketches[name], facts.sketches[name])


def _moved(name: str, bounds: Distribution, before: Sketch, after: Sketch) -> Iterator[Breach]:
    for measure, bound, distance in (("psi", bounds.psi, drift.psi), ("ks", bounds.ks, drift.ks)):
        if bound is None:
            continue
        found = distance(before, after)
        if found is None:
            said = f"{name} cannot be compared with the last snapshot: it has too many levels, no values, or turned from numbers to text"
            yield Breach(f"{name}.{measure}", bounds.severity, said)
        elif found > bound:
            said = f"{name} has moved from the last snapshot: {measure} {found:.3f}, allowed is {bound:g}"
            yield Breach(f"{name}.{measure}", bounds.severity, said)


def refuse_stopped(contract: Contract, breaches: Sequence[Breach]) -> dict[str, str]:
    """What only warns, in words by name. Raises RaycycleError where one of them stops."""
    if stopped := [each for each in breaches if each.severity == "stop"]:
        raise RaycycleError(
            f"the table breaks the contract {contract.name!r}: {'; '.join(each.said for each in stopped)}",
            value=[each.name for each in stopped],
            allowed="what the contract promises of the whole table",
            next="correct the source, or the named promises in the contract; no snapshot was made",
        )
    return {each.name: each.said for each in breaches}
