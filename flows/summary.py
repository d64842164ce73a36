"""The end of a run in a few lines: what won, how good it is, what it beat, what became of it, what to type next."""

from __future__ import annotations

from cluster.store import Store
from flows.made import Made, curl, release_line
from flows.plan import Plan
from flows.sweep import best_by_family, shown
from trainers.metrics import better


def lines(made: Made, plan: Plan, store: Store) -> list[str]:
    """What `raycycle run` prints at its end; stages that were not run say nothing."""
    total = sum(made.seconds.values())
    said = ["", f"{plan.config.dataset.name}: run {made.run_id}, {total:.0f} s"]
    if made.ingested:
        bad = sum(made.ingested.quarantined.values())
        snapshot = made.ingested.snapshot
        said.append(
            f"  data      {snapshot}, {snapshot.rows:,} rows" + (f"; {bad:,} quarantined in {made.ingested.quarantine}" if bad else "")
        )
    said += _won(made) + _judged(made)
    if made.version:
        said.append(f"  release   {release_line(made)}")
    if made.scored:
        by = "; ".join(f"{group}: {_metrics(metrics)}" for group, metrics in made.scored.by.items())
        said.append(f"  scored    {made.scored.rows:,} rows in {made.scored.output}" + (f" ({by})" if by else ""))
    if made.report:
        said.append(f"  report    {made.report}")
    if made.version is None:
        return said
    if command := curl(made, store):
        return [*said, "", "ask it:", command, "", "next: raycycle status | raycycle score MODEL INPUT OUTPUT | raycycle down"]
    next_word = f"raycycle deploy {made.version.name} {made.version.version}" if not made.refusals else f"raycycle report {made.run_id}"
    return [*said, "", f"next: {next_word}"]


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
    said = [f"  holdout   {good} on {quality.rows:,} rows", f"  beat      a constant answer: {metric} {judged.constant[metric]:.4f}"]
    if judged.champion:
        word = "better" if better(metric, quality.metrics[metric], judged.champion[metric]) else "not better"
        said.append(f"            {word} than champion {made.champion}: {metric} {judged.champion[metric]:.4f}")
    passed = sum(verdict.passed for verdict in judged.verdicts)
    return [*said, f"  gates     {passed} of {len(judged.verdicts)} passed"]


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in ("roc_auc", "log_loss", "rmse", "accuracy") if name in metrics)
