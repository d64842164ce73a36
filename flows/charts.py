"""The charts of a report: which drawings a run deserves, section by section, and what is said beside each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows import plots
from flows.canvas import AMBER, BAD, BLUE, MUTED, SERIES, SKY
from flows.evaluation import Evaluation, Quality
from flows.fanova import parameter_importance
from flows.leaks import TOO_GOOD
from flows.story import Story, duration, metric_name, number, rivals
from flows.sweep import Swept, best_by_family
from trainers import metrics
from trainers.family import Family

# What stands beside the metric of the sweep where there is room for two.
SECOND = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}
ALONE = {"binary": "ROC AUC", "multiclass": "balanced accuracy", "regression": "R²"}
MAX_ROWS, MAX_SLICES, MAX_GROUPS, MAX_WORKERS = 15, 8, 20, 24
MIN_TRIALS, MAX_TRIALS = 5, 100


@dataclass(frozen=True)
class Plot:
    """A drawing, or `svg` empty and `about` says why there is none."""

    title: str
    about: str
    svg: str
    wide: bool = False


def _bars(values: Mapping[str, float], text: Callable[[float], str], colours: Sequence[str]) -> str:
    """A bar for each value, in the colours given (the last one for all that follow); nothing to draw gives an empty text."""
    if not values:
        return ""
    every = [*colours, *[colours[-1]] * (len(values) - len(colours))]
    return plots.bars(list(values), list(values.values()), [text(value) for value in values.values()], every)


def comparison(story: Story) -> list[Plot]:
    """The winner against its rivals on the holdout, and against the other families on validation rows."""
    swept, found = story.swept, story.evaluation
    metric, colours = swept.metric, colours_of(swept)
    label = f"{metric_name(metric)}, {'higher' if metrics.HIGHER_IS_BETTER[metric] else 'lower'} is better"
    ours = found.holdout.metrics.get(metric, math.nan)
    dots = [(ours, found.holdout.intervals.get(metric), number(ours), colours[found.trial.family])]
    dots += [(value := theirs.get(metric, math.nan), None, number(value), MUTED) for theirs in rivals(story).values()]
    judged = plots.panels_of_dots([f"{found.trial.family} (this model)", *rivals(story)], {label: dots}, {})
    held = Plot("On rows nobody trained on", f"{found.holdout.rows:,} holdout rows; the bar is the 95% interval.", judged)
    best = best_by_family(swept.trials)
    searched = [(swept.value(t), None, number(swept.value(t)), colours[name]) for name, t in best.items()]
    svg = plots.panels_of_dots(list(best), {label: searched}, {})
    return [held, Plot("Best of each family in the search", "Validation rows: the search chose by these, so they flatter a little.", svg)]


def sections(story: Story) -> dict[str, list[Plot]]:
    """The charts of the page by the heading they stand under."""
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
        "The search": search_plots(story.swept, story.family),
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
    return {name: [(float(v), None, f"{v:.0%}", BLUE) for v in values] for name, values in found.items()}


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
            panels[metric_name(name)] = [(value, None, text, BLUE) for value, text in values]
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
    suspects = {suspect.feature for suspect in found.leaks.suspects(TOO_GOOD)}
    alone = found.leaks.strongest[:MAX_ROWS]
    colours = [BAD if suspect.feature in suspects else SKY for suspect in alone]
    strengths = {suspect.feature: suspect.strength for suspect in alone}
    return [
        Plot(
            "Importance of columns",
            "Share of each column in the mean absolute contribution to the score.",
            _bars(shares, "{:.1%}".format, [BLUE]),
        ),
        Plot(
            "Leak probe",
            f"What each feature reaches alone on validation rows ({ALONE[found.target.task]}); far above all others would be suspect.",
            _bars(strengths, "{:.3f}".format, colours),
        ),
    ]


def search_plots(swept: Swept, family: Family) -> list[Plot]:
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
        parameters(swept, family),
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
    about = "Each block is a trial with its number, in the colour of its family; ✕ marks those that failed."
    return [Plot("Who worked when", about, plots.timeline(dict(list(workers.items())[:MAX_WORKERS]), colours), wide=True)]


def parameters(swept: Swept, family: Family) -> Plot:
    """Importance of the winning family's parameters over its finished trials, or why it cannot be told."""
    title = f"Parameters that mattered for {family.name}"
    trials = [t for t in swept.trials if t.family == family.name and t.status == "finished"][:MAX_TRIALS]
    if not family.space:
        return Plot(title, "Nothing was searched: every parameter was given.", "")
    if len(trials) < MIN_TRIALS:
        return Plot(title, f"Only {len(trials)} of its trials finished; at least {MIN_TRIALS} are needed to tell parameters apart.", "")
    if len({t.loss for t in trials}) == 1:
        return Plot(title, "All its trials ended with the same value, so no parameter mattered.", "")
    shares = dict(list(parameter_importance(trials, family.space).items())[:MAX_ROWS])
    about = f"Share of the variance between {len(trials)} finished trials that each explains alone (fANOVA)."
    return Plot(title, about, _bars(shares, "{:.0%}".format, [BLUE]))


def run_plots(story: Story) -> list[Plot]:
    rules = dict(Counter(story.ingested.quarantined).most_common(MAX_ROWS))
    about = "Rows set aside before anything was learned, by the rule they broke."
    removed = f" {story.ingested.duplicates:,} duplicates were removed." if story.ingested.duplicates else ""
    seconds = story.seconds
    return [
        Plot("Quarantine", (about if rules else "No row broke the contract.") + removed, _bars(rules, "{:,}".format, [AMBER])),
        Plot("Time by stage", f"{duration(sum(seconds.values()))} in all.", _bars(seconds, duration, [BLUE])),
    ]


def colours_of(swept: Swept) -> dict[str, str]:
    """A colour for each family of the search, the same in every chart."""
    names = sorted({trial.family for trial in swept.trials})
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
