"""One run as one self-contained HTML page: what won, how good it is, what it beat, and what became of it.

raycycle report RUN
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.progress import Progress
from cluster.store import write_atomic
from flows import plots
from flows.evaluate import Evaluation, Quality
from flows.ingest import Ingested
from flows.leaks import TOO_GOOD
from flows.prepare import Prepared
from flows.score import Scored
from flows.search import Trial
from flows.sweep import Swept
from trainers import metrics

NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "f1_macro": "macro F1",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "r2": "R²",
}
# What stands beside the metric of the sweep where there is room for two.
SECOND = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}
ALONE = {"binary": "ROC AUC", "multiclass": "balanced accuracy", "regression": "R²"}
MAX_ROWS, MAX_SLICES, MAX_GROUPS, TOP_TRIALS, MAX_FAILURES = 15, 8, 20, 10, 20
MIN_TRIALS, MAX_TRIALS = 5, 100


@dataclass(frozen=True, kw_only=True)
class Story:
    """What one run made.

    `seconds` by stage; `config` plain values, without secrets; `release` one sentence: released, refused and why, or identical
    to the champion; `champion_name` is read only where `evaluation.champion` holds its metrics.
    """

    title: str
    run_id: str
    when: str
    seconds: dict[str, float]
    config: dict[str, Any]
    ingested: Ingested
    prepared: Prepared
    swept: Swept
    evaluation: Evaluation
    version: int | None
    release: str
    champion_name: str
    scored: Scored | None
    endpoint: str | None
    curl: str | None


@dataclass(frozen=True)
class Plot:
    """A drawing, or `svg` empty and `about` says why there is none."""

    title: str
    about: str
    svg: str
    wide: bool = False


def report(story: Story, into: Path, progress: Progress) -> Path:
    """Write the page of `story` to the file `into`; the same story gives the same bytes."""
    with progress.stage("report", 1, "pages") as bar:
        written = write_atomic(into, render(story).encode("utf-8", "backslashreplace"))
        bar.advance(1, f"{written.stat().st_size / 1000:.0f} kB")
    return written


def render(story: Story) -> str:
    import jinja2
    import yaml
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "seconds": duration, "metric": metric_name, "svg": Markup, "cell": cell}
    swept, evaluation = story.swept, story.evaluation
    return environment.get_template("report.html.j2").render(
        story=story,
        swept=swept,
        found=evaluation,
        colours=plots.COLOURS,
        passed=sum(verdict.passed for verdict in evaluation.verdicts),
        counts=Counter(trial.status for trial in swept.trials),
        families=families(swept),
        higher=metrics.HIGHER_IS_BETTER,
        beaten=beaten(story),
        tiles=[name for name in evaluation.holdout.metrics if name != swept.metric],
        comparison=comparison(story),
        sections=sections(story),
        top=sorted((t for t in swept.trials if t.status == "finished"), key=lambda t: (t.loss, t.number))[:TOP_TRIALS],
        failures=[t for t in swept.trials if t.status == "failed"],
        max_failures=MAX_FAILURES,
        params={**evaluation.family.params, **evaluation.trial.params},
        config=yaml.safe_dump(story.config, sort_keys=False, allow_unicode=True, width=120),
    )


def number(value: float | None) -> str:
    """Four decimals for what is near one, else four digits."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def cell(value: object) -> str:
    """A parameter or a reason, short enough for a table."""
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 400 else text[:399] + "…"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def metric_name(name: str) -> str:
    return NAMES.get(name, name)


def families(swept: Swept) -> dict[str, Trial]:
    """The best finished trial of each family, best first."""
    best: dict[str, Trial] = {}
    for trial in sorted(swept.trials, key=lambda t: (t.loss, t.number)):
        if trial.status == "finished":
            best.setdefault(trial.family, trial)
    return best


def colours_of(swept: Swept) -> dict[str, str]:
    names = sorted({trial.family for trial in swept.trials})
    return {name: plots.SERIES[i % len(plots.SERIES)] for i, name in enumerate(names)}


def difference(metric: str, ours: float | None, theirs: float | None) -> str:
    """By how much ours is better, in words."""
    if ours is None or theirs is None:
        return "cannot be compared"
    gain = metrics.loss(metric, theirs) - metrics.loss(metric, ours)
    return "equal" if gain == 0 else f"{number(abs(gain))} {'better' if gain > 0 else 'worse'}"


def rivals(story: Story) -> dict[str, dict[str, float]]:
    """Who answered the same holdout rows: the champion, if it could, and the constant."""
    champion = {f"champion {story.champion_name}": story.evaluation.champion} if story.evaluation.champion is not None else {}
    return {**champion, "constant answer": story.evaluation.constant}


