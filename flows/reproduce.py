"""Replay a recorded run by its own code, from its own snapshot, and say with a signature whether every stage came out the same.

$ raycycle reproduce RUN
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from cluster.progress import Progress
from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, RefusedError, UsageError
from conf.targets import SOURCE
from flows import certificate, comparison
from flows.certificate import BIT_EXACT, Certificate, Difference, StageComparison
from flows.comparison import Sides
from flows.replay import REPLAYED, Job
from ledger import changes, digests, records
from ledger.environment import compare, environment
from ledger.records import Record, StageRun
from ledger.stages import Kept
from tables import snapshots
from tables.contract import Contract
from tables.privacy.treatment import treated_contract
from tables.snapshots import Snapshot

FOLDER = "certificate"
_FOLDER = re.compile(r"reproduce-(?P<run>[0-9a-f]{12})-(?P<pid>\d+)")  # as `_work` names it


@dataclass(frozen=True)
class Reproduced:
    """How a replay ended, and where its certificate lies."""

    certificate: Certificate
    file: Path

    @property
    def equal(self) -> bool:
        return self.certificate.verdict == "equal"


def reproduce(
    store: Store, run_id: str, progress: Progress, *, until: str | None = None, code: str = "recorded", env: str = "here"
) -> Reproduced:
    """Replay the run up to `until` by the `recorded` code or that of `here`, in the environment of `here` or a new one (`build`).

    Raises UsageError when that is impossible: the commit, the snapshot or a model is gone, the run recorded too little.
    """
    record, folder = records.find(store, run_id)
    store = store.with_tables(record.tables)
    last = _last_stage(record, until)
    snapshot = _snapshot(store, record)
    with _work(store, record) as into:
        source = _source(record, folder, store, into) if code == "recorded" else SOURCE
        python = _python(source, into, progress) if env == "build" else Path(sys.executable)
        now = environment()
        differences = [] if env == "build" else compare(record.environment, now)
        for difference in differences:
            progress.say(f"environment differs: {difference}")
        replayed = _replay(Job(record_folder=str(folder), store=str(store.root), into=str(into), until=last), source, python)
        compared = [_compared(record, stage) for stage in replayed]
        first = next(
            (
                _first_difference(record, stage, snapshot, store, into)
                for stage, each in zip(replayed, compared, strict=True)
                if not each.equal
            ),
            None,
        )
        made = Certificate(
            run_id=record.run_id,
            verdict="equal" if all(each.equal for each in compared) else "different",
            made=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            by=now["who"],
            code={"commit": record.changes.commit, "changed_files": sorted(record.changes.files)},
            environment={"lock_digest": now["lock_digest"], "differences": differences},
            snapshot={"name": snapshot.name, "version": snapshot.version, "digest": record.made["snapshot"]["digest"]},
            stages=tuple(compared),
            first_difference=first,
            until=last,
            record_digest=digests.of_file(folder / records.FILE),
        )
        target = folder / FOLDER
        target.mkdir(exist_ok=True)
        file = certificate.write(made, store, target)
        return Reproduced(certificate.read(target, store), file)


def refuse_different(found: Reproduced) -> RefusedError | None:
    """The error of a run that did not come out again."""
    if found.equal:
        return None
    return RefusedError(
        "the run did not come out the same", value=certificate.lines(found.certificate)[0], next=f"read {found.file.with_suffix('.html')}"
    )


def _last_stage(record: Record, until: str | None) -> str:
    """The last stage to replay: one that the run had, and that can be compared."""
    if "snapshot" not in record.made:
        raise UsageError(
            "the run ended before it had a snapshot: there is nothing to replay", value=record.run_id, allowed="a run that came further"
        )
    had = [stage for stage in REPLAYED if record.stage(stage)]
    if until is None:
        return had[-1]
    if until not in had:
        raise UsageError("--until names no stage of this run that can be replayed", value=until, allowed=", ".join(had))
    return until


def _snapshot(store: Store, record: Record) -> Snapshot:
    made = record.made["snapshot"]
    found = snapshots.open_snapshot(store, made["name"], made["version"])
    if missing := [file for file in found.files if not file.path.is_file()]:
        raise UsageError(
            "a file of the recorded snapshot is gone",
            value=str(missing[0].path),
            next="restore it from a backup; without it the run cannot be replayed",
        )
    if str(found.digest) != made["digest"]:
        raise UsageError(f"{found} is not the snapshot that the run learned from", value=str(found.digest), allowed=made["digest"])
    return found


def replays(store: Store) -> Iterator[tuple[Path, str, int]]:
    """The folder of each replay that goes on or was killed, the first letters of its run's id, and its process."""
    for folder in store.jobs.iterdir():
        if found := _FOLDER.fullmatch(folder.name):
            yield folder, found["run"], int(found["pid"])


