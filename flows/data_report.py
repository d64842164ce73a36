"""A snapshot as one self-contained HTML page: its columns, its label over time, what tells the label, and what was not let in.

$ raycycle data report flights@3
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.progress import Progress
from cluster.store import Store, write_atomic
from conf.errors import RaycycleError, UsageError
from flows import plots
from flows.canvas import AMBER, BAD, BLUE, COLOURS, MUTED, SKY, name_of
from flows.data_facts import DataFacts, as_tasks, facts_of
from flows.ingest import Ingested
from flows.label_periods import Period
from flows.pages import templates
from flows.spreads import distinct, drawn, share, told
from ledger import records
from tables.contract import Contract
from tables.sketches import LevelSketch, NumericSketch

PAGE = "data.html"
OTHERS = "Keys, times and what is known only afterwards: a model never sees them."
MAX_BARS, MAX_CLASSES = 15, 12


@dataclass(frozen=True)
class Plot:
    """A drawing, or `svg` empty and `about` says why there is none."""

    title: str
    about: str
    svg: str
    wide: bool = False


def write(facts: DataFacts, file: Path) -> Path:
    """Write the page; the same facts give the same bytes, less than a megabyte."""
    return write_atomic(file, render(facts).encode("utf-8", "backslashreplace"))


def render(facts: DataFacts) -> str:
    """The page as HTML. Every name that comes from data is escaped; only drawings are let through as they are."""
    from markupsafe import Markup

    environment = templates()
    environment.filters |= {"svg": Markup, "name": name_of}
    return environment.get_template("data.html.j2").render(
        facts=facts,
        colours=COLOURS,
        tiles=_tiles(facts),
        sections={title: drawings for title, drawings in _sections(facts).items() if drawings},
        share=lambda count: share(count, facts.rows),
        spread=drawn,
        told=told,
        distinct=distinct,
    )


def describe(made: Ingested, contract: Contract, folder: Path) -> Path:
    """Write the page of a snapshot that a run has made or taken into `folder`; Ray is connected. What was taken has no counts."""
    quarantined, warned = (made.quarantined, made.warned) if made.quarantine else (None, None)
    return write(facts_of(made.snapshot, contract, quarantined, warned, as_tasks), folder / PAGE)


def beside(kept: Path, folder: Path) -> Path | None:
    """The page of a kept ingest, copied to where the run's report will lie; None where it has none."""
    return shutil.copyfile(kept / PAGE, folder / PAGE) if (kept / PAGE).is_file() else None


def report_of(store: Store, reference: str, progress: Progress, into: Path | None = None) -> tuple[str, Path]:
    """Make the page of the snapshot that `flights` or `flights@3` names, from its rows; returns its name and the file."""
    from flows.versions import contract_of, opened

    snapshot = opened(store, reference)
    name = snapshot.name
    contract = contract_of(store, name, snapshot.version)
    if contract is None:
        raise UsageError(
            "no run tells under which contract this snapshot was made, so what its columns hold is not known",
            value=str(snapshot),
            next=f"raycycle run dataset={name} snapshot={snapshot.version} --until ingest writes its report",
        )
    file = into or store.folder("reports") / f"{snapshot}.html"
    with progress.stage("report", snapshot.rows) as bar:
        facts = facts_of(snapshot, contract, *_counts(store, name, snapshot.version))
        write(facts, file)
        bar.advance(snapshot.rows, f"{file.stat().st_size / 1000:.0f} kB")
    return str(snapshot), file


def _counts(store: Store, name: str, version: int) -> tuple[dict[str, int] | None, dict[str, int] | None]:
    """Rows by broken rule, as the run that made the version kept them; None where that is not known."""
    from flows.facts import snapshot_of, took_snapshot
    from flows.runs import kept_json

    for record in reversed(records.every(store)[0]):
        stage = record.stage("ingest")
        if stage and stage.ran and not took_snapshot(stage) and snapshot_of(store, record) == (name, version):
            try:
                found = kept_json(store, stage, "ingested.json")
            except (RaycycleError, OSError):
                return None, None
            return found.get("quarantined"), found.get("warned")
    return None, None