def beaten(story: Story) -> list[dict[str, str]]:
    """Each rival, how much better the winner is, and on which rows that was measured."""
    metric, holdout = story.swept.metric, story.evaluation.holdout.metrics
    found = [
        {"name": name, "gain": difference(metric, holdout.get(metric), theirs.get(metric)), "rows": "holdout"}
        for name, theirs in rivals(story).items()
    ]
    best, swept = families(story.swept), story.swept
    others = [trial for name, trial in best.items() if name != swept.best.family]
    return found + [
        {"name": f"best {t.family}", "gain": difference(metric, swept.value(swept.best), swept.value(t)), "rows": "validation"}
        for t in others
    ]


def comparison(story: Story) -> list[Plot]:
    swept, found = story.swept, story.evaluation
    metric, colours = swept.metric, colours_of(swept)
    label = f"{metric_name(metric)}, {'higher' if metrics.HIGHER_IS_BETTER[metric] else 'lower'} is better"
    ours = found.holdout.metrics.get(metric, math.nan)
    dots = [(ours, found.holdout.intervals.get(metric), number(ours), colours[found.trial.family])]
    dots += [(value := theirs.get(metric, math.nan), None, number(value), plots.MUTED) for theirs in rivals(story).values()]
    judged = plots.panels_of_dots([f"{found.trial.family} (this model)", *rivals(story)], {label: dots}, {})
    held = Plot("On rows nobody trained on", f"{found.holdout.rows:,} holdout rows; the bar is the 95% interval.", judged)
    best = families(swept)
    searched = [(swept.value(t), None, number(swept.value(t)), colours[name]) for name, t in best.items()]
    svg = plots.panels_of_dots(list(best), {label: searched}, {})
    return [held, Plot("Best of each family in the search", "Validation rows: the search chose by these, so they flatter a little.", svg)]


def sections(story: Story) -> dict[str, list[Plot]]:
    task = story.evaluation.target.task
    draw = {"binary": binary_plots, "multiclass": multiclass_plots, "regression": regression_plots}[task]
    strange = int((~np.isfinite(story.evaluation.scores)).sum())
    quality = (
        [Plot("Predictions", f"{strange:,} predictions are no finite numbers, so they cannot be drawn.", "")]
        if strange
        else draw(story.evaluation)
    )
    return {
        "How good it is": quality,
        "Where and when": [*slice_plots(story), *period_plots(story)],
        "What it looks at": looks_at(story),
        "The search": search_plots(story.swept, story.evaluation),
        "The run": run_plots(story),
    }


def binary_plots(found: Evaluation) -> list[Plot]:
    hits, seen = plots.ranked(found.y, found.scores)
    negative, positive = found.target.classes
    groups = {name: found.scores[found.y == code] for code, name in enumerate((negative, positive)) if (found.y == code).any()}
    texts = [
        f"{text} {number(found.holdout.metrics.get(name))}"
        for name, text in (("roc_auc", "area"), ("average_precision", "average precision"))
    ]
    return [
        Plot(
            "ROC curve",
            "How many true positives each share of false alarms buys; the dashed line is chance.",
            plots.roc(hits, seen, texts[0]),
        ),
        Plot(
            "Precision and recall",
            "How pure the rows called positive are as more of them are found.",
            plots.precision_recall(hits, seen, texts[1]),
        ),
        Plot(
            "Calibration", "On the dashed line a predicted 30% happens in 30% of rows.", plots.calibration(found.calibration, found.scores)
        ),
        Plot(
            "Scores by class",
            "The better the two part, the easier the call.",
            plots.distributions(groups, "predicted probability", found.trial.threshold),
        ),
    ]


def multiclass_plots(found: Evaluation) -> list[Plot]:
    top, said = found.scores.max(axis=1), found.scores.argmax(axis=1)
    truth = found.y.astype(np.int64)
    right = said == truth
    names, table = confusion(list(found.target.classes), truth, said)
    rates = class_rates(table)
    if len(names) < len(found.target.classes):
        rates = {name: dots[:-1] for name, dots in rates.items()}
    by_class = plots.panels_of_dots(names[: len(rates["recall"])], rates, {})
    groups = {name: top[rows] for name, rows in (("wrong", ~right), ("right", right)) if rows.any()}
    bins = metrics.calibration(right.astype(float), top)
    return [
        Plot("Confusion", "Rows are the true class, columns the predicted one; shares of the row.", plots.confusion(table, names)),
        Plot("Class by class", "Recall: the share of a class that is found. Precision: how often the answer is right.", by_class),
        Plot(
            "Calibration of the predicted class",
            "On the dashed line an answer given with 80% is right in 80%.",
            plots.calibration(bins, top),
        ),
        Plot(
            "Confidence, right and wrong",
            "A good model is unsure where it is wrong.",
            plots.distributions(groups, "probability of the predicted class", None),
        ),
    ]


