"""The whole life of a model, in order. Each line of `run` is a stage with a file of its own.

raycycle run experiment=flights
"""

from __future__ import annotations

from cluster.progress import Progress
from cluster.session import connect
from cluster.store import Store
from flows.deploy import deploy, start_platform
from flows.evaluate import evaluate, opened
from flows.ingest import ingest
from flows.plan import Plan
from flows.prepare import prepare, unseen_rows
from flows.record import Made, child_run, curl, endpoint, release_line, tracked
from flows.register import register
from flows.report import Story, report
from flows.score import Scored, judged_by, score
from flows.sweep import sweep
from ledger.registry import Registered, Registry
from ledger.tracking import ChildWriter
from tables.files import Files
from trainers.bundle import Bundle


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
            name, made.evaluation, made.prepared, tracking, registry, made.run_id, made.folder, config.plugins, progress
        )
        if plan.deploys and made.evaluation.passed:
            made.version, made.released = deploy(made.version, store, registry, progress)
        if plan.reaches("score"):
            made.score_input = unseen_rows(made.ingested.snapshot, made.prepared, config.score.where, made.folder / "score_input")
            made.scored = _score(plan, registry.champion(name) or made.version, made, progress)
        if plan.reaches("report"):
            made.report = report(_story(plan, made, store), made.folder / "report.html", progress)
            tracking.log_file(made.run_id, made.report)
        return made


def _score(plan: Plan, model: Registered, made: Made, progress: Progress) -> Scored:
    config = plan.config.score
    keep = [*dict.fromkeys([*config.keep, *([config.by] if config.by else []), plan.contract.label])]
    if made.score_input is None:
        raise AssertionError("the table to score is written first")
    scored = score(model, Files(path=str(made.score_input), format="parquet"), made.folder / "scores", keep, progress)
    if config.by is None:
        return scored
    bundle = Bundle.open(model.folder, model.digest)
    by = judged_by(scored, plan.contract.label, config.by, bundle.target, bundle.manifest.threshold)
    return Scored(scored.output, scored.rows, scored.quarantined, by)


def _story(plan: Plan, made: Made, store: Store) -> Story:
    if made.ingested is None or made.prepared is None or made.swept is None or made.evaluation is None:
        raise AssertionError("a report is written after the evaluation")
    return Story(
        title=plan.config.dataset.name,
        run_id=made.run_id,
        when=made.started.isoformat(timespec="seconds"),
        seconds=dict(made.seconds),
        config=plan.composed.plain,
        ingested=made.ingested,
        prepared=made.prepared,
        swept=made.swept,
        evaluation=made.evaluation,
        version=made.version.version if made.version else None,
        release=release_line(made),
        champion_name=str(made.champion or ""),
        scored=made.scored,
        endpoint=endpoint(made.released) if made.released else None,
        curl=curl(made, store),
    )
