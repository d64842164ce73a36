"""The whole life of a model, in order. Each line of `run` is a stage with a file of its own.

$ raycycle run experiment=flights
"""

from __future__ import annotations

from cluster.progress import Progress
from cluster.session import connect
from cluster.store import Store
from flows.deploy import deploy, start_platform
from flows.evaluate import evaluate, opened
from flows.ingest import ingest
from flows.made import Made
from flows.plan import Plan
from flows.prepare import prepare, unseen_rows
from flows.record import child_run, tracked
from flows.register import register
from flows.report import PAGE, report
from flows.score import score_unseen
from flows.story import story_of
from flows.sweep import sweep
from ledger.registry import Registry
from ledger.tracking import ChildWriter


def run(plan: Plan, store: Store, progress: Progress) -> Made:
    """All stages of a run, or those up to `plan.until`; returns what they made. Only a good end is logged as FINISHED."""
    config, name = plan.config, plan.config.dataset.name
    if plan.deploys:
        start_platform(store, progress, config.serve.port, config.cluster.cpus)
    with connect(store, config.cluster.address, num_cpus=config.cluster.cpus), tracked(plan, store, progress) as (made, tracking):
        registry = Registry(tracking)

        made.ingested = ingest(name, plan.source, plan.contract, store, progress)
        if not plan.reaches("prepare"):
            return made
        made.prepared = prepare(made.ingested.snapshot, plan.contract, plan.split, config.encode, plan.judged_columns, progress)
        if not plan.reaches("sweep"):
            return made
        with ChildWriter(tracking, made.run_id) as writer:
            made.swept = sweep(made.prepared, plan.searching(), made.folder, progress, lambda trial: writer.put(child_run(trial)))
        if not plan.reaches("evaluate"):
            return made
        made.champion = registry.champion(name)
        made.evaluation = evaluate(made.prepared, made.swept, plan.gates, opened(made.champion), plan.slices, plan.later_by, progress)
        if not plan.reaches("register"):
            return made
        made.version = register(
            name, made.evaluation, made.prepared, tracking, registry, made.run_id, made.folder, config.plugins, plan.reading, progress
        )
        if plan.deploys and made.evaluation.passed:
            made.version, made.released = deploy(made.version, store, registry, progress)
        if plan.reaches("score"):
            made.score_input = unseen_rows(made.ingested.snapshot, made.prepared, config.score.where, made.folder / "score_input")
            model = registry.champion(name) or made.version
            made.scored = score_unseen(model, made.score_input, made.folder / "scores", plan.scored_columns, plan.later_by, progress)
        if plan.reaches("report"):
            told = story_of(plan, store, made, made.ingested, made.prepared, made.swept, made.evaluation)
            made.report = report(told, made.folder / PAGE, progress)
            tracking.log_file(made.run_id, made.report)
        return made
