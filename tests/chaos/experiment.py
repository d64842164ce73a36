"""A small experiment that goes through every stage in seconds, the real command on it, and what must be true when it has ended."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from homes import RAYCYCLE

from cluster import processes
from cluster.environment import Folders
from cluster.store import Store
from flows.init import init
from ledger import digests, records
from ledger.records import Record
from ledger.spool import read as entries_of
from ledger.tracking import PARENT_TAG, RUN_TAG, Tracking
from tables.snapshots import open_snapshot

NAME = "people"
STAGES = ("ingest", "prepare", "sweep", "evaluate", "register", "score", "report")
SMALL = ("run", f"dataset={NAME}", "trainer=two", "trainer.lightgbm.num_rounds=10", "trainer.linear.max_iterations=30", "deploy=none")
SMALL = (*SMALL, "sweep.num_trials=4", "sweep.folds=2", "cluster.cpus=2", "--json")
TWO_FAMILIES = "defaults:\n  - linear@linear\n  - lightgbm@lightgbm\n\nresources: {cpu: null, gpu: null}\n"
# A command that takes longer hangs. It is long: a busy machine needs a minute to start Ray.
LONGEST_S = 240.0


@dataclass
class Command:
    """A running `raycycle`; `seen` are the processes that it had at any time."""

    process: subprocess.Popen[bytes]
    store: Store
    out: Path
    seen: set[psutil.Process] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    @property
    def driver(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def children(self) -> list[psutil.Process]:
        """All that it started and that still lives."""
        try:
            found = self.driver.children(recursive=True)
        except psutil.Error:
            return []
        self.seen |= set(found)
        return found

    def stages(self) -> int:
        """How many stages the newest record of the store has."""
        return max((len(record.stages) for record in records.every(self.store)[0]), default=0)

    def finish(self, longest_s: float = LONGEST_S) -> int:
        """Its exit code; fails, and ends it, when it hangs."""
        while not self.ended:
            self.children()
            if self.seconds > longest_s:
                self.end()
                raise AssertionError(f"the command hangs\n{self.said}")
            time.sleep(0.1)
        return self.process.returncode

    def answer(self) -> dict[str, Any]:
        """What a command that ended well says."""
        assert self.finish() == 0, f"exit {self.process.returncode}\n{self.said}"
        return dict(json.loads(self.out.read_text().splitlines()[-1]))

    @property
    def said(self) -> str:
        return self.out.read_text() + self.out.with_suffix(".err").read_text()

    def end(self) -> None:
        """End it and all that it started, and nothing else."""
        for each in [*self.children(), *self.seen]:
            with contextlib.suppress(psutil.Error):
                each.kill()
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Experiment:
    """A folder with a table, its dataset and its contract; `empty` is a store in which nothing has run."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Experiment:
        """A table in two files, with some rows that break its contract."""
        (folder / "people").mkdir(parents=True)
        _write_rows(folder / "people", bad=0)
        with contextlib.chdir(folder):
            init("people", "bought", NAME)
        _write_rows(folder / "people", bad=7)
        (folder / "raycycle-conf" / "trainer").mkdir()
        (folder / "raycycle-conf" / "trainer" / "two.yaml").write_text(TWO_FAMILIES)
        _ = Tracking(Store.open(folder / "empty")).client  # migrating the database takes longer than some stages
        return cls(folder)

    @contextlib.contextmanager
    def store(self, name: str) -> Iterator[Store]:
        """A new copy of the empty store; at the end it is gone, with what Ray kept of it elsewhere."""
        root = self.folder / name
        shutil.copytree(self.folder / "empty", root)
        store = Store.open(root)
        try:
            yield store
        finally:
            processes.end(ray_folders(store))
            for folder in (root, *ray_folders(store)):
                shutil.rmtree(folder, ignore_errors=True)

    def start(self, store: Store, *words: str) -> Command:
        handle, out = tempfile.mkstemp(prefix="said.", suffix=".out", dir=self.folder)
        with os.fdopen(handle, "wb") as stdout, Path(out).with_suffix(".err").open("wb") as stderr:
            environment = {**os.environ, "RAYCYCLE_HOME": str(store.root)}
            process = subprocess.Popen([RAYCYCLE, *SMALL, *words], cwd=self.folder, env=environment, stdout=stdout, stderr=stderr)
        return Command(process, store, Path(out))

    def run(self, store: Store, *words: str) -> Command:
        """A command that ended well."""
        command = self.start(store, *words)
        command.answer()
        return command


