"""PostgreSQL and SQLite as sources: how they are met, how several readers see one state of them, and their values as Arrow's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.csv as arrow_csv

from conf.errors import RaycycleError, UsageError
from conf.uris import redacted
from tables.sources.fingerprints import fingerprint, refuse_changed, stamp
from tables.sources.formats import as_text, unique_names
from tables.sources.packed import BLOCK_BYTES

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL

BATCH_ROWS = 16_384
CONNECT_S, BUSY_S = 10, 20
_ALLOWED = "postgresql://USER:${oc.env:NAME}@HOST/DATABASE, sqlite:///FILE"


class View(Protocol):
    """One state of a database, held as long as this object lives in this process; `seen` lets other processes look at the same."""

    @property
    def seen(self) -> Any: ...

    def values(self, query: str) -> list[tuple[Any, ...]]: ...


class Database(Protocol):
    """Nothing is connected to before it is asked. Every error is a UsageError that shows no password."""

    @property
    def place(self) -> str: ...

    def view(self) -> View: ...

    def rows(self, query: str, seen: Any) -> Iterator[pa.Table]:
        """What the query gives, in the state that was `seen`; raises RaycycleError when that is gone."""

    def fingerprint(self, told: Mapping[str, Any], memo: Path | None) -> str | None: ...


def database_of(url: str) -> Database:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError("source.url is not a URL", allowed=_ALLOWED) from None  # not shown: it may be a password alone
    if parsed.get_backend_name() == "postgresql":
        # Ray's workers were started in another environment, so what is only in this one is handed over.
        return Postgres(parsed if parsed.password else parsed.set(password=os.environ.get("PGPASSWORD")))
    if parsed.get_backend_name() != "sqlite":
        raise UsageError("source.url is of an unknown database", value=parsed.get_backend_name(), allowed=_ALLOWED)
    if not parsed.database or parsed.database == ":memory:":
        raise UsageError("source.url names no file", value=redacted(url), allowed=_ALLOWED)
    return Sqlite(Path(parsed.database).absolute())


# What PostgreSQL calls its types (pg_type.oid), as far as they are not text. Numerics are: a double would round them.
_ARROW = {
    16: pa.bool_(),
    **dict.fromkeys((20, 21, 23, 26), pa.int64()),
    **dict.fromkeys((700, 701), pa.float64()),
    1082: pa.date32(),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
}
# How values are spelled must not hang on how the server, the database or the user is set up.
_SPELLING = (
    "set local datestyle to 'ISO, YMD'; set local timezone to 'UTC'; set local intervalstyle to 'iso_8601'; set local bytea_output to 'hex'"
)


@dataclass(frozen=True)
class Postgres:
    """Read by COPY in read-only transactions, all in the snapshot that the view exported."""

    url: URL = field(repr=False)

    @property
    def place(self) -> str:
        return f"{self.url.host}:{self.url.port or 5432}/{self.url.database}"

    def view(self) -> View:
        with self._clean():
            connection = self._connected()
            seen = connection.execute("select pg_export_snapshot()").fetchone()
            connection.execute(_SPELLING)
        return _Snapshot(self, connection, seen[0] if seen else "")

    def fingerprint(self, told: Mapping[str, Any], memo: Path | None) -> str | None:
        return None

    def rows(self, query: str, seen: str) -> Iterator[pa.Table]:
        with self._clean(), self._connected() as connection, connection.cursor() as cursor:
            cursor.execute(f"set transaction snapshot '{seen}'")
            cursor.execute(_SPELLING)
            cursor.execute(f"select * from ({query}) as typed limit 0")  # noqa: S608
            described = cursor.description or []
            names = unique_names(self.place, [column.name for column in described])
            types = [_ARROW.get(column.type_code, pa.string()) for column in described]
            with cursor.copy(f"copy ({query}) to stdout (format csv)") as copy:
                held: list[Any] = []
                size = 0
                for row in copy:
                    held.append(row)
                    size += len(row)
                    if size >= BLOCK_BYTES:
                        yield _parsed(b"".join(held), names, types)
                        held, size = [], 0
            if held:
                yield _parsed(b"".join(held), names, types)

    def values(self, connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
        with self._clean():
            return connection.execute(query).fetchall()

    def _connected(self) -> psycopg.Connection:
        import psycopg

        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(url, connect_timeout=CONNECT_S, client_encoding="utf8")
        connection.read_only, connection.isolation_level = True, psycopg.IsolationLevel.REPEATABLE_READ
        return connection

    @contextlib.contextmanager
    def _clean(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except pa.ArrowInvalid as error:
            raise UsageError(f"a value cannot be read ({error})", value=self.place, next="cast its column to text in the query") from None
        except psycopg.Error as error:
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            shown = said.replace(self.url.password, "***") if self.url.password else said
            address = redacted(self.url.render_as_string(hide_password=True))
            if isinstance(error, psycopg.errors.InvalidParameterValue | psycopg.errors.UndefinedObject) and "snapshot" in said:
                raise RaycycleError("the state of the database that is read is gone", value=address, next="run again") from None
            if isinstance(error, psycopg.OperationalError):
                raise UsageError(
                    f"the database cannot be read ({shown})", value=address, next="check source.url, the password and the network"
                ) from None
            raise UsageError(f"the database refuses the query ({shown})", value=address, next="correct source.query or table") from None


class _Snapshot:
    """The transaction that exported a snapshot; it ends when nothing plans to read it any more, and other processes get its name alone."""

    def __init__(self, database: Postgres, connection: psycopg.Connection | None, seen: str) -> None:
        self._database, self._connection, self._seen = database, connection, seen

    @property
    def seen(self) -> str:
        return self._seen

    def values(self, query: str) -> list[tuple[Any, ...]]:
        return self._database.values(self._connection, query) if self._connection else []

    def __reduce__(self) -> tuple[Any, ...]:
        return _Snapshot, (self._database, None, self._seen)

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _parsed(data: bytes, names: list[str], types: list[pa.DataType]) -> pa.Table:
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict(zip(names, types, strict=True)),
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


@dataclass(frozen=True)
class Sqlite:
    """Read-only. A reader cannot share another's state, so a change of the file while it is read is refused."""

    file: Path

    @property
    def place(self) -> str:
        return str(self.file)

    def view(self) -> View:
        if not self.file.is_file():
            raise UsageError("the database file is missing", value=str(self.file), allowed=_ALLOWED)
        return _Stamped(self, [(str(file), stamp(file)) for file in self._files])

    def fingerprint(self, told: Mapping[str, Any], memo: Path | None) -> str | None:
        """A query that asks for the time or for chance is not caught: its text is the same each time."""
        self.view()
        return fingerprint({file.name.removeprefix(self.file.name): file for file in self._files}, told, memo)

    @property
    def _files(self) -> list[Path]:
        log = self.file.with_name(f"{self.file.name}-wal")
        return [self.file, *([log] if log.exists() and log.stat().st_size else [])]

    def rows(self, query: str, seen: list[tuple[str, Any]]) -> Iterator[pa.Table]:
        with self._clean(), contextlib.closing(self._connected()) as connection:
            cursor = connection.execute(query)
            names = unique_names(self.place, [column[0] for column in cursor.description])
            while rows := cursor.fetchmany(BATCH_ROWS):
                columns = zip(*rows, strict=True)
                yield pa.table({name: as_text(_without_bytes(column)) for name, column in zip(names, columns, strict=True)})
        for file, before in seen:
            refuse_changed(file, before)
        if len(seen) != len(self._files):
            raise RaycycleError("the database was changed while it was read", value=self.place, next="run again when nothing writes to it")

    def values(self, query: str) -> list[tuple[Any, ...]]:
        with self._clean(), contextlib.closing(self._connected()) as connection:
            return connection.execute(query).fetchall()

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(os.fspath(self.file))}?mode=ro", uri=True, timeout=BUSY_S)

    @contextlib.contextmanager
    def _clean(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise UsageError(f"a value is not text ({error.reason})", value=self.place, next="leave the column out of the query") from None
        except sqlite3.Error as error:
            raise UsageError(f"the database refuses the query ({error})", value=self.place, next="check source.url and query") from None


@dataclass(frozen=True)
class _Stamped:
    """What the files of the database were like; nothing is held."""

    database: Sqlite
    seen: list[tuple[str, Any]]

    def values(self, query: str) -> list[tuple[Any, ...]]:
        return self.database.values(query)


def _without_bytes(values: tuple[Any, ...]) -> list[Any]:
    return [value.decode() if type(value) is bytes else value for value in values] if bytes in set(map(type, values)) else list(values)
