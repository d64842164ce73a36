"""How two versions of a table differ, as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from cluster.store import write_atomic
from flows import plots
from flows.canvas import AMBER, COLOURS, name_of
from flows.pages import templates
from flows.spreads import drawn, share, told
from flows.story import cell
from flows.table_diff import TableDiff

MAX_CELLS = 20


def write(diff: TableDiff, file: Path) -> Path:
    """Write the page; the same difference gives the same bytes, less than a megabyte."""
    return write_atomic(file, render(diff).encode("utf-8", "backslashreplace"))


def render(diff: TableDiff) -> str:
    """The page as HTML. Every name that comes from data is escaped; only drawings are let through as they are."""
    from markupsafe import Markup

    environment = templates()
    environment.filters |= {"svg": Markup, "name": name_of, "cell": cell}
    ranked = sorted(diff.cells.items(), key=lambda each: (-each[1], each[0]))[:MAX_CELLS]
    names, counts = [name for name, _ in ranked], [float(count) for _, count in ranked]
    return environment.get_template("diff.html.j2").render(
        diff=diff,
        colours=COLOURS,
        cells=plots.bars(names, counts, [f"{count:,.0f}" for count in counts], [AMBER] * len(names)) if ranked else "",
        cell_count=MAX_CELLS,
        drawn=sorted(diff.drawn, key=lambda column: (-(column.shift or 0.0), column.name)),
        spread=drawn,
        told=told,
        share=share,
    )
