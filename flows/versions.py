"""The versions of a table: when and how each was written, how its columns changed, who uses it, and whether it can still be read.

$ raycycle data snapshots flights
"""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from cluster.store import Store, safe_name
from conf.errors import RaycycleError, UsageError, some, suggest
from flows.facts import snapshot_of
from flows.runs import SHORT, minute, version_of
from ledger import records
from ledger.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

    from tables.contract import Contract
    from tables.log import Version as Committed
    from tables.snapshots import Snapshot

REFERENCE = re.compile(r"(?P<name>[^@/]+)(@(?P<version>\d{1,9}))?")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version. `written` is replace, append or schema (columns were added); `columns` maps names to types, `files` to bytes.

    `changes` say what became of the columns of the version before. `gone` says why it cannot be read.
    `runs` used it, newest first, and `models` came of them.
    """

    name: str
    version: int
    made: str | None
    rows: int | None
    digest: str | None
    files: dict[str, int]
    written: str
    columns: dict[str, str]
    changes: list[str] = field(default_factory=list)
    gone: str | None = None
    runs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        return sum(self.files.values())

    def as_json(self) -> dict[str, Any]:
        return {**msgspec.to_builtins(self), "size": self.size}


def parsed(reference: str) -> tuple[str, int | None]:
    """`flights@3` as name and version, `flights` as its newest (None). Raises UsageError for anything else."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise UsageError("not the name of a snapshot", value=reference, allowed="NAME or NAME@VERSION", next="raycycle data snapshots")
    return safe_name("dataset", found["name"]), int(found["version"]) if found["version"] else None


def pair(words: list[str]) -> tuple[str, str]:
    """Two snapshots as a person writes them: `flights@3 flights@4`, or `flights 3 4`. Raises UsageError for anything else."""
    if len(words) == 3 and "@" not in words[0] and words[1].isdigit() and words[2].isdigit():
        return f"{words[0]}@{words[1]}", f"{words[0]}@{words[2]}"
    if len(words) == 2 and not any(word.isdigit() for word in words):
        return words[0], words[1]
    raise UsageError("these are not two snapshots", value=" ".join(words), allowed="flights@3 flights@4, or flights 3 4")


def opened(store: Store, reference: str) -> Snapshot:
    """The snapshot that `flights@3` names, or `flights` the newest of. Raises UsageError when there is none."""
    from tables.snapshots import open_snapshot

    name, version = parsed(reference)
    there = versions(store, name)
    if version is not None and version not in {each.version for each in there}:
        known = some(str(each) for each in there if each.gone is None)
        raise UsageError("there is no such snapshot", value=reference, allowed=known, next=f"raycycle data snapshots {name}")
    return open_snapshot(store, name, version)


def tables_of(store: Store) -> list[str]:
    """The names of the tables that have a version."""
    return sorted(folder.name for folder in store.tables.iterdir() if next(iter((folder / "_delta_log").glob("*.json")), None))


def versions(store: Store, name: str) -> list[Version]:
    """All versions of a table, the newest first. Raises UsageError when there is no such table."""
    from cluster.objects import listed
    from tables.log import history
    from tables.snapshots import table_folder

    told = history(store, name)
    if not told:
        known = tables_of(store)
        raise UsageError(
            f"there is no table of this name{suggest(name, known)}",
            value=name,
            allowed=some(known) or "none yet",
            next="raycycle run --until ingest makes one",
        )
    there = {file.name: file.size for file in listed(table_folder(store, name))}
    used = _using(store, name)
    found: list[Version] = []
    for each in reversed(told):
        found.append(_version(store, name, each, there, found[-1] if found else None, used.get(each.number, [])))
    return found[::-1]


def _version(store: Store, name: str, told: Committed, there: dict[str, int], before: Version | None, used: list[Record]) -> Version:
    columns, sizes, gone = _state(store, name, told.number, there)
    return Version(
        name=name,
        version=told.number,
        made=told.made,
        rows=told.rows,
        digest=str(told.digest) if told.digest else None,
        files=sizes,
        written=str(told.mode),
        columns=columns,
        changes=schema_changes(before.columns, columns) if before and before.columns and columns else [],
        gone=f"vacuumed on {told.vacuumed[:10]}" if told.vacuumed else gone,
        runs=[record.run_id for record in used],
        models=list(dict.fromkeys(made for record in used if (made := version_of(record)))),
    )


