"""Where a run's results came from, as one SVG: a box for each thing, in layers from the source down, and a line for each digest read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html import escape

from flows.canvas import COLOURS, name_of
from ledger.records import Record, StageRun

TITLES = {
    "ingest": "snapshot",
    "prepare": "matrices",
    "sweep": "trials",
    "evaluate": "model",
    "register": "version",
    "deploy": "release",
    "score": "scores",
    "report": "report",
}
BOX, GAP, ROW, LAYER, LANE, MARGIN = 460, 40, 17, 30, 16, 24
LETTERS = 66  # of a line in a box
SHOWN = 4


@dataclass(frozen=True)
class Box:
    """One thing; `kept`: it was taken from the cache. `layer` counts from the sources down."""

    key: str
    title: str
    lines: tuple[str, ...]
    kept: bool = False
    layer: int = 0


@dataclass(frozen=True)
class Graph:
    """Boxes from the sources down, and (from, to) for what was read."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Placed:
    box: Box
    x: float
    y: float

    @property
    def height(self) -> float:
        return height(self.box)

    @property
    def middle(self) -> float:
        return self.x + BOX / 2


def height(box: Box) -> float:
    return 30 + ROW * len(box.lines)


def of_run(record: Record, notes: Mapping[str, str]) -> Graph:
    """The graph of a run's record; `notes` are words for the boxes, by stage. A line joins two stages when one read the other's digest."""
    boxes: dict[str, Box] = {}
    edges: list[tuple[str, str]] = []
    for stage in record.stages:
        read = _makers(record, stage)
        outside = {name: digest for name, digest in stage.inputs.items() if name in ("source", "champion") and digest not in (None, "none")}
        for name, digest in outside.items():
            if name not in read:
                boxes[name] = Box(name, name, (f"digest {_short(digest)}",), layer=0)
                read[name] = name
        before = dict.fromkeys(read.values())
        layer = max((boxes[key].layer + 1 for key in before if key in boxes), default=0)
        boxes[stage.stage] = _box(stage, notes.get(stage.stage, ""), layer)
        edges += [(key, stage.stage) for key in before if key in boxes]
    if "champion" in boxes:  # beside the trials, above the model that it was compared with
        boxes["champion"] = replace(boxes["champion"], layer=max(0, boxes["evaluate"].layer - 1))
    return Graph(f"run {record.run_id} of {record.dataset}", tuple(boxes.values()), tuple(edges))


def _makers(record: Record, stage: StageRun) -> dict[str, str]:
    """For each input the earlier stage that made it. A report reads stages by their names; what acts on the world reads what it acts on."""
    earlier = record.stages[: record.stages.index(stage)]
    found = {}
    for name, digest in (stage.inputs or stage.outputs).items():
        for other in reversed(earlier):
            if (digest in other.outputs.values() and (stage.inputs or other.inputs)) or (name == other.stage and stage.stage == "report"):
                found[name] = other.stage
                break
    return found


def _box(stage: StageRun, note: str, layer: int) -> Box:
    how = f"ran in {stage.seconds:.1f} s" if stage.ran else f"kept from run {stage.made_by[:12]}"
    lines = [note] if note else []
    names = {name: f"{name} {_short(digest)}" for name, digest in stage.outputs.items()}
    shown = list(names.values())
    rows = [", ".join(shown[at : at + 2]) for at in range(0, min(len(shown), 2 * SHOWN), 2)]
    more = len(shown) - 2 * SHOWN
    return Box(
        stage.stage,
        f"{TITLES.get(stage.stage, stage.stage)}, {how}",
        (*lines, *rows, *([f"and {more} more"] if more > 0 else [])),
        not stage.ran,
        layer,
    )


def _short(digest: str | None) -> str:
    parts = (digest or "unknown").split(":")
    return f"{parts[1]}:{parts[2][:12]}" if len(parts) == 3 else parts[0][:12]


