"""How a stage of a run is carried out: taken from the cache where nothing it follows from has changed, else made, kept and recorded."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import yaml

from cluster.progress import Progress
from cluster.session import connect, end_left_over
from cluster.store import Store
from flows.deploy import start_platform
from flows.plan import Plan
from ledger import records
from ledger.code import used_by
from ledger.places import refuse_shared_sqlite
from ledger.records import Record, StageRun
from ledger.stages import Cause, Draft, Kept, StageCache, flat

# The keys of the configuration that a stage reads: any other may change without making it run again.
READS = {
    "ingest": ("dataset.source", "dataset.duplicates", "dataset.write", "store.tables", "contract"),
    "prepare": ("dataset.split", "dataset.slices", "score.by", "encode", "contract"),
    "sweep": ("trainer", "search", "sweep.num_trials", "sweep.lag", "sweep.metric", "sweep.folds", "seed", "plugins"),
    # The source for how its text files were read, which the bundle tells; metric and seed for the gates' intervals.
    "evaluate": ("dataset.name", "dataset.source", "dataset.slices", "score.by", "trainer", "sweep.metric", "seed", "gates", "plugins"),
    "score": ("score",),
    "report": ("dataset.name", "deploy", "policy"),
}


class Output(Protocol):
    """What a stage makes. `save` writes it into a folder and returns the digest of each thing that can be compared."""

    def save(self, folder: Path) -> dict[str, str]: ...


T = TypeVar("T", bound=Output)


@dataclass(frozen=True)
class Place:
    """Where a stage writes: `folder` becomes its result; `work` is for what it wants to find again when it is killed on the way.

    In `resources` it may note what it worked with: workers, partitions, threads.
    """

    folder: Path
    work: Path
    resources: dict[str, float] = field(default_factory=dict)


@dataclass
class Result(Generic[T]):
    """A stage's result: its digests, and where it lies. `value` is read, and its bytes are verified, when it is first asked for."""

    outputs: dict[str, str]
    folder: Path
    read: Callable[[], T]

    @cached_property
    def value(self) -> T:
        return self.read()


@dataclass
class Stages:
    """Carries out the stages of one run and writes each into its record. Ray is met when the first stage really runs."""

    plan: Plan
    store: Store
    progress: Progress
    record: Record
    record_folder: Path
    tracking_uri: str
    begin: Callable[[], None]
    found: Callable[[], dict[str, Any]] = dict
    _met: bool = False
    _up: bool = False
    _connection: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @cached_property
    def cache(self) -> StageCache:
        return StageCache(self.store, self.plan.config.dataset.name, self.progress.say)

    @cached_property
    def config(self) -> dict[str, Any]:
        return {**self.plan.composed.plain, "contract": yaml.safe_load(self.plan.contract.dump())}

    def cause(self, stage: str, inputs: Mapping[str, str | None]) -> Cause:
        """All that the result of a stage follows from, as things are now."""
        config = self.plan.config
        used = used_by(self.plan.code_of(stage), config.plugins, memo=self.store.folder("cache") / "code.json")
        return Cause(
            stage=stage,
            modules=used.modules,
            libraries=used.libraries,
            config=flat(self.config, READS[stage]),
            inputs=dict(inputs),
        )

    def run(
        self,
        stage: str,
        inputs: Mapping[str, str | None],
        make: Callable[[Place], T],
        load: Callable[[Path], T],
        same: Callable[[Cause], Kept | None] = lambda cause: None,
    ) -> Result[T]:
        """The result of `stage`: the kept one, or what `make` gives. An input whose digest is None is never the same twice.

        `same` may name a kept result that stands for this one although its inputs differ.
        """
        started = time.monotonic()
        cause = self.cause(stage, inputs)
        kept, why, ran = self._find(cause, same), "", False
        if kept is None:
            why = self._why(cause)
            with self.cache.making(cause) as lease:
                kept = self._find(cause, same)  # made meanwhile by the process that was waited for
                if kept is None:
                    ran = True
                    if why != "no earlier result":
                        self.progress.say(f"{stage:<9} runs: {why}")
                    self.connect()
                    with self.cache.publishing(cause, lease, self.record.run_id) as draft:
                        self._make(draft, make, self.cache.work(cause))
                    kept = self.cache.made(cause)
        if not ran:
            why = f"unchanged since run {kept.record.run_id[:12]}"
            self.progress.seconds[stage] = time.monotonic() - started
            self.progress.note(stage, why)
        self._note(kept, ran, why, time.monotonic() - started)
        return Result(kept.record.outputs, kept.folder, lambda: load(kept.verified().folder))

    def act(self, stage: str, why: str, seconds: float, outputs: dict[str, str], ran: bool = True) -> None:
        """Record a stage that acts on the world, and so is not kept: a registration, a release."""
        self._record(StageRun(stage=stage, ran=ran, why=why, seconds=round(seconds, 3), outputs=outputs))

    def _record(self, stage: StageRun) -> None:
        self.record.stages.append(stage)
        self.record.made = self.found()
        records.write(self.record, self.record_folder)

    def connect(self) -> None:
        """Meet Ray, once; on several hosts a SQLite database is refused before any work is done."""
        if self._met:
            return
        self._met = True
        self.begin()
        if self.plan.deploys:
            self.platform()
        config = self.plan.config
        self._connection.enter_context(connect(self.store, config.cluster.address, num_cpus=config.cluster.cpus))
        import ray

        refuse_shared_sqlite(self.tracking_uri, {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}, self.store.root)

    def platform(self) -> None:
        """Have the store's platform up: the Ray that a run with a release works on, and the endpoint that it releases to."""
        if not self._up:
            self._up = True
            config = self.plan.config
            start_platform(self.store, self.progress, config.serve.port, config.cluster.cpus)

    def close(self) -> None:
        self._connection.close()
        if not self._met:
            end_left_over(self.store)

    def _find(self, cause: Cause, same: Callable[[Cause], Kept | None]) -> Kept | None:
        if not self.plan.reuse.allows(cause.stage) or None in cause.inputs.values():
            return None
        return self.cache.find(cause) or same(cause)

    def _why(self, cause: Cause) -> str:
        if not self.plan.reuse.allows(cause.stage):
            return self.plan.reuse.reason
        if unknown := [name for name, digest in cause.inputs.items() if digest is None]:
            return f"whether {unknown[0]} changed cannot be known"
        return self.cache.why(cause)

    def _make(self, draft: Draft, make: Callable[[Place], T], work: Path) -> None:
        started, before = time.monotonic(), os.times()
        place = Place(draft.folder, work)
        made = make(place)
        draft.outputs |= made.save(draft.folder)
        after = os.times()
        draft.seconds = round(time.monotonic() - started, 3)
        driver = after.user + after.system - before.user - before.system
        draft.resources |= place.resources | {"cpus": self._cpus(), "driver_cpu_s": round(driver, 3)}

    def _cpus(self) -> float:
        import ray

        return float(ray.cluster_resources().get("CPU", 0))

    def _note(self, kept: Kept, ran: bool, why: str, seconds: float) -> None:
        made = kept.record
        self._record(
            StageRun(
                stage=made.stage,
                ran=ran,
                why=why,
                seconds=round(seconds, 3),
                key=kept.folder.name,
                folder=str(kept.folder.relative_to(self.store.root)),
                made_by=made.run_id,
                inputs=made.cause.inputs,
                outputs=made.outputs,
                resources=made.resources,
            )
        )