def _state(store: Store, name: str, number: int, there: dict[str, int]) -> tuple[dict[str, str], dict[str, int], str | None]:
    """The columns of a version, its files with their bytes (0 where a file is gone), and why it cannot be read."""
    import pyarrow as pa
    from deltalake.exceptions import DeltaError

    from tables.places import delta, table_folder

    try:
        table = delta(table_folder(store, name), number)
    except (RaycycleError, DeltaError, OSError) as error:
        return {}, {}, error.what if isinstance(error, RaycycleError) else str(error).partition("\n")[0]
    names = sorted(unquote(uri.rsplit("/", 1)[-1]) for uri in table.file_uris())
    missing = [each for each in names if each not in there]
    gone = f"{len(missing)} of its {len(names)} files {'is' if len(missing) == 1 else 'are'} gone" if missing else None
    columns = {each.name: str(each.type) for each in pa.schema(table.schema())}
    return columns, {each: there.get(each, 0) for each in names}, gone


def schema_of(snapshot: Snapshot) -> pa.Schema:
    """The columns of a version, with their Arrow types."""
    import pyarrow as pa

    from tables.places import delta

    return pa.schema(delta(snapshot.folder, snapshot.version).schema())


def schema_changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What became of the columns, in words: added, removed, retyped; in the order of the columns."""
    return [
        *(f"{name} was added ({kind})" for name, kind in after.items() if name not in before),
        *(f"{name} was removed ({kind})" for name, kind in before.items() if name not in after),
        *(f"{name} is {kind}, was {before[name]}" for name, kind in after.items() if before.get(name, kind) != kind),
    ]


def columns_changed(store: Store, name: str, since: dt.datetime) -> list[str]:
    """What the versions written from then on changed of the table's columns, in words."""
    from tables.log import history

    began, said = since.astimezone(dt.UTC).isoformat(timespec="seconds"), []
    numbers = [each.number for each in history(store, name) if each.made >= began and each.number]
    for number in sorted(numbers):
        before, after = (_state(store, name, each, {})[0] for each in (number - 1, number))
        said += schema_changes(before, after) if before and after else []
    return said


def _using(store: Store, name: str) -> dict[int, list[Record]]:
    """The runs that took each version of the table, newest first."""
    found: dict[int, list[Record]] = {}
    for record in records.every(store)[0]:
        if record.dataset == name and (used := snapshot_of(store, record)) and used[0] == name:
            found.setdefault(used[1], []).append(record)
    return found


def lines(found: list[Version]) -> list[str]:
    """A line for each version, and one more for each that changed its columns."""
    said = []
    for each in found:
        rows = f"{each.rows:,} rows" if each.rows is not None else "rows not known"
        when = minute(each.made) if each.made else "at an unknown time"
        uses = f"{len(each.runs)} run{'' if len(each.runs) == 1 else 's'}" if each.runs else "no run"
        models = f" -> {some(each.models, 4)}" if each.models else ""
        state = each.gone or f"{size(each.size)} in {len(each.files)} file{'' if len(each.files) == 1 else 's'}"
        digest = f"…{each.digest[-SHORT:]}" if each.digest else "-"
        said.append(f"{each!s:<20} {when}  {each.written:<8}{rows:>18}  {digest}  {state}; {uses}{models}")
        if each.changes:
            said.append(f"{'':<20} columns: {some(each.changes, 6)}")
    return said


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def contract_of(store: Store, name: str, version: int) -> Contract | None:
    """What was promised of the version's rows as ingest left them: by the run that made it, else by the newest of the dataset.

    None where no run tells it, or it cannot be read any more.
    """
    from tables.contract import Contract
    from tables.privacy.treatment import treated_contract

    every = [record for record in records.every(store)[0] if record.dataset == name and record.contract]
    # A version's rows were checked by the run that made it, which is the oldest of those that used it.
    wanted = next(iter([record for record in reversed(every) if snapshot_of(store, record) == (name, version)] or every), None)
    if wanted is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(wanted.contract, encoding="utf-8")
        try:
            return treated_contract(Contract.load(file))
        except UsageError:  # one of an earlier raycycle, that this one refuses
            return None


def private_columns(contract: Contract | None, columns: Iterable[str]) -> set[str]:
    """Those of `columns` whose values nobody may be shown; all of them where no contract says what they hold."""
    from tables.privacy.treatment import is_private

    known = contract.columns if contract else {}
    return {name for name in columns if name not in known or is_private(known[name])}