def _tiles(facts: DataFacts) -> list[tuple[str, str]]:
    features = len(facts.contract.features)
    said = [(f"{facts.rows:,}", "rows"), (f"{len(facts.columns) + facts.left_out:,}", f"columns, {features:,} of them features")]
    labels = facts.labels
    if isinstance(labels, LevelSketch) and facts.contract.task == "binary" and labels.rows and facts.periods:
        positive = next(iter(facts.periods[0].shares), None)
        if positive is not None:
            said.append((f"{labels.counts[positive] / labels.rows:.1%}", f"of {facts.contract.label} is {name_of(positive, 20)}"))
    if facts.quarantined is not None:
        said.append((f"{sum(facts.quarantined.values()):,}", "rows in quarantine"))
    return [*said, (f"{len(facts.suspects):,}", "suspected leaks")]


def _sections(facts: DataFacts) -> dict[str, list[Plot]]:
    return {
        f"The label {name_of(facts.contract.label)}": _label(facts),
        "What tells the label": _strength(facts),
        "What was not let in": _quarantine(facts),
    }


def _label(facts: DataFacts) -> list[Plot]:
    label, said = facts.contract.label, []
    if any(column.private for column in facts.columns if column.name == label):
        return [Plot("Values", "Not shown: the label is private.", "")]
    if isinstance(facts.labels, LevelSketch) and not facts.labels.overflowed:
        top = {name: facts.labels.counts[name] for name in facts.labels.top(MAX_CLASSES, 1)}
        more = len(facts.labels.counts) - len(top)
        about = f"Rows by value{f'; {more:,} rarer values are left out' if more else ''}."
        said.append(Plot("Values", about, _bars(top, lambda count: share(int(count), facts.labels.rows), [BLUE])))
    elif isinstance(facts.labels, NumericSketch) and facts.labels.count:
        said.append(Plot("Values", f"Lowest, median and highest: {told(facts.labels, 'double')}.", ""))
    if len(facts.periods) > 1:
        mean = facts.contract.task == "regression"
        about = f"By {facts.contract.time}" + (f"; the mean in a sample of {facts.sampled:,} rows." if mean else ", of all rows.")
        return [*said, Plot("Over time", about, over_time(facts.periods, label))]
    why = "The contract names no time column." if facts.contract.time is None else "All rows lie in one period."
    return [*said, Plot("Over time", why, "")]


def over_time(periods: Sequence[Period], label: str) -> str:
    """The label's shares, or its mean, by period."""
    lines = {name: [period.shares[name] for period in periods] for name in periods[0].shares}
    lines = lines or {f"mean of {label}": [float(period.value or 0.0) for period in periods]}
    return plots.lines_over_time([period.name for period in periods], lines, shares=bool(periods[0].shares))


def _strength(facts: DataFacts) -> list[Plot]:
    if not facts.measure:
        return []
    roles = {name: column.role for name, column in facts.contract.columns.items()}
    features = [(name, value) for name, value in facts.strongest if roles[name] == "feature"][:MAX_BARS]
    others = [(name, value) for name, value in facts.strongest if roles[name] != "feature"][:MAX_BARS]
    about = f"{facts.measure} of each alone, on rows it was not fitted on; a sample of {facts.sampled:,} rows."
    colours = [BAD if name in facts.suspects else SKY for name, _ in features]
    return [
        Plot("Features", about, _bars(dict(features), "{:.3f}".format, colours)),
        Plot("Other columns", OTHERS, _bars(dict(others), "{:.3f}".format, [MUTED])),
    ]


def _quarantine(facts: DataFacts) -> list[Plot]:
    if facts.quarantined is None:
        return [Plot("Quarantine", "Not known: the run that made this version is gone, or it was written by hand.", "")]
    said = []
    for title, found, about in (
        ("Quarantine", facts.quarantined, "Rows set aside, by the rule they broke."),
        ("Let in with a warning", facts.warned or {}, "Rows that broke a rule which only warns."),
    ):
        top = dict(Counter(found).most_common(MAX_BARS))
        said.append(Plot(title, about if top else "None.", _bars(top, "{:,}".format, [AMBER])))
    return said


def _bars(values: Mapping[str, float], text: Any, colours: Sequence[str]) -> str:
    if not values:
        return ""
    every = [*colours, *[colours[-1]] * (len(values) - len(colours))]
    return plots.bars(list(values), list(values.values()), [text(value) for value in values.values()], every)