def confusion(names: list[str], truth: NDArray[np.int64], said: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The confusion matrix [truth, said]; beyond `MAX_CLASSES` the rarest classes are one, the last."""
    size, place = len(names), np.arange(len(names))
    if size > plots.MAX_CLASSES:
        kept = np.argsort(-np.bincount(truth, minlength=size), kind="stable")[: plots.MAX_CLASSES - 1]
        place = np.full(size, len(kept))
        place[kept] = np.arange(len(kept))
        names = [*(names[k] for k in kept), f"{size - len(kept)} others"]
    width = len(names)
    return names, np.bincount(place[truth] * width + place[said], minlength=width * width).reshape(width, width)


def class_rates(table: NDArray[np.int64]) -> dict[str, list[tuple[float, None, str, str]]]:
    """Recall and precision of each class from a confusion matrix."""
    hits = table.diagonal()
    found = {"recall": hits / np.maximum(table.sum(axis=1), 1), "precision": hits / np.maximum(table.sum(axis=0), 1)}
    return {name: [(float(v), None, f"{v:.0%}", plots.BLUE) for v in values] for name, values in found.items()}


def regression_plots(found: Evaluation) -> list[Plot]:
    return [
        Plot(
            "Predicted and true",
            "The line follows the dashed one where predictions are right on average.",
            plots.predicted_and_true(found.y, found.scores),
        ),
        Plot(
            "Residuals",
            "Flat and narrow around zero is good; a slope or a funnel shows what is missed.",
            plots.residuals(found.y, found.scores),
        ),
    ]


def shown_metrics(story: Story, qualities: Mapping[str, Quality]) -> list[str]:
    wanted = dict.fromkeys((story.swept.metric, SECOND[story.evaluation.target.task]))
    return [name for name in wanted if any(name in quality.metrics for quality in qualities.values())]


def slice_plots(story: Story) -> list[Plot]:
    found = []
    overall = story.evaluation.holdout.metrics
    for column, groups in list(story.evaluation.slices.items())[:MAX_SLICES]:
        names = shown_metrics(story, groups)
        if not names:
            found.append(Plot(f"By {column}", "No group has enough rows to be judged.", ""))
            continue
        largest = sorted(groups, key=lambda g: -groups[g].rows)[:MAX_GROUPS]
        order = sorted(largest, key=lambda g: metrics.loss(names[0], groups[g].metrics.get(names[0], math.nan)))
        panels = {}
        for name in names:
            last = name == names[-1]
            values = [(groups[g].metrics.get(name, math.nan), f"{groups[g].rows:,}" if last else "") for g in order]
            panels[metric_name(name)] = [(value, None, text, plots.BLUE) for value, text in values]
        more = f", the {MAX_GROUPS} largest of {len(groups)} groups" if len(groups) > MAX_GROUPS else ""
        svg = plots.panels_of_dots(order, panels, {metric_name(name): overall[name] for name in names if name in overall})
        found.append(Plot(f"By {column}", f"Holdout rows by group{more}; the dashed line is all rows, numbers count rows.", svg))
    return found


def period_plots(story: Story) -> list[Plot]:
    later, holdout = story.evaluation.later, story.evaluation.holdout
    names = [name for name in shown_metrics(story, later) if name in holdout.metrics]
    if not later or not names:
        return []
    panels = {metric_name(name): [quality.metrics.get(name, math.nan) for quality in later.values()] for name in names}
    levels = {metric_name(name): (holdout.metrics[name], holdout.intervals.get(name)) for name in names}
    about = "Rows after the holdout, judged without training again: how long the model would keep."
    return [Plot("Later periods", about, plots.periods(list(later), panels, levels), wide=True)]


def looks_at(story: Story) -> list[Plot]:
    found = story.evaluation
    shares = dict(list(found.importance.items())[:MAX_ROWS])
    importance = (
        plots.bars(list(shares), list(shares.values()), [f"{v:.1%}" for v in shares.values()], [plots.BLUE] * len(shares)) if shares else ""
    )
    suspects = {suspect.feature for suspect in found.leaks.suspects(TOO_GOOD)}
    alone = found.leaks.strongest[:MAX_ROWS]
    colours = [plots.BAD if suspect.feature in suspects else plots.SKY for suspect in alone]
    leaks = (
        plots.bars([s.feature for s in alone], [s.strength for s in alone], [f"{s.strength:.3f}" for s in alone], colours) if alone else ""
    )
    return [
        Plot("Importance of columns", "Share of each column in the mean absolute contribution to the score.", importance),
        Plot(
            "Leak probe",
            f"What each feature reaches alone on validation rows ({ALONE[found.target.task]}); far above all others would be suspect.",
            leaks,
        ),
    ]


def search_plots(swept: Swept, found: Evaluation) -> list[Plot]:
    colours, higher = colours_of(swept), metrics.HIGHER_IS_BETTER[swept.metric]
    trials = swept.trials
    values = np.array([swept.value(t) if math.isfinite(t.loss) else math.nan for t in trials])
    numbers = np.array([t.number for t in trials], float)
    label = f"validation {metric_name(swept.metric)}"
    history = plots.history(numbers, values, [t.family for t in trials], [t.status for t in trials], colours, higher, label)
    about = f"{'Higher' if higher else 'Lower'} is better. Trials far behind stand at the edge."
    return [
        Plot("Trial by trial", about, history, wide=True),
        *timeline(swept, colours),
        parameters(swept, found),
    ]


def timeline(swept: Swept, colours: dict[str, str]) -> list[Plot]:
    ran = sorted((t for t in swept.trials if t.started), key=lambda t: (t.started, t.number))[: plots.MAX_MARKS]
    if not ran:
        return []
    workers: dict[str, list[tuple[float, float, str, str]]] = {}
    names: dict[str, str] = {}
    for trial in ran:
        worker = names.setdefault(trial.worker, f"worker {len(names) + 1}" if trial.worker else "failed")
        workers.setdefault(worker, []).append(
            (trial.started - ran[0].started, trial.seconds, f"{trial.number}{' ✕' * (trial.status == 'failed')}", trial.family)
        )
    svg = plots.timeline(dict(list(workers.items())[:24]), colours)
    return [
        Plot(
            "Who worked when",
            "Each block is a trial with its number, in the colour of its family; ✕ marks those that failed.",
            svg,
            wide=True,
        )
    ]


def parameters(swept: Swept, found: Evaluation) -> Plot:
    """Importance of the winning family's parameters by fANOVA (Hutter, Hoos, Leyton-Brown 2014) over its finished trials."""
    title = f"Parameters that mattered for {found.family.name}"
    trials = [t for t in swept.trials if t.family == found.family.name and t.status == "finished"][:MAX_TRIALS]
    if not found.family.space:
        return Plot(title, "Nothing was searched: every parameter was given.", "")
    if len(trials) < MIN_TRIALS:
        return Plot(title, f"Only {len(trials)} of its trials finished; at least {MIN_TRIALS} are needed to tell parameters apart.", "")
    if len({t.loss for t in trials}) == 1:
        return Plot(title, "All its trials ended with the same value, so no parameter mattered.", "")
    shares = dict(list(fanova(trials, found).items())[:MAX_ROWS])
    svg = plots.bars(list(shares), list(shares.values()), [f"{share:.0%}" for share in shares.values()], [plots.BLUE] * len(shares))
    return Plot(title, f"Share of the variance between {len(trials)} finished trials that each explains alone (fANOVA).", svg)


class _Distributions:
    """Notes, in the place of an Optuna trial, from which distribution each parameter is suggested."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        from optuna.distributions import CategoricalDistribution

        self.found[name] = CategoricalDistribution(choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        from optuna.distributions import IntDistribution

        self.found[name] = IntDistribution(low, high, log=log, step=step)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        from optuna.distributions import FloatDistribution

        self.found[name] = FloatDistribution(low, high, log=log)
        return low


def fanova(trials: list[Trial], found: Evaluation) -> dict[str, float]:
    import logging

    import optuna

    noted = _Distributions()
    for name, domain in found.family.space.items():
        domain.suggest(noted, name)
    if len({t.log_target for t in trials}) > 1:
        noted.suggest_categorical("log_target", [False, True])
    optuna.logging.set_verbosity(logging.ERROR)
    study = optuna.create_study()
    for trial in trials:
        params = {**trial.params, "log_target": trial.log_target}
        study.add_trial(optuna.trial.create_trial(params={n: params[n] for n in noted.found}, distributions=noted.found, value=trial.loss))
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))


def run_plots(story: Story) -> list[Plot]:
    rules = dict(Counter(story.ingested.quarantined).most_common(MAX_ROWS))
    about = "Rows set aside before anything was learned, by the rule they broke."
    svg = plots.bars(list(rules), list(rules.values()), [f"{n:,}" for n in rules.values()], [plots.AMBER] * len(rules)) if rules else ""
    seconds = story.seconds
    times = (
        plots.bars(list(seconds), list(seconds.values()), [duration(s) for s in seconds.values()], [plots.BLUE] * len(seconds))
        if seconds
        else ""
    )
    return [
        Plot("Quarantine", about if rules else "No row broke the contract.", svg),
        Plot("Time by stage", f"{duration(sum(seconds.values()))} in all.", times),
    ]
