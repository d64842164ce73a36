"""The source of SQL queries and tables, of PostgreSQL and SQLite, read in parallel parts.

$ raycycle run dataset=orders dataset.source.partitions=8
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from conf.errors import UsageError
from ledger.digests import of_value
from tables.sources.databases import Database, View, database_of
from tables.sources.plain import plain, with_origin

if TYPE_CHECKING:
    import ray.data

MAX_PARTITIONS = 1024
_CUTTABLE = (int, float, Decimal, dt.date, dt.datetime)


@dataclass(frozen=True, kw_only=True)
class Sql:
    """The rows of a `query` or a `table`; a password in `url` comes from the environment (`${oc.env:NAME}`) and is never shown.

    `partition_by` is a column of numbers, dates or moments: its range is cut into `partitions` parts of equal length, read at once.
    `fingerprint_query` gives what changes whenever the rows do, such as `select max(changed_at), count(*) from orders`.
    """

    url: str = field(repr=False)
    query: str | None = None
    table: str | None = None
    partition_by: str | None = None
    partitions: int = 1
    fingerprint_query: str | None = None

    def __post_init__(self) -> None:
        if (self.query is None) == (self.table is None):
            raise UsageError("source needs one of query and table", value={"query": self.query, "table": self.table})
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise UsageError("source.partitions is out of range", value=self.partitions, allowed=f"1 to {MAX_PARTITIONS}")
        if self.partitions > 1 and self.partition_by is None:
            raise UsageError("source.partitions needs a column", value=self.partitions, next="set source.partition_by")
        _ = self.database

    # The configuration may ask what its author may ask; names are quoted so that they need no spelling of their own.
    def read(self) -> ray.data.Dataset:
        """The rows with the name of their table as a Ray dataset, one task for each part; all parts see the same state of the database."""
        import ray.data

        view = self.database.view()
        conditions = [""]
        if self.partition_by is not None and self.partitions > 1:
            column = _quoted(self.partition_by)
            low, high = view.values(f"select min({column}), max({column}) from {self._rows}")[0]  # noqa: S608
            conditions = conditions_of(column, bounds(low, high, self.partitions, self.partition_by))
        queries = [f"select * from {self._rows}{f' where {each}' if each else ''}" for each in conditions]  # noqa: S608
        one_part = functools.partial(_read_one, database=self.database, view=view, queries=queries, name=self.table or "query")
        return ray.data.range(len(queries), override_num_blocks=len(queries)).map_batches(one_part, batch_size=1, batch_format="pyarrow")

    def fingerprint(self, memo: Path | None = None) -> str | None:
        """Digest of what `fingerprint_query` gives, or of a SQLite database's file; None: whether the rows changed cannot be known."""
        told = {"query": self.query, "table": self.table}
        if not self.fingerprint_query:
            return self.database.fingerprint(told, memo)
        found = [[str(value) for value in row] for row in self.database.view().values(_bare(self.fingerprint_query))]
        return of_value({"format": 1, "asked": self.fingerprint_query, "found": found, "database": self.database.place, **told})

    @functools.cached_property
    def database(self) -> Database:
        return database_of(self.url)

    @property
    def _rows(self) -> str:
        return f"({_bare(self.query)}) as source" if self.query is not None else ".".join(map(_quoted, str(self.table).split(".")))


def _bare(query: str) -> str:
    return query.strip().removesuffix(";")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def bounds(low: Any, high: Any, parts: int, column: str) -> list[Any]:
    """Rising values that cut [low, high] into at most `parts` parts of equal length; the same wherever and whenever they are computed."""
    if low is None or high is None:
        return []
    if not all(type(each) in _CUTTABLE for each in (low, high)):
        raise UsageError(
            "source.partition_by is no column of numbers, dates or moments", value=column, allowed="a column whose range can be cut"
        )
    width: Any = high - low
    if isinstance(width, dt.timedelta) and not isinstance(low, dt.datetime):
        steps: list[Any] = [dt.timedelta(days=width.days * i // parts) for i in range(1, parts)]
    else:
        if isinstance(width, float | Decimal) and not math.isfinite(width):
            return []  # infinity or NaN: there is no length to cut
        steps = [width * i // parts if isinstance(width, int) else width * i / parts for i in range(1, parts)]
    return sorted({low + step for step in steps if step})


def conditions_of(column: str, cuts: list[Any]) -> list[str]:
    """One for each part; nulls are in the first. Nothing is below the first or above the last, so no row is in none."""
    if not cuts:
        return [""]
    spelled = [f"'{cut.isoformat()}'" if isinstance(cut, dt.date) else str(cut) for cut in cuts]
    first, last = f"({column} < {spelled[0]} or {column} is null)", f"{column} >= {spelled[-1]}"
    return [first, *(f"{column} >= {a} and {column} < {b}" for a, b in itertools.pairwise(spelled)), last]


def _read_one(batch: pa.Table, database: Database, view: View, queries: list[str], name: str) -> Iterator[pa.Table]:
    for number in batch.column("id").to_pylist():
        for table in database.rows(queries[number], view.seen):
            yield with_origin(plain(table), name, None)
