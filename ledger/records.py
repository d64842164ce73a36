"""The record of a run: code, configuration, environment, data and seeds in; what each stage made, with its digest, out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, UsageError, some, suggest
from ledger import digests
from ledger.changes import Changes

FORMAT = 2
FILE = "record.json"
LATEST = "latest"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class StageRun(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One stage of a run. `key` names its result in the stage cache, `folder` (below the store) where that lies.

    `ran` false: the result of run `made_by` was taken. `why` says why the stage ran, or why it did not.
    """

    stage: str
    ran: bool
    why: str
    seconds: float
    key: str = ""
    folder: str = ""
    made_by: str = ""
    inputs: dict[str, str | None] = {}
    outputs: dict[str, str] = {}
    resources: dict[str, float] = {}


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`runs/ID/record.json`. Times are UTC in ISO form; `code` is `ledger.changes.Changes`, whose kept files lie in `runs/ID/code/`.

    `typed` are the keys of the configuration that a person typed, `contract` is the text of the contract, `pack` the digest of the code
    as workers imported it; `made` what a person would look for: model, version, snapshot, report, scores; `sha256` seals the rest.
    """

    run_id: str
    verb: str
    dataset: str
    status: Status
    started: str
    ended: str | None
    seed: int
    until: str
    config: dict[str, Any]
    typed: list[str]
    contract: str
    code: dict[str, Any]
    pack: str
    environment: dict[str, Any]
    stages: list[StageRun]
    made: dict[str, Any] = {}
    error: str | None = None
    format: int = FORMAT
    sha256: str = ""

    def stage(self, name: str) -> StageRun | None:
        return next((each for each in self.stages if each.stage == name), None)

    @property
    def tables(self) -> str | None:
        """Where the tables of the run lie, None for the store's own folder."""
        found: str | None = (self.config.get("store") or {}).get("tables")
        return found

    @property
    def changes(self) -> Changes:
        return Changes.of(self.code)


def write(record: Record, folder: Path) -> Path:
    return write_json(folder / FILE, digests.sealed(msgspec.to_builtins(record)))


@dataclass(frozen=True)
class Damaged:
    """A run that cannot be told: its file, and why."""

    file: str
    reason: str

    @property
    def run_id(self) -> str:
        return Path(self.file).parent.name


def read(folder: Path) -> Record:
    """Raises RaycycleError, naming the file, when it is missing, damaged or of another version."""
    file = folder / FILE
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Record)
        _ = [dt.datetime.fromisoformat(time) for time in (found.started, found.ended) if time]
    except FileNotFoundError:
        raise RaycycleError(f"{file} was never written: the run ended, or is, before its first stage") from None
    except OSError as error:
        raise RaycycleError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError) as error:  # msgspec's errors are ValueErrors
        _refuse_other_version(file, read_json(file))
        raise _damaged(file, str(error)) from None
    _refuse_other_version(file, {"format": found.format})
    if not digests.is_sealed(msgspec.to_builtins(found)):
        raise _damaged(file, "its content has another digest than it says")
    return msgspec.structs.replace(found, sha256="")  # it seals what lies there, not what becomes of it here


def _damaged(file: Path, why: str) -> RaycycleError:
    return RaycycleError(f"{file} is damaged: {why}", next="restore it from a backup; the run cannot be told without it")


def _refuse_other_version(file: Path, found: Any) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        said = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise RaycycleError(f"{file} is no run record of this version", value=said, allowed=f"format {FORMAT}")


def every(store: Store) -> tuple[list[Record], list[Damaged]]:
    """The readable records, newest first, and those that are not."""
    found: list[Record] = []
    damaged: list[Damaged] = []
    for folder in sorted(store.runs.iterdir()):
        if folder.is_symlink() or not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            record = read(folder)
            if record.run_id != folder.name:
                raise RaycycleError(f"it is the record of another run, {record.run_id[:40]}")
            found.append(record)
        except RaycycleError as error:
            damaged.append(Damaged(str(folder / FILE), error.what.replace(str(folder / FILE), "it")))
    return sorted(found, key=lambda record: record.started, reverse=True), damaged


def find(store: Store, begins: str) -> tuple[Record, Path]:
    """The run whose id begins so (`latest`: the newest), and its folder. Raises UsageError when none, or more than one, fits."""
    found = chosen(begins, *every(store))
    return found, store.runs / found.run_id


def chosen(begins: str, found: Sequence[Record], damaged: Sequence[Damaged]) -> Record:
    """As `find`, among records that were read; a damaged one that is meant is an error which names its file."""
    if begins == LATEST:
        if not found:
            raise UsageError("there is no run yet", value=begins, next="raycycle run experiment=flights makes one")
        return found[0]
    run_id = the_one(begins, _ids(found, damaged))
    if broken := next((each for each in damaged if each.run_id == run_id), None):
        raise RaycycleError(f"the run cannot be told: {broken.reason}", value=broken.file, next="raycycle runs")
    return next(record for record in found if record.run_id == run_id)


def _ids(found: Sequence[Record], damaged: Sequence[Damaged]) -> list[str]:
    return [*(record.run_id for record in found), *(each.run_id for each in damaged)]


def the_one(begins: str, ids: Sequence[str], what: str = "run", makes: str = "raycycle runs") -> str:
    """The id, of those given newest first, that begins so. Raises UsageError when none, or more than one, does."""
    fitting = [each for each in ids if begins and each.startswith(begins)]
    if len(fitting) == 1:
        return fitting[0]
    close = suggest(begins, [each[: len(begins)] for each in ids]) if begins.isalnum() else ""
    raise UsageError(
        "more than one run has an id that begins so" if fitting else f"no {what} has this id{close}",
        value=begins,
        allowed=some(fitting or ids, 5) or "none yet",
        next=makes,
    )