def draw(graph: Graph) -> str:
    """The SVG; the same graph gives the same bytes."""
    placed = _placed(graph.boxes)
    order = list(placed)
    lanes = _lanes(graph, placed)
    right = max((each.x + BOX for each in placed.values()), default=0) + LANE * (len(set(lanes.values())) + 1) + MARGIN
    bottom = max((each.y + each.height for each in placed.values()), default=0) + MARGIN
    drawn = [_edge(placed[one], placed[other], lanes.get(one), placed) for one, other in graph.edges]
    drawn += [_drawn(placed[key]) for key in order]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:g} {bottom:g}" width="{right:g}" height="{bottom:g}" role="img">\n'
        f"<title>{_text(graph.title, 200)}</title>\n{_style()}\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>\n'
        f'<rect class="page" width="100%" height="100%"/>\n<text class="head" x="{MARGIN}" y="30">{_text(graph.title, 120)}</text>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _style() -> str:
    """Colours for a light page, and those for a dark one where the reader prefers that: plain values, which every viewer knows."""
    rules = (".page{{fill:{card}}}.head,.name{{fill:{ink}}}.line{{fill:{muted}}}.ran{{fill:{card};stroke:{blue}}}"
             ".kept{{fill:{card};stroke:{muted}}}.edge{{stroke:{muted}}}.tip{{fill:{muted}}}")  # fmt: skip
    light, dark = ({name: pair[at] for name, pair in COLOURS.items()} for at in (0, 1))
    fixed = (
        "text{font:12px system-ui,sans-serif}.head,.name{font-weight:600}.head{font-size:14px}.edge{fill:none;stroke-width:1.2}"
        ".ran{stroke-width:1.8}.kept{stroke-dasharray:5 4;stroke-width:1.2}.faint{opacity:.62}"
    )
    return f"<style>{fixed}{rules.format(**light)}@media(prefers-color-scheme:dark){{{rules.format(**dark)}}}</style>"


def _placed(boxes: Iterable[Box]) -> dict[str, Placed]:
    """Each layer a row of boxes, as high as its highest."""
    layers: dict[int, list[Box]] = {}
    for box in boxes:
        layers.setdefault(box.layer, []).append(box)
    found, y = {}, 48.0
    for layer in sorted(layers):
        for at, box in enumerate(layers[layer]):
            found[box.key] = Placed(box, MARGIN + at * (BOX + GAP), y)
        y += max(map(height, layers[layer])) + LAYER
    return found


def _straight(one: Placed, other: Placed) -> bool:
    return other.box.layer == one.box.layer + 1


def _lanes(graph: Graph, placed: Mapping[str, Placed]) -> dict[str, int]:
    """A lane at the right for each box that something further down than the next layer reads."""
    far = dict.fromkeys(one for one, other in graph.edges if not _straight(placed[one], placed[other]))
    return {key: at for at, key in enumerate(sorted(far, key=lambda key: -placed[key].y))}


def _edge(one: Placed, other: Placed, lane: int | None, placed: Mapping[str, Placed]) -> str:
    if _straight(one, other):
        x1, y1, x2, y2 = one.middle, one.y + one.height, other.middle, other.y
        path = f"M{x1:g} {y1:g}C{x1:g} {y1 + LAYER / 2:g} {x2:g} {y2 - LAYER / 2:g} {x2:g} {y2:g}"
    else:
        side = max(each.x + BOX for each in placed.values()) + LANE * ((lane or 0) + 1)
        down = other.y + min(12 + 5 * (lane or 0), other.height - 4)
        path = f"M{one.x + BOX:g} {one.y + one.height / 2:g}H{side:g}V{down:g}H{other.x + BOX:g}"
    return f'<path class="edge" marker-end="url(#tip)" d="{path}"/>'


def _drawn(placed: Placed) -> str:
    box, x, y = placed.box, placed.x, placed.y
    lines = [
        f'<text class="line" x="{x + 14:g}" y="{y + 38 + ROW * at:g}">{_text(line, LETTERS)}</text>' for at, line in enumerate(box.lines)
    ]
    kind, faint = ("kept", ' class="faint"') if box.kept else ("ran", "")
    return (
        f'<g{faint}><rect class="{kind}" x="{x:g}" y="{y:g}" width="{BOX}" height="{placed.height:g}" rx="7"/>'
        f'<text class="name" x="{x + 14:g}" y="{y + 20:g}">{_text(box.title, LETTERS)}</text>{"".join(lines)}</g>'
    )


def _text(value: str, longest: int) -> str:
    return escape(name_of(value, longest))
