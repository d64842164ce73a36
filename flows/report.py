"""One run as one self-contained HTML page: what won, how good it is, what it beat, and what became of it.

$ raycycle report RUN
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cluster.progress import Progress
from cluster.store import Store, write_atomic
from flows.canvas import COLOURS
from flows.charts import comparison, sections
from flows.pages import templates
from flows.story import Story, beaten, cell, duration, metric_name, number
from flows.sweep import best_by_family
from ledger import digests, records
from trainers import metrics

PAGE = "report.html"
TOP_TRIALS, MAX_FAILURES = 10, 20


@dataclass(frozen=True)
class Page:
    """The report of a run."""

    file: Path

    def save(self, folder: Path) -> dict[str, str]:
        return {"page": digests.of_file(self.file)}

    @classmethod
    def load(cls, folder: Path) -> Page:
        return cls(folder / PAGE)


def report(story: Story, into: Path, progress: Progress) -> Page:
    """Write the page of `story` to the file `into`; the same story gives the same bytes."""
    with progress.stage("report", 1, "pages") as bar:
        written = write_atomic(into, render(story).encode("utf-8", "backslashreplace"))
        bar.advance(1, f"{written.stat().st_size / 1000:.0f} kB")
    return Page(written)


def render(story: Story) -> str:
    """The page as HTML. Every name that comes from data is escaped; only drawings are let through as they are."""
    import yaml
    from markupsafe import Markup

    environment = templates()
    environment.filters |= {"number": number, "seconds": duration, "metric": metric_name, "svg": Markup, "cell": cell}
    swept, evaluation = story.swept, story.evaluation
    return environment.get_template("report.html.j2").render(
        story=story,
        swept=swept,
        found=evaluation,
        colours=COLOURS,
        passed=sum(verdict.passed for verdict in evaluation.verdicts),
        counts=Counter(trial.status for trial in swept.trials),
        families=best_by_family(swept.trials),
        higher=metrics.HIGHER_IS_BETTER,
        beaten=beaten(story),
        tiles=[name for name in evaluation.holdout.metrics if name != swept.metric],
        comparison=comparison(story),
        sections=sections(story),
        top=sorted((t for t in swept.trials if t.status == "finished"), key=lambda t: (t.loss, t.number))[:TOP_TRIALS],
        failures=[t for t in swept.trials if t.status == "failed"],
        max_failures=MAX_FAILURES,
        params=evaluation.params,
        config=yaml.safe_dump(story.config, sort_keys=False, allow_unicode=True, width=120),
    )


def report_of(store: Store, run_id: str) -> Path:
    """The page of the run whose id begins with `run_id`. Raises UsageError when no run, or more than one, fits."""
    found, _ = records.every(store)
    with_page = [record.run_id for record in found if (store.runs / record.run_id / PAGE).is_file()]
    begins = with_page[0] if run_id == records.LATEST and with_page else run_id
    return store.runs / records.the_one(begins, with_page, "run with a report", "raycycle run writes one") / PAGE
