"""What every drawing of a report stands on: the palette, figures and axes measured in inches, and SVG that fits a page."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# CSS variable: its colour on a light and on a dark page. Drawings use the light one as the name of the variable, so no two may be alike.
# The series are those of Okabe and Ito (2008), told apart by colour-blind readers; vermillion is kept for what went wrong.
COLOURS = {
    "ink": ("#22272e", "#e6e8eb"),
    "muted": ("#69707a", "#9aa3ad"),
    "grid": ("#e3e4e1", "#33383f"),
    "card": ("#ffffff", "#1c2026"),
    "blue": ("#0072b2", "#4fa9e0"),
    "amber": ("#d98c00", "#f0b13c"),
    "green": ("#009e73", "#35c49a"),
    "purple": ("#b8609a", "#dd93c3"),
    "sky": ("#56b4e9", "#a5d8f5"),
    "bad": ("#c8501e", "#f2875a"),
}
INK, MUTED, GRID, CARD, BLUE, AMBER, GREEN, PURPLE, SKY, BAD = (light for light, _ in COLOURS.values())
SERIES = (BLUE, AMBER, GREEN, PURPLE, SKY)

HALF, WIDE = 5.2, 10.7  # inches, so that text is alike in both once the page scales them
ROW = 0.245
MAX_NAME = 30
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raycycle",
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "lines.linewidth": 1.7,
}


def drawn(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Let a function that draws a figure return its SVG, the same bytes for the same arguments."""

    @functools.wraps(draw)
    def to_svg(*args: P.args, **kwargs: P.kwargs) -> str:
        import io

        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        out = io.StringIO()
        with matplotlib.rc_context(_RC), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name in a script that the measuring font lacks is still text in the SVG
            FigureCanvasSVG(draw(*args, **kwargs)).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return inline(out.getvalue())

    return to_svg


def inline(svg: str) -> str:
    """The SVG for use inside a page: ids of its own, colours by CSS variable, no size. Only tags are rewritten, never text."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>|\n\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([\w-]+)", svg))
    prefix = "p" + hashlib.blake2b(svg.encode(), digest_size=4).hexdigest()
    variables = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}

    def rewrite(found: re.Match[str]) -> str:
        tag = re.sub(r' id="([\w-]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", found[0])
        tag = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}", tag)
        tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
        return re.sub(r"#[0-9a-f]{6}\b", lambda m: variables.get(m[0], m[0]), tag)

    box = re.search(r'viewBox="([\d. ]+)"', svg)
    body = re.sub(r"<[^<>]+>", rewrite, svg[svg.index(">") + 1 :])
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1] if box else ""}" aria-hidden="true">{body}'


def name_of(value: object, longest: int = MAX_NAME) -> str:
    """Any value as one short line."""
    text = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in str(value))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def new_figure(width: float = HALF, height: float = 3.1) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none")


def axes_in(figure: Figure, left: float = 0.55, right: float = 0.15, bottom: float = 0.45, top: float = 0.15, **more: Any) -> Axes:
    """Axes with margins in inches."""
    width, height = figure.get_size_inches()
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(box, facecolor="none", **more)


def legend(axes: Axes, columns: int = 4) -> None:
    """The legend above the axes, `columns` names to a line."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.03), ncols=columns, borderaxespad=0, columnspacing=1.4, labelcolor=INK)


def named_rows(figure: Figure, names: Sequence[str], right: float = 0.6, top: float = 0.08, bottom: float = 0.1) -> Axes:
    """Axes with one row for each name, the first on top."""
    shown = [name_of(name) for name in names]
    axes = axes_in(figure, 0.14 + 0.07 * max(map(len, shown)), right, bottom, top)
    axes.set_yticks(range(len(shown)), shown)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    return axes
