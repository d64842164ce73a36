"""The newest runs, a line each: what was asked, which stages ran, and what came of it.

$ raycycle runs --last 20 --dataset flights
"""

from __future__ import annotations

import datetime as dt
import re
import socket
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.processes import is_alive
from cluster.store import Store, read_json
from conf.errors import RaycycleError, UsageError, suggest
from flows.certificate import shown
from ledger import records
from ledger.records import Damaged, Record, StageRun
from ledger.stages import Kept

SHORT = 12
_REGISTERED = re.compile(r"[^@/\s]+/\d+")
STARTING_S = 60.0  # a run's record is written before its spool, by which its process is known


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run. `status` as in the record, but KILLED where its process is dead, `RUNNING?` where that cannot be known.

    `value` is `metric` on the holdout, or on the validation rows where the run was not evaluated (`on` says which).
    """

    run_id: str
    started: str
    verb: str
    dataset: str
    status: str
    seconds: float | None
    ran: list[str]
    kept: list[str]
    metric: str = ""
    value: float | None = None
    on: str = ""
    model: str = ""
    passed: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Runs:
    """The newest runs first, how many there are of them in all, and those whose records cannot be read."""

    runs: list[RunLine]
    total: int
    damaged: list[Damaged]

    def as_json(self) -> dict[str, Any]:
        return msgspec.to_builtins({"runs": self.runs, "total": self.total, "damaged": self.damaged})  # type: ignore[no-any-return]

    def lines(self) -> list[str]:
        rows = [_columns(run) for run in self.runs]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        said = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.total > len(said):
            said.append(f"{self.total - len(said):,} older (--last {self.total})")
        said += [f"damaged  {shown(each.file, 1000)}: {shown(each.reason)}" for each in self.damaged]
        return said or ["no run yet: raycycle run experiment=flights makes one"]


def newest(store: Store, last: int = 20, dataset: str | None = None) -> Runs:
    """The newest `last` runs of the dataset, or of all. Raises UsageError when no run is of that dataset."""
    if last < 1:
        raise UsageError("--last is out of range", value=last, allowed="1 or more")
    found, damaged = records.every(store)
    of_it = [record for record in found if dataset in (None, record.dataset)]
    if dataset is not None and not of_it:
        known = sorted({record.dataset for record in found})
        raise UsageError(f"no run is of this dataset{suggest(dataset, known)}", value=dataset, allowed=", ".join(known) or "none yet")
    return Runs([_line(store, record) for record in of_it[:last]], len(of_it), damaged)


def status_now(store: Store, record: Record) -> str:
    """The record's status; where it says RUNNING, whether that can still be so."""
    if record.status != "RUNNING":
        return record.status
    owner = record.environment.get("process") or _owner(store, record.run_id)
    if owner is None:
        # The spool of a run is there until the run has ended, or until another command has told MLflow that it was killed.
        return "KILLED" if _seconds_since(record.started) > STARTING_S else "RUNNING?"
    if owner["host"] != socket.gethostname():
        return "RUNNING?"
    return "RUNNING" if is_alive(owner["pid"], owner["created"]) else "KILLED"


def kept_json(store: Store, stage: StageRun, name: str) -> dict[str, Any]:
    """The JSON file `name` of a stage's result, once its bytes were compared with their digest.

    Raises RaycycleError, naming the file, where they differ, are gone, or are no longer those that the run saw.
    """
    folder, cache = store.root / stage.folder, store.root / "cache"
    if not stage.folder or not folder.resolve().is_relative_to(cache.resolve()):
        raise RaycycleError("the record names no folder of the cache", value=stage.folder)
    kept = Kept.read(folder)
    if kept is None:
        raise RaycycleError(f"the result of {stage.stage} is gone from the cache", value=str(folder))
    if kept.record.outputs != stage.outputs:
        raise RaycycleError(f"the result of {stage.stage} is no longer the one of this run", value=str(folder))
    if name not in kept.record.files:
        raise RaycycleError(f"{folder / name} has no recorded digest")
    found = read_json(kept.verified(name).folder / name)
    if not isinstance(found, dict):
        raise RaycycleError(f"{folder / name} holds no facts")
    return found


