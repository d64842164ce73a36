"""The record of a run: code, configuration, environment, data and seeds in; what each stage made, with its digest, out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, UsageError
from ledger.changes import Changes

FORMAT = 2
FILE = "record.json"
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
    as workers imported it; `made` what a person would look for: model, version, snapshot, report, scores.
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
    return write_json(folder / FILE, msgspec.to_builtins(record))


def read(folder: Path) -> Record:
    """Raises RaycycleError, naming the file, when it is damaged or of another version."""
    file = folder / FILE
    found = read_json(file)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        said = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise RaycycleError(f"{file} is no run record of this version", value=said, allowed=f"format {FORMAT}")
    try:
        return msgspec.convert(found, Record)
    except msgspec.ValidationError as error:
        raise RaycycleError(f"{file} is damaged ({error})", next="restore it from a backup; the run cannot be told without it") from None


def all_records(store: Store) -> list[Record]:
    """Every readable record, newest first; damaged ones are left out here and named when they are asked for."""
    found = []
    for folder in store.runs.iterdir():
        if (folder / FILE).is_file():
            try:
                found.append(read(folder))
            except RaycycleError:
                continue
    return sorted(found, key=lambda record: record.started, reverse=True)


def find(store: Store, run_id: str) -> tuple[Record, Path]:
    """The run whose id begins with `run_id`, and its folder. Raises UsageError when none, or more than one, fits."""
    folders = [each for each in store.runs.iterdir() if run_id and each.name.startswith(run_id) and (each / FILE).is_file()]
    if len(folders) != 1:
        known = [record.run_id for record in all_records(store)[:5]]
        raise UsageError(
            "no run has this id" if not folders else "more than one run has an id that begins so",
            value=run_id,
            allowed=", ".join(known) or "none yet",
            next="raycycle runs",
        )
    return read(folders[0]), folders[0]
