"""A source made of others: a main table, what joins add to its rows, aggregates by key, and features as they were known in time.

$ raycycle run dataset=orders --until ingest    # docs/joins.md has the YAML
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conf.compose import build
from conf.errors import UsageError
from ledger.digests import of_value
from tables.sources.files import Files
from tables.sources.measures import Aggregates, Features
from tables.sources.parts import Join, Part, clash, missing
from tables.sources.together import Means, Tally, together

if TYPE_CHECKING:
    import ray.data

_REJECTED = pa.schema([("origin", pa.string()), ("row", pa.int64()), *((name, pa.string()) for name in ("rule", "reason", "values"))])


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The rows of `table`, with the columns that `joins`, then `aggregates`, then `features` add, in the order they are listed.

    A table of up to `small_mib` goes to each worker; a larger one is cut by its keys, with the rows, into `partitions`. The rows are the
    same either way. The contract is about what comes out.
    """

    table: Any
    joins: Sequence[Any] = ()
    aggregates: Sequence[Any] = ()
    features: Sequence[Any] = ()
    small_mib: int = 256
    partitions: int = 32
    _tallies: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, kind in (("joins", Join), ("aggregates", Aggregates), ("features", Features)):
            object.__setattr__(self, name, tuple(_part(kind, node, f"{name}[{i}]") for i, node in enumerate(getattr(self, name))))
        for name in ("small_mib", "partitions"):
            if getattr(self, name) < (name == "partitions"):
                raise UsageError(f"source.{name} is out of range", value=getattr(self, name), allowed="1 or more")
        names = [part.name for part in self.parts]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UsageError("two parts of the source have one name", value=double, allowed="each name once")

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.joins, *self.aggregates, *self.features)

    def read(self) -> ray.data.Dataset:
        """The joined rows. Tables that are joined are read at once, the main one when the rows are asked for.

        Raises UsageError where columns are unknown or clash: before anything is read if the sources can tell theirs, else at the first
        rows.
        """
        import ray

        self.column_names()
        tally = ray.remote(num_cpus=0)(Tally).remote()  # type: ignore[attr-defined]
        self._tallies[:] = [tally]
        means = Means(self.small_mib << 20, self.partitions, tally)
        rows = self.table.read()
        for part in self.parts:
            there = self.table if part.source is None else part.source
            rows = together(rows, there.read(), part, means)
        return rows

    def told(self) -> dict[str, int]:
        """After the rows were read: how many of them found no partner, by join, and how many values could not be read as they should."""
        import ray

        own: dict[str, int] = ray.get(self._tallies[0].total.remote()) if self._tallies else {}
        others = [source.told() for source in self._sources() if hasattr(source, "told")]
        return {said: count for found in (own, *others) for said, count in found.items()}

    def rejected(self) -> pa.Table:
        """The rows that the tables themselves hold unusable."""
        found = [source.rejected().cast(_REJECTED) for source in self._sources() if hasattr(source, "rejected")]
        return pa.concat_tables([_REJECTED.empty_table(), *found])

    def fingerprint(self, memo: Path | None = None) -> str | None:
        """SHA-256 of all that the rows depend on; None where one of the tables cannot tell. Checks the columns as `read` does."""
        self.column_names()
        sources = [self.table, *(part.source for part in self.parts if part.source is not None)]
        prints = [source.fingerprint(memo) if hasattr(source, "fingerprint") else None for source in sources]
        if None in prints:
            return None
        return of_value({"format": 1, "tables": prints, "parts": [part.plain for part in self.parts]})

    def column_names(self) -> list[str] | None:
        """The columns of the joined rows; None where a table cannot tell. Raises UsageError where one is unknown, or there twice."""
        names = column_names(self.table)
        for part in self.parts:
            there = column_names(self.table if part.source is None else part.source)
            _refuse_missing(part, part.wanted, there)
            _refuse_missing(part, part.asked, names)
            added = part.added(there)
            if names is not None and added is not None:
                if double := next((name for name in added if name in names), None):
                    raise clash(part.said, double)
                names = [*names, *added]
            else:
                names = None
        return names

    def _sources(self) -> list[Any]:
        """Each table once: what it tells is the same however often it is read."""
        sources = [self.table, *(part.source for part in self.parts if part.source is not None)]
        return list({id(source): source for source in sources}.values())


def _part(kind: type[Part], node: Any, where: str) -> Part:
    """A part from its node; without a name of its own it is called by its place."""
    if isinstance(node, Part):
        return node if node.name else replace(node, name=where)
    if not isinstance(node, Mapping):
        raise UsageError(f"source.{where} is no mapping", value=node, allowed="{source: {...}, ...}")
    if True in node:
        raise UsageError(f"source.{where} has a key `on`, which YAML reads as true", value=node[True], next="call it `by`")
    named = {"name": where, **node}
    found: Part = build({**named, "_target_": f"{kind.__module__}.{kind.__name__}"}, where=f"source.{where}")
    return found


def column_names(source: Any) -> list[str] | None:
    """The columns that a source knows before it is read."""
    if isinstance(source, Files):
        return source.expected(source.found())
    return source.column_names() if hasattr(source, "column_names") else None


def _refuse_missing(part: Part, asked: Iterable[str], known: list[str] | None) -> None:
    if known is not None and (unknown := next((name for name in asked if name not in known), None)) is not None:
        raise missing(part.said, unknown, known)
