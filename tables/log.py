"""What the log of a table tells of its versions: who made each, from which files and rows, and which were vacuumed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.objects import Folder, listed, put
from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from tables.places import LOG, table_folder
from tables.rows import TableDigest

Mode = Literal["replace", "append", "schema"]
DIGEST, FILES = "raycycle.digest", "raycycle.files"
MODE, ONTO, BEGAN, ADDED = "raycycle.mode", "raycycle.onto", "raycycle.began", "raycycle.added"
TOMBSTONES = "_vacuumed"
NAMED_EVERY = 16


@dataclass(frozen=True)
class Tombstone:
    """What is left of a vacuumed version; `files` are those that went with it."""

    version: int
    digest: str
    rows: int
    date: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """One version of a table. `mode` schema: columns were added, the rows are those of the version before.

    `made` is UTC in ISO form; `digest` is None, and so `rows`, where another program wrote the version.
    """

    number: int
    mode: Mode
    made: str
    digest: TableDigest | None
    vacuumed: str | None = None

    @property
    def rows(self) -> int | None:
        return self.digest.rows if self.digest else None


def info(folder: Folder, version: int) -> dict[str, Any]:
    """What the commit says of itself. Raises FileNotFoundError where its file is not there."""
    # Not `DeltaTable.history`: it counts back from the version that was opened, but tells of the newest commits.
    actions = (folder / LOG / f"{version:020}.json").read_text(encoding="utf-8").splitlines()
    return next((found for line in actions if (found := json.loads(line).get("commitInfo"))), {})


def digest_of(folder: Folder, version: int, told: dict[str, Any]) -> TableDigest:
    if DIGEST not in told:
        raise foreign(folder, version, "it has no digest of its rows")
    return TableDigest.parse(told[DIGEST])


def file_digests(folder: Folder, told: dict[str, Any]) -> dict[str, str] | None:
    """The SHA-256 of each file of the version whose commit `told` this; None for versions that did not record them.

    An appended version names its own files, and the version it was appended to.
    """
    if FILES not in told:
        return None
    found: dict[str, str] = json.loads(told[FILES])
    while ONTO in told:
        told = info(folder, int(told[ONTO]))
        found |= json.loads(told[FILES])
    return found


def going_on(told: dict[str, Any], version: int, there: Callable[[], Mapping[str, str]], own: Mapping[str, str]) -> dict[str, str]:
    """What the version after one that `told` this tells of its files: its `own`, and where the others, those `there`, are named.

    Those are named anew from time to time: to name them each time would let the log grow with the square of the versions, and never,
    the time to open one with their number.
    """
    kept = {BEGAN: told.get(BEGAN, str(version))} | ({ADDED: told[ADDED]} if ADDED in told else {})
    if FILES in told and version % NAMED_EVERY:
        return kept | {ONTO: str(version), FILES: json.dumps(own, sort_keys=True)}
    return kept | {FILES: json.dumps({**there(), **own}, sort_keys=True)}


def named_at(folder: Folder, version: int) -> list[str]:
    """The files that this version's own commit names."""
    return list(json.loads(info(folder, version).get(FILES, "{}")))


def began_at(told: dict[str, Any], version: int) -> int:
    """The replacement from which the version that `told` this goes on."""
    return int(told.get(BEGAN, version))


def foreign(folder: Folder, version: int, why: str) -> RaycycleError:
    what = f"version {version} of the table was not written by raycycle ({why})"
    return RaycycleError(what, value=str(folder), next="open another version, or ingest again")


def named(folder: Folder) -> set[str]:
    """Every file that the table's log ever added or removed; checkpoints tell of commits whose own file was cleared away."""
    log = folder / LOG
    told = [json.loads(line) for file in log.glob("*.json") for line in file.read_text(encoding="utf-8").splitlines()]
    for checkpoint in log.glob("*.checkpoint*.parquet"):
        told += pq.read_table(pa.BufferReader(checkpoint.read_bytes()), columns=["add", "remove"]).to_pylist()
    return {unquote(action[kind]["path"]) for action in told for kind in ("add", "remove") if action.get(kind)}


def numbers(folder: Folder) -> list[int]:
    """The versions whose commits are in the log."""
    return [int(file.name[:-5]) for file in listed(folder / LOG) if file.name.endswith(".json") and file.name[:-5].isdigit()]


def history(store: Store, name: str) -> list[Version]:
    """Every version of the table, the newest first; no data file is read. Empty where there is no table."""
    folder = table_folder(store, name)
    dates = {stone.version: stone.date for stone in tombstones(folder)}
    return [_version(info(folder, number), number, dates.get(number)) for number in reversed(numbers(folder))]


def _version(told: dict[str, Any], number: int, vacuumed: str | None) -> Version:
    made = dt.datetime.fromtimestamp(told.get("timestamp", 0) / 1000, dt.UTC).isoformat(timespec="seconds")
    return Version(number, told.get(MODE, "replace"), made, TableDigest.parse(told[DIGEST]) if DIGEST in told else None, vacuumed)


def tombstones(folder: Folder) -> Iterator[Tombstone]:
    for file in listed(folder / TOMBSTONES):
        if file.name.endswith(".json"):
            yield _tombstone(folder / TOMBSTONES / file.name)


def tombstone(folder: Folder, version: int) -> Tombstone | None:
    try:
        return _tombstone(folder / TOMBSTONES / f"{version:020}.json")
    except FileNotFoundError:
        return None


def _tombstone(file: Folder) -> Tombstone:
    plain = json.loads(file.read_text(encoding="utf-8"))
    return Tombstone(plain["version"], plain["digest"], plain["rows"], plain["date"], tuple(plain["files"]))


def bury(folder: Folder, stone: Tombstone) -> None:
    """From now on the version is gone, whatever of its files still lies there."""
    plain = {"format": 1, **stone.__dict__, "files": list(stone.files)}
    put(folder / TOMBSTONES / f"{stone.version:020}.json", (json.dumps(plain, sort_keys=True, indent=1) + "\n").encode())


def vacuumed(name: str, stone: Tombstone) -> UsageError:
    """What opening a vacuumed version answers."""
    return UsageError(
        f"the snapshot was vacuumed on {stone.date[:10]}: {stone.rows:,} rows, digest {stone.digest}",
        value=f"{name}@{stone.version}",
        allowed="a version that `raycycle data snapshots` lists as kept",
        next=f"raycycle data snapshots {name}",
    )