def version_of(record: Record) -> str | None:
    """The model version a run ended with; of one that was killed after it registered, by its stage."""
    if "version" in record.made:
        return f"{record.made['model']}/{record.made['version']}"
    stage = record.stage("register")
    return stage.why if stage and _REGISTERED.fullmatch(stage.why) else None


def seconds_of(record: Record) -> float | None:
    """How long the run took by the clock, 0 where that was set back meanwhile; None where it has no end."""
    if record.ended is None:
        return None
    return max((dt.datetime.fromisoformat(record.ended) - dt.datetime.fromisoformat(record.started)).total_seconds(), 0.0)


def minute(time: str) -> str:
    """A UTC time in ISO form, to the minute."""
    return f"{time[:16].replace('T', ' ')}Z"


def _line(store: Store, record: Record) -> RunLine:
    status = status_now(store, record)
    made = record.made
    value, on = _value(store, record)
    return RunLine(
        run_id=record.run_id,
        started=record.started,
        verb=record.verb,
        dataset=record.dataset,
        status=status,
        seconds=_seconds_since(record.started) if status == "RUNNING" else seconds_of(record),
        ran=[stage.stage for stage in record.stages if stage.ran],
        kept=[stage.stage for stage in record.stages if not stage.ran],
        metric=str(made.get("metric", "")),
        value=value,
        on=on,
        model=version_of(record) or "",
        passed=made.get("passed"),
        error=(record.error or "").partition("\n")[0],
    )


def _value(store: Store, record: Record) -> tuple[float | None, str]:
    """The metric that the run was decided by; None where it is not known, or its file is damaged."""
    metric = record.made.get("metric")
    for name, file, on in (("evaluate", "evaluation.json", "holdout"), ("sweep", "swept.json", "validation")):
        if metric and (stage := record.stage(name)):
            try:
                found = kept_json(store, stage, file)
                trial = found if name == "evaluate" else next(each for each in found["trials"] if each["number"] == found["best"])
                value = trial["holdout"]["metrics"].get(metric) if name == "evaluate" else trial["metrics"].get(metric)
            except (RaycycleError, OSError, KeyError, StopIteration):
                return None, ""
            return (float(value), on) if value is not None else (None, "")
    return None, ""


def _owner(store: Store, run_id: str) -> dict[str, Any] | None:
    """Process, its start and its host, by the first line of the run's spool."""
    file = store.root / "spool" / f"{run_id}.jsonl"
    try:
        with file.open("rb") as lines:
            found = msgspec.json.decode(lines.readline())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"pid", "created", "host"} <= found.keys() else None


def _seconds_since(time: str) -> float:
    return max((dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(time)).total_seconds(), 0.0)


def _columns(run: RunLine) -> list[str]:
    seconds = "-" if run.seconds is None else f"{run.seconds:.1f} s"
    found = [run.run_id[:SHORT], minute(run.started), run.verb, run.dataset, run.status, seconds.rjust(9), _stages(run), _came(run)]
    return [shown(text, 120) for text in found]


def _stages(run: RunLine) -> str:
    said = [f"{','.join(run.ran)} ran"] if run.ran else []
    return "; ".join([*said, *([f"{len(run.kept)} kept"] if run.kept else [])]) or "no stage ended"


def _came(run: RunLine) -> str:
    said = [f"{run.metric} {run.value:.4f}{' (validation)' if run.on == 'validation' else ''}"] if run.value is not None else []
    if run.model:
        said.append(f"{run.model}{' refused' if run.passed is False else ''}")
    elif run.passed is False:
        said.append("refused")
    return ", ".join([*said, *([run.error] if run.error else [])]) or "-"