@contextlib.contextmanager
def _work(store: Store, record: Record) -> Iterator[Path]:
    """A folder for the replay's own store and code, removed at its end; those that killed ones left go first."""
    for left, _, pid in replays(store):
        if not psutil.pid_exists(pid):
            shutil.rmtree(left, ignore_errors=True)
    into = store.jobs / f"reproduce-{record.run_id[:12]}-{os.getpid()}"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    try:
        yield into
    finally:
        shutil.rmtree(into, ignore_errors=True)


def _source(record: Record, folder: Path, store: Store, into: Path) -> Path:
    """The code that ran: its commit with its changes; without a repository, the copy that the workers imported."""
    if record.changes.repository:
        changes.restore(SOURCE, record.changes, folder / "code", into / "code")
        return into / "code"
    copy = store.root / "cache" / "code" / record.pack[:16]
    if not copy.is_dir():
        raise UsageError(
            "the code of the run is gone: it ran outside a git repository",
            value=record.pack[:16],
            next="--code here replays by today's code",
        )
    return copy


def _python(source: Path, into: Path, progress: Progress) -> Path:
    """A new virtual environment from the recorded lock file."""
    lock = source / "requirements.lock"
    if not lock.exists():
        raise UsageError("the recorded code has no lock file", value=str(lock.name), next="leave out --env build")
    with progress.stage("environment", 1, "locks") as bar:
        subprocess.run([sys.executable, "-m", "venv", str(into / "venv")], check=True)
        python = into / "venv" / "bin" / "python"
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(lock)], capture_output=True, text=True)
        if done.returncode:
            raise RaycycleError(
                "the recorded environment cannot be built", value=done.stderr.strip().splitlines()[-1:], next="leave out --env build"
            )
        bar.advance(1)
    return python


def _replay(job: Job, source: Path, python: Path) -> list[StageRun]:
    """Run the replay as a process by the code in `source`; what it printed goes to standard error, as progress does."""
    into = Path(job.into)
    write_json(into / "job.json", msgspec.to_builtins(job))
    variables = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(python), "-m", "flows.replay", str(into / "job.json")], cwd=source, env=variables, stdout=sys.stderr)
    answer = read_json(into / "replayed.json") if (into / "replayed.json").exists() else {}
    if error := answer.get("error"):
        kind = UsageError if answer.get("exit_code") == 2 else RaycycleError
        raise kind(
            f"the replay failed: {error['what']}",
            value=error.get("value"),
            allowed=error.get("allowed") or "",
            next=error.get("next") or "",
        )
    if done.returncode or "stages" not in answer:
        raise RaycycleError(
            "the replay ended without an answer", value=f"exit code {done.returncode}", next="the run may be older than `reproduce`"
        )
    return [msgspec.convert(stage, StageRun) for stage in answer["stages"]]


def _compared(record: Record, replayed: StageRun) -> StageComparison:
    was = record.stage(replayed.stage)
    recorded = dict(was.outputs) if was else {}
    if replayed.stage == "ingest":
        recorded["snapshot as it lies"] = record.made["snapshot"]["digest"]
        recorded = {name: digest for name, digest in recorded.items() if name in replayed.outputs}
    return StageComparison(replayed.stage, recorded == replayed.outputs, recorded, replayed.outputs, replayed.seconds, BIT_EXACT)


def _first_difference(record: Record, replayed: StageRun, snapshot: Snapshot, store: Store, into: Path) -> Difference:
    """Where to look. What the stage gave then must still lie in the store for a column and a row to be named."""
    found = _located(record, replayed, snapshot, store, into)
    if found:
        return found
    was = record.stage(replayed.stage)
    recorded = was.outputs if was else {}
    name = next((name for name in replayed.outputs if recorded.get(name) != replayed.outputs[name]), "outputs")
    return Difference(
        replayed.stage, name, None, None, recorded.get(name, comparison.ABSENT), replayed.outputs.get(name, comparison.ABSENT)
    )


def _located(record: Record, replayed: StageRun, snapshot: Snapshot, store: Store, into: Path) -> Difference | None:
    was, plugins = record.stage(replayed.stage), list(record.config["plugins"])
    contract = treated_contract(Contract.load(into / "conf" / "contract" / f"{record.config['dataset']['contract']}.yaml"))
    if replayed.stage == "ingest":
        fresh = read_json(into / "snapshot.json")["fresh"]
        again = snapshots.open_snapshot(Store(into / "store"), record.dataset) if fresh else None
        return comparison.of_snapshots(snapshot, again, contract) if again else None
    if was is None or comparison.gone(store.root / was.folder):
        return None
    kept = Kept.read(store.root / was.folder)
    sides = Sides(kept.verified().folder if kept else store.root / was.folder, into / "store" / replayed.folder)
    if replayed.stage == "prepare":
        return comparison.of_prepared(sides, plugins, snapshot)
    if replayed.stage == "sweep":
        return comparison.of_swept(sides)
    if replayed.stage == "evaluate":
        prepared = record.stage("prepare")
        return comparison.of_evaluations(sides, store.root / (prepared.folder if prepared else ""), plugins, snapshot)
    return comparison.of_scores(sides, contract)
