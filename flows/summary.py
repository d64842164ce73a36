"""The end of a run in a few lines: what won, how good it is, what it beat, what became of it, what to type next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from cluster.store import Store
from conf.errors import some
from flows.ingest import Ingested
from flows.made import Made, curl, release_line
from flows.plan import Plan
from flows.sweep import best_by_family, shown


def lines(made: Made, plan: Plan, store: Store, seconds: float) -> list[str]:
    """What `raycycle run` prints after `seconds` of work; stages that were not run say nothing."""
    said = ["", f"{plan.config.dataset.name}: run {made.run_id}, {seconds:.0f} s"]
    if made.ingested:
        said += _let_in(made.ingested) + _columns(made, plan, store)
    said += _won(made) + _judged(made)
    if made.version:
        said.append(f"  release   {release_line(made)}")
    if made.scored:
        said.append(f"  scored    {made.scored.rows:,} rows of {made.score_input} in {made.scored.output}")
        said += [f"            {plan.later_by} {group}: {_metrics(metrics)}" for group, metrics in made.scored.by.items()]
    if made.report:
        said.append(f"  report    {made.report}")
    if made.version is None:
        return said
    word = command_word()
    if command := curl(made, store):
        score = f"{word} score {made.version.name} {made.score_input} scores/"
        return [*said, "", "ask it:", command, "", f"next: {score}", f"      {word} status", f"      {word} down"]
    if made.refusals:
        return [*said, "", f"next: {word} report {made.run_id}"]
    return [*said, "", f"next: {word} deploy {made.version.name} {made.version.version}"]


def _columns(made: Made, plan: Plan, store: Store) -> list[str]:
    """What this run changed of the table's columns, and the page about them."""
    from flows.versions import columns_changed

    changed = columns_changed(store, plan.config.dataset.name, made.started)
    said = [f"            columns changed: {some(changed, 6)}"] if changed else []
    return [*said, *([f"            {made.data_report}"] if made.data_report else [])]


def _let_in(ingested: Ingested) -> list[str]:
    bad, snapshot = sum(ingested.quarantined.values()), ingested.snapshot
    removed = f"; {ingested.duplicates:,} duplicates removed" if ingested.duplicates else ""
    kept_out = f"; {bad:,} quarantined in {ingested.quarantine}" if bad else ""
    return [
        f"  data      {snapshot}, {snapshot.rows:,} rows{removed}{kept_out}",
        *(f"            warning: {said}" for said in ingested.promises.values()),
    ]


def command_word() -> str:
    """What to type for `raycycle` here: the word itself where the shell finds it, else the path it was called by."""
    called = Path(sys.argv[0])
    if called.name != "raycycle" or shutil.which("raycycle"):
        return "raycycle"
    return os.path.relpath(called) if called.is_absolute() and called.is_relative_to(Path.cwd()) else str(called)


def _won(made: Made) -> list[str]:
    if made.swept is None:
        return []
    best, metric = made.swept.best, made.swept.metric
    params = ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in best.params.items())
    rivals = [f"{family} {shown(metric, trial)}" for family, trial in best_by_family(made.swept.trials).items() if family != best.family]
    said = [f"  won       {best.family}, trial {best.number} of {len(made.swept.trials)} ({params or 'its defaults'})"]
    beat = f"; {', '.join(rivals)}" if rivals else ""
    return [*said, f"            {metric} {shown(metric, best)} on validation{beat}"]


def _judged(made: Made) -> list[str]:
    judged = made.evaluation
    if judged is None or made.swept is None:
        return []
    metric, quality = made.swept.metric, judged.holdout
    names = [metric, *(name for name in ("roc_auc", "log_loss", "r2", "accuracy") if name in quality.metrics and name != metric)]
    good = ", ".join(
        f"{name} {quality.metrics[name]:.4f} [{quality.intervals[name][0]:.4f}, {quality.intervals[name][1]:.4f}]" for name in names[:3]
    )
    said = [f"  holdout   {good} on {quality.rows:,} rows", f"  against   a constant answer: {metric} {judged.constant[metric]:.4f}"]
    if judged.champion:
        said.append(f"            champion {judged.champion_name}: {metric} {judged.champion[metric]:.4f}")
    passed = sum(verdict.passed for verdict in judged.verdicts)
    return [*said, f"  gates     {passed} of {len(judged.verdicts)} passed"]


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in ("roc_auc", "log_loss", "rmse", "accuracy") if name in metrics)
