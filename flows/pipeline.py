"""The whole life of a model, in order. Each line of `run` is a stage: its function is in a file of its own, what it follows from below.

$ raycycle run experiment=flights
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from cluster.progress import Progress
from cluster.store import Store, linked
from conf.errors import RaycycleError
from flows import data_report
from flows.deploy import deploy
from flows.evaluate import Described, evaluate, opened
from flows.evaluation import Evaluation
from flows.ingest import Ingested, ingest, referred
from flows.made import Made
from flows.plan import Plan
from flows.prepare import prepare, unseen_rows
from flows.prepared import Prepared
from flows.record import child_run, recorded
from flows.register import champion_of, register
from flows.report import PAGE, Page, report
from flows.score import Scored, score_unseen, takes
from flows.stages import Place, Result, Stages
from flows.story import story_of
from flows.sweep import Swept, sweep
from flows.travel import taken
from flows.trial import Trial
from ledger.registry import Registered, Registry
from ledger.stages import Cause, Kept
from tables.privacy.keys import Keyring
from tables.privacy.treatment import pinned, treated_contract


def run(plan: Plan, store: Store, progress: Progress, verb: str = "run") -> Made:
    """All stages of a run, or those up to `plan.until`; returns what they made."""
    name = plan.config.dataset.name
    plan = replace(plan, contract=pinned(plan.contract, Keyring(store)))
    with recorded(plan, store, progress, verb) as (made, stages, spool):
        ingested = ingest_stage(plan, stages)
        made.ingested = ingested.value
        made.data_report = data_report.beside(ingested.folder, made.folder)
        if not plan.reaches("prepare"):
            return made
        prepared = prepare_stage(plan, stages, ingested)
        if not plan.reaches("sweep"):
            return made
        swept = sweep_stage(plan, stages, prepared, lambda trial: spool.child(trial.number, child_run(trial)))
        made.swept = swept.value
        if not plan.reaches("evaluate"):
            return made
        registry = Registry(spool.tracking)
        champion = champion_of(name, registry, progress)
        evaluated = evaluate_stage(plan, stages, prepared, swept, champion)
        made.evaluation = evaluated.value
        if not plan.reaches("register"):
            return made
        made.version = register(name, made.evaluation, spool, stages)
        if plan.deploys and made.evaluation.passed and made.version:
            stages.platform()
            made.version, made.released = deploy(made.version, store, registry, progress)
            fresh = made.released.replicas > 0
            stages.act("deploy", str(made.version), progress.seconds["deploy"], {"model": made.version.digest}, ran=fresh)
        model = made.version if made.released or not takes(champion, plan.contract) else champion
        if plan.reaches("score") and model:
            scored = score_stage(plan, stages, ingested, prepared, model)
            made.score_input = linked(scored.folder / "input", made.folder / "score_input")
            made.scored = replace(scored.value, output=linked(scored.folder / "scores", made.folder / "scores"))
        if plan.reaches("report"):
            page = report_stage(plan, store, stages, made, prepared)
            made.report = shutil.copyfile(page.value.file, made.folder / PAGE)
        return made


def ingest_stage(plan: Plan, stages: Stages) -> Result[Ingested]:
    """The rows of the source as a snapshot, or the version that `snapshot` asks for as it lies."""
    name, store = plan.config.dataset.name, stages.store
    if plan.config.snapshot is not None:
        # Before anything is started: whether that version can be taken is known at once.
        version = taken(store, name, plan.config.snapshot, treated_contract(plan.contract))

        def take(place: Place) -> Ingested:
            data_report.describe(version, treated_contract(plan.contract), place.folder)
            return version

        # Not what is kept: that may name an earlier version with the same rows, which may be gone.
        return stages.run("ingest", {"snapshot": str(version.snapshot.digest)}, take, lambda folder: version)

    def fingerprint() -> str | None:
        return plan.source.fingerprint(store.folder("cache") / "files.json") if hasattr(plan.source, "fingerprint") else None

    source = fingerprint()

    def make(place: Place) -> Ingested:
        made = ingest(name, plan.source, plan.contract, store, stages.progress, plan.onces, plan.config.dataset.write)
        if fingerprint() != source:  # kept now, the rows would be taken for those of the source as it was
            raise RaycycleError("the source changed while it was read", value=name, next="run again: the new rows are then read whole")
        place.resources["partitions"] = len(made.snapshot.files)
        data_report.describe(made, treated_contract(plan.contract), place.folder)
        return made

    return stages.run(
        "ingest",
        {"source": source, **referred(store, plan.contract)},
        make,
        partial(Ingested.load, store=store),
    )


def prepare_stage(plan: Plan, stages: Stages, ingested: Result[Ingested]) -> Result[Prepared]:
    return stages.run(
        "prepare",
        {"snapshot": ingested.outputs["rows"]},
        lambda place: prepare(ingested.value.snapshot, plan.contract, plan.split, plan.config.encode, plan.judged_columns, stages.progress),
        partial(Prepared.load, plugins=plan.config.plugins),
    )


def sweep_stage(plan: Plan, stages: Stages, prepared: Result[Prepared], on_trial: Callable[[Trial], None]) -> Result[Swept]:
    def make(place: Place) -> Swept:
        searching = plan.searching()
        threads = max(family.resources.threads for family in searching.families)
        place.resources.update(concurrent_trials=searching.concurrency, threads=threads)
        return sweep(prepared.value, searching, place.work, stages.progress, on_trial)

    return stages.run(
        "sweep",
        {name: prepared.outputs[name] for name in ("encoder", "split", "train", "valid")},
        make,
        Swept.load,
    )


def evaluate_stage(
    plan: Plan, stages: Stages, prepared: Result[Prepared], swept: Result[Swept], champion: Registered | None
) -> Result[Evaluation]:
    """The candidate against the champion. Where the champion is this very candidate, its evaluation of then stands."""
    inputs = {**prepared.outputs, "best": swept.outputs["best"], "champion": champion.digest if champion else "none"}

    def itself(cause: Cause) -> Kept | None:
        alike = [kept for kept in stages.cache.all("evaluate") if kept.record.cause.but("champion") == cause.but("champion")]
        return next((kept for kept in alike if champion and kept.record.outputs["model"] == champion.digest), None)

    config = plan.config
    described = Described(config.dataset.name, config.plugins, plan.reading)
    return stages.run(
        "evaluate",
        inputs,
        lambda place: evaluate(
            prepared.value,
            swept.value,
            plan.family(swept.value.best.family),
            plan.gates,
            opened(champion),
            plan.slices,
            plan.later_by,
            described,
            place.folder,
            stages.progress,
        ),
        Evaluation.load,
        itself,
    )


def score_stage(plan: Plan, stages: Stages, ingested: Result[Ingested], prepared: Result[Prepared], model: Registered) -> Result[Scored]:
    inputs = {"snapshot": ingested.outputs["rows"], "split": prepared.outputs["split"], "model": model.digest}

    return stages.run(
        "score",
        inputs,
        lambda place: score_unseen(
            model,
            unseen_rows(ingested.value.snapshot, prepared.value, plan.config.score.where, place.folder / "input"),
            place.folder / "scores",
            plan.scored_columns,
            plan.later_by,
            stages.progress,
        ),
        Scored.load,
    )


def report_stage(plan: Plan, store: Store, stages: Stages, made: Made, prepared: Result[Prepared]) -> Result[Page]:
    told = {stage.stage: ",".join(stage.outputs.values()) for stage in stages.record.stages}
    return stages.run(
        "report",
        told,
        lambda place: report(story_of(plan, store, made, prepared.value), place.folder / PAGE, stages.progress),
        Page.load,
    )