def _write_rows(folder: Path, bad: int) -> None:
    """600 rows whose label follows from their columns and some chance, and `bad` ones more whose label is none."""
    chance = random.Random(5)
    numbers = itertools.count()
    for name in ("one.csv", "two.csv"):
        with (folder / name).open("w", newline="") as handle:
            out = csv.writer(handle)
            out.writerow(["id", "age", "income", "height", "town", "bought"])
            for _ in range(300):
                age, income, height = (round(chance.gauss(0, 1), 3) for _ in range(3))
                town = chance.choice("ABCD")
                label = "yes" if age + income * (town > "B") + chance.gauss(0, 0.7) > 0 else "no"
                out.writerow([next(numbers), age, income, height, town, label])
            for _ in range(bad):
                out.writerow([next(numbers), 0.5, 0.5, 0.5, "A", "perhaps"])


def ray_folders(store: Store) -> list[Path]:
    """Where the private Ray of a store's commands has its files: below a short name, or in the store."""
    folders = Folders.of(store, private=True)
    return [folders.short, folders.ray]


@dataclass(frozen=True)
class Truth:
    """What a store must hold after the experiment has ended well, however it went until then."""

    outputs: dict[str, dict[str, str]]
    quarantine: dict[str, str]
    versions: int

    @classmethod
    def of(cls, store: Store, run_id: str) -> Truth:
        return cls(outputs(records.find(store, run_id)[0]), digests.of_folder(store.quarantine / NAME), _versions(store))


def outputs(record: Record) -> dict[str, dict[str, str]]:
    """The digests of each stage. A report tells when and how long, so it is never the same twice."""
    assert [stage.stage for stage in record.stages] == list(STAGES)
    return {stage.stage: stage.outputs for stage in record.stages if stage.stage != "report"}


def _versions(store: Store) -> int:
    return len(list((store.tables / NAME / "_delta_log").glob("*.json")))


def nothing_half_done(store: Store) -> None:
    """Fail when anything unfinished lies where results are, or a part that no version of the table names."""
    results = [store.root / "cache" / "stages", store.quarantine, store.tables]
    left = [path for folder in results for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".unfinished")]
    assert left == []
    parts = {file.name for file in (store.tables / NAME).glob("*.parquet")}
    named = {file.name for version in range(_versions(store)) for file in open_snapshot(store, NAME, version).files}
    assert parts == named


def nobody_left(store: Store, commands: list[Command], longest_s: float = 30.0) -> None:
    """Fail when a process of these commands lives on. Ray's agents and workers need a moment to see that it ended."""
    deadline = time.monotonic() + longest_s
    while left := _alive(store, commands):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)


def _alive(store: Store, commands: list[Command]) -> list[str]:
    seen = {each for command in commands for each in command.seen if each.is_running() and each.status() != psutil.STATUS_ZOMBIE}
    found = []
    for each in seen | set(processes.belonging(ray_folders(store))):
        with contextlib.suppress(psutil.Error):
            found.append(f"{each.pid} {each.name()}")
    return found


def runs_in_tracking(store: Store) -> dict[str, str]:
    """The status in MLflow of each run, by our id; opening it replays what dead commands left. None, nor any trial, goes on."""
    client = Tracking(store).client
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert [run.info.run_id for run in found if run.info.status == "RUNNING"] == []
    assert list((store.root / "spool").glob("*.jsonl")) == []
    return {run.data.tags[RUN_TAG]: run.info.status for run in found if PARENT_TAG not in run.data.tags}


def told_to_go_on(store: Store) -> set[str]:
    """Runs whose spool does not say how they ended: once their command is dead, MLflow must call them KILLED."""
    told = {file.stem: {entry["op"] for entry in entries_of(file)} for file in (store.root / "spool").glob("*.jsonl")}
    return {run_id for run_id, ops in told.items() if "start" in ops and "end" not in ops}
