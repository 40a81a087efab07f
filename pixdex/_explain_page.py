"""The page of an explanation: two pictures side by side, lines between regions that correspond, heat maps of what the score
rests on. It needs no script: what is seen first, hovered over or chosen is a matter of CSS.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from pixdex._heat import RASTER, coloured, heat_map
from pixdex._html import document
from pixdex.encoders.images import png, thumbnail_jpeg
from pixdex.explaining import Box, Explanation, Pair, Side, in_words

__all__ = ["page"]

_SIDE, _QUALITY = 800, 82
"""Of the pictures in the page: pixels of the longer side, and the JPEG's quality. At most some hundred kilobytes each."""
_HEAD = 34
"""Room for the name above a picture."""
_CROP = 3.2
"""Side of what is shown around a region, in sides of it."""
_LABEL = 46
"""Characters of a name that there is room for."""
_STYLE = """
h1, p, .notices { overflow-wrap: anywhere; }
.view { border: 0; padding: 0; margin: 0 0 1rem; display: inline-flex; }
.view label { padding: .35rem .9rem; border: 1px solid var(--line); cursor: pointer; }
.view label:first-of-type { border-radius: .5rem 0 0 .5rem; } .view label:last-of-type { border-radius: 0 .5rem .5rem 0; border-left: 0; }
.view input { position: absolute; opacity: 0; width: 1px; height: 1px; }
.view input:checked + label { background: #3b82f6; border-color: #3b82f6; color: #fff; }
.view input:focus-visible + label { outline: 3px solid #f59e0b; outline-offset: 2px; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
svg { display: block; width: 100%; height: auto; font: 15px system-ui, sans-serif; fill: currentColor; }
svg .soft, .key { fill: var(--soft); color: var(--soft); } .stage.tall { display: none; }
.frame { fill: #8882; stroke: var(--line); stroke-dasharray: 6 5; }
.pair { cursor: default; outline: none; } .pair * { fill: none; vector-effect: non-scaling-stroke; }
.pair .line { stroke: var(--c); stroke-width: var(--w); stroke-opacity: var(--o); stroke-linecap: round; }
.pair .halo { stroke: #0009; stroke-width: calc(var(--w) + 2.5px); stroke-opacity: var(--o); stroke-linecap: round; }
.pair .edge { stroke: #000a; stroke-width: 4.5px; } .pair .box { stroke: var(--c); stroke-width: 2.25px; fill: var(--c); fill-opacity: .14; }
.pair .wide { stroke: transparent; stroke-width: 14px; pointer-events: stroke; }
svg:has(.pair:is(:hover, :focus)) .pair:not(:hover, :focus) { opacity: .08; }
.pair:is(:hover, :focus) .line { stroke-opacity: 1; stroke-width: calc(var(--w) + 1.5px); }
.pair:is(:hover, :focus) .box { fill-opacity: .4; }
.heat rect { fill: transparent; } .heat rect:hover { stroke: #fff; stroke-width: 2px; }
.explain:has(#lines:checked) .heat, .explain:has(#heat:checked) .pairs { display: none; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: center; margin: .6rem 0 0; font-size: .85rem; }
.ramp { width: 9rem; height: .7rem; border-radius: .35rem; border: 1px solid var(--line);
  background: linear-gradient(90deg, rgb(14 14 36), rgb(88 30 104), rgb(214 66 74), rgb(255 214 90)); }
.notices { color: inherit; border-left: 4px solid #f59e0b; padding: .1rem 0 .1rem .9rem; margin: 0 0 1.2rem; list-style: none; display: block; }
.notices li { border: 0; border-radius: 0; }
.regions { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.regions li { border-left: .3rem solid var(--c); } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.two svg, .two .none { width: 100%; height: auto; aspect-ratio: 1; background: #8882; } .two .box { stroke: var(--c); stroke-width: 2.5px; fill: none; }
.two .edge { stroke: #000a; stroke-width: 5px; fill: none; } .two * { vector-effect: non-scaling-stroke; }
@media (max-width: 46rem) { .stage.wide { display: none; } .stage.tall { display: block; } body { margin: 1rem auto; } }
@media print { .view, .screen { display: none; } .stage.wide { display: block; } .stage.tall { display: none; } .regions li, .stage { break-inside: avoid; }
  .explain, .regions { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(explanation: Explanation, n: int) -> str:
    """The page as HTML text, with the strongest ``n`` pairs."""
    pairs = explanation.pairs(n)
    marks = _marks(pairs)
    note = (
        f"{explanation.reranker} {explanation.score:+.3f}, by the vectors {explanation.first:+.3f}; "
        f"{len(explanation.query.evidence)} regions of the query and {len(explanation.hit.evidence)} of the picture found"
    )
    body = [
        _notices(explanation.notices),
        _definitions(explanation),
        '<div class="explain">',
        _switch() if _has_heat(explanation) else "",
        _stage("wide", _beside(explanation), explanation, marks),
        _stage("tall", _stacked(explanation), explanation, marks),
        _key(explanation, marks),
        "</div>",
        f"<h2>The {len(marks)} strongest pairs</h2>" if marks else "<h2>No region corresponds to another</h2>",
        f'<ol class="regions">{"".join(_card(mark, explanation) for mark in marks)}</ol>',
    ]
    return document(f"Why {explanation.id} was found", note, "".join(body), style=_STYLE + _hovering(len(marks)))


# --- the parts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    """A pair as it is drawn: the number it has, its colour, and how strong it is among those shown, 0 to 1."""

    number: int
    pair: Pair
    colour: str
    strength: float

    @property
    def style(self) -> str:
        width, opacity = 1.5 + 3 * self.strength, 0.5 + 0.5 * self.strength
        return f"--c:{self.colour};--w:{width:.1f}px;--o:{opacity:.2f}"

    @property
    def words(self) -> str:
        return (
            f"{self.number}. {in_words(self.pair.query)} of the query, {in_words(self.pair.hit)} of the picture found: "
            f"{self.pair.weight:.3f}"
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a picture is drawn: its corner and its size."""

    x: float
    y: float
    width: float
    height: float

    def box(self, box: Box) -> tuple[float, float, float, float]:
        return (
            self.x + box[0] * self.width,
            self.y + box[1] * self.height,
            box[2] * self.width,
            box[3] * self.height,
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    width: float
    height: float
    query: _Place
    hit: _Place
    level: bool
    """Whether lines run level, between pictures side by side."""


def _marks(pairs: Sequence[Pair]) -> list[_Mark]:
    weights = [pair.weight for pair in pairs]
    low, high = min(weights, default=0.0), max(weights, default=0.0)
    return [
        _Mark(number, pair, _colour(pair.query, number), (pair.weight - low) / (high - low) if high > low else 1.0)
        for number, pair in enumerate(pairs, 1)
    ]


def _colour(box: Box | None, number: int) -> str:
    """Regions that lie in the same direction from the middle have like colours."""
    if box is None:
        turn = number * 137.5
    else:
        turn = math.degrees(math.atan2(box[1] + box[3] / 2 - 0.5, box[0] + box[2] / 2 - 0.5))
    light = 60 + 14 * max(0.0, math.cos(math.radians(turn - 255)))  # blue looks darker than it is
    return f"hsl({turn % 360:.0f} 95% {light:.0f}%)"


def _size(side: Side) -> tuple[int, int]:
    """Width and height of a picture in its own measure; of one that is missing, a square's."""
    if side.picture is None:
        return 400, 400
    height, width = side.picture.shape[:2]
    return width, height


def _fitted(side: Side, width: float, height: float) -> tuple[float, float]:
    own = _size(side)
    scale = min(width / own[0], height / own[1])
    return own[0] * scale, own[1] * scale


def _beside(explanation: Explanation) -> _Layout:
    gap, room, tallest = 130.0, 535.0, 620.0
    left, right = _fitted(explanation.query, room, tallest), _fitted(explanation.hit, room, tallest)
    width, height = left[0] + gap + right[0], max(left[1], right[1])
    query = _Place(0, _HEAD + (height - left[1]) / 2, *left)
    hit = _Place(left[0] + gap, _HEAD + (height - right[1]) / 2, *right)
    return _Layout(width, height + _HEAD + 2, query, hit, level=True)


def _stacked(explanation: Explanation) -> _Layout:
    gap, room, tallest = 40.0, 420.0, 420.0
    above, below = _fitted(explanation.query, room, tallest), _fitted(explanation.hit, room, tallest)
    query = _Place((room - above[0]) / 2, _HEAD, *above)
    hit = _Place((room - below[0]) / 2, _HEAD + above[1] + gap + _HEAD, *below)
    return _Layout(room, hit.y + below[1] + 2, query, hit, level=False)


def _definitions(explanation: Explanation) -> str:
    """The pictures and heat maps, once: the page shows them several times."""
    kept = []
    for name, side in (("query", explanation.query), ("hit", explanation.hit)):
        if side.picture is None:
            continue
        width, height = _size(side)
        jpeg = base64.b64encode(thumbnail_jpeg(side.picture, _SIDE, _QUALITY)).decode()
        size = f'width="{width}" height="{height}" preserveAspectRatio="none"'
        kept.append(f'<image id="{name}" {size} href="data:image/jpeg;base64,{jpeg}"/>')
        if side.places is not None:
            scale = RASTER / max(width, height)
            raster = heat_map(side.places, side.evidence, (max(1, round(height * scale)), max(1, round(width * scale))))
            overlay = base64.b64encode(png(coloured(raster))).decode()
            kept.append(f'<image id="{name}-heat" {size} href="data:image/png;base64,{overlay}"/>')
    return f'<svg class="unseen" aria-hidden="true" focusable="false"><defs>{"".join(kept)}</defs></svg>\n'


def _stage(name: str, layout: _Layout, explanation: Explanation, marks: Sequence[_Mark]) -> str:
    sides = (("query", explanation.query, layout.query), ("hit", explanation.hit, layout.hit))
    pictures = "".join(_picture(*each) for each in sides)
    heat = "".join(_heat(*each) for each in sides)
    lines = "".join(_line(mark, layout) for mark in reversed(marks))  # the strongest is drawn last, above the others
    return (
        f'<div class="stage {name}"><svg viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" '
        f'style="max-width:{layout.width if layout.level else 1.4 * layout.width:.0f}px" role="group" aria-label="The query and the picture found, with what '
        f'corresponds">{pictures}<g class="heat">{heat}</g><g class="pairs">{lines}</g></svg></div>\n'
    )


def _picture(name: str, side: Side, place: _Place) -> str:
    title = "Query" if name == "query" else "Found"
    text = (
        f'<text x="{place.x:.1f}" y="{place.y - 11:.1f}"><tspan font-weight="600">{title}</tspan> '
        f'<tspan class="soft">{escape(_short(side.label))}</tspan><title>{escape(side.label)}</title></text>'
    )
    where = f'x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{place.height:.1f}"'
    if side.picture is None:
        middle = f'x="{place.x + place.width / 2:.1f}" y="{place.y + place.height / 2:.1f}" text-anchor="middle"'
        return f'{text}<rect class="frame" {where} rx="8"/><text class="soft" {middle}>no picture</text>'
    alt = escape(f"{title}: {side.label}", quote=True)
    return f'{text}<g role="img" aria-label="{alt}">{_used(name, side, place)}</g>'


def _used(name: str, side: Side, place: _Place) -> str:
    scale = place.width / _size(side)[0]
    return f'<use href="#{name}" transform="translate({place.x:.2f} {place.y:.2f}) scale({scale:.5f})"/>'


def _heat(name: str, side: Side, place: _Place) -> str:
    if side.picture is None or side.places is None:
        return ""
    rects = []
    for row, evidence in enumerate(side.evidence):
        box = side.box(row)
        if box is not None:
            change = "lower" if evidence >= 0 else "higher"
            says = f"{in_words(box)}: without it the score is {abs(evidence):.3f} {change}"
            rects.append(f"<rect {_rect(place.box(box))}><title>{says}</title></rect>")
    return f"{_used(f'{name}-heat', side, place)}{''.join(rects)}"


def _line(mark: _Mark, layout: _Layout) -> str:
    if mark.pair.query is None or mark.pair.hit is None:
        return ""
    one, other = layout.query.box(mark.pair.query), layout.hit.box(mark.pair.hit)
    if layout.level:
        x1, y1, x2, y2 = one[0] + one[2], one[1] + one[3] / 2, other[0], other[1] + other[3] / 2
        bend = (x2 - x1) * 0.4
        path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    else:
        x1, y1, x2, y2 = one[0] + one[2] / 2, one[1] + one[3], other[0] + other[2] / 2, other[1]
        bend = (y2 - y1) * 0.4
        path = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    boxes = "".join(f'<rect class="{kind}" {_rect(box)} rx="3"/>' for box in (one, other) for kind in ("edge", "box"))
    words = escape(mark.words, quote=True)
    return (
        f'<g class="pair p{mark.number}" tabindex="0" role="img" aria-label="{words}" style="{mark.style}"><title>{words}'
        f'</title><path class="wide" d="{path}"/><path class="halo" d="{path}"/><path class="line" d="{path}"/>{boxes}</g>'
    )


def _card(mark: _Mark, explanation: Explanation) -> str:
    sides = (
        ("query", explanation.query, mark.pair.query, mark.pair.tokens[0]),
        ("hit", explanation.hit, mark.pair.hit, mark.pair.tokens[1]),
    )
    shown = "".join(_region(*each) for each in sides)
    where = f"{in_words(mark.pair.query)} \N{RIGHTWARDS ARROW} {in_words(mark.pair.hit)}"
    return (
        f'<li class="c{mark.number}" style="{mark.style}"><div class="two">{shown}</div>'
        f'<div class="text">{mark.number}. <b>{mark.pair.weight:.3f}</b><br>{where}</div></li>\n'
    )


def _region(name: str, side: Side, box: Box | None, token: int) -> str:
    """A region and what is around it."""
    if side.picture is None or box is None:
        return f'<div class="none">token {token}</div>'
    width, height = _size(side)
    own = _Place(0, 0, width, height).box(box)
    edge = min(max(own[2], own[3]) * _CROP, width, height)
    x = min(max(0.0, own[0] + own[2] / 2 - edge / 2), width - edge)
    y = min(max(0.0, own[1] + own[3] / 2 - edge / 2), height - edge)
    rects = "".join(f'<rect class="{kind}" {_rect(own)}/>' for kind in ("edge", "box"))
    alt = f"{in_words(box)} of the {'query' if name == 'query' else 'picture found'}"
    return (
        f'<svg viewBox="{x:.1f} {y:.1f} {edge:.1f} {edge:.1f}" preserveAspectRatio="xMidYMid slice" role="img" '
        f'aria-label="{alt}"><use href="#{name}"/>{rects}</svg>'
    )


def _switch() -> str:
    return (
        '<fieldset class="view"><legend class="unseen">What is drawn over the pictures</legend>'
        '<input type="radio" name="view" id="lines" checked><label for="lines">Lines</label>'
        '<input type="radio" name="view" id="heat"><label for="heat">Heat maps</label></fieldset>\n'
    )


def _key(explanation: Explanation, marks: Sequence[_Mark]) -> str:
    drawn = any(mark.pair.query is not None and mark.pair.hit is not None for mark in marks)
    lines = (
        f'<div class="key pairs">Lines join regions that correspond by {escape(explanation.matched_by)}, the thicker the '
        'stronger. <span class="screen">Point at one, or press Tab, to see it alone.</span></div>'
        if drawn
        else ""
    )
    if not _has_heat(explanation):
        return lines
    return (
        f'{lines}<div class="key heat"><span>the score rests on it: not at all</span><span class="ramp"></span>'
        f"<span>most</span><span>{_resting(explanation)}</span></div>\n"
    )


def _resting(explanation: Explanation) -> str:
    """Where the score rests most, in words."""
    said = []
    for what, side in (("the query", explanation.query), ("the picture found", explanation.hit)):
        strongest = np.argsort(-side.evidence, kind="stable")[:4].tolist()
        parts = dict.fromkeys(in_words(side.box(row)) for row in strongest if side.box(row) and side.evidence[row] > 0)
        if parts:
            said.append(f"{', '.join(parts)} of {what}")
    return f"Most: {'; '.join(said)}." if said else ""


def _notices(notices: Sequence[str]) -> str:
    return f'<ul class="notices">{"".join(f"<li>{escape(each)}</li>" for each in notices)}</ul>\n' if notices else ""


def _hovering(count: int) -> str:
    """Rules by which a pair and its card point at each other."""
    return "".join(
        f".explain:has(~ ol .c{n}:hover) .pair:not(.p{n}) {{ opacity: .08; }}\n"
        f".explain:has(.p{n}:is(:hover, :focus)) ~ ol .c{n} {{ box-shadow: 0 0 0 2px var(--c); }}\n"
        for n in range(1, count + 1)
    )


# --- small things --------------------------------------------------------------------------------------------------


def _has_heat(explanation: Explanation) -> bool:
    return any(side.picture is not None and side.places is not None for side in (explanation.query, explanation.hit))


def _rect(box: tuple[float, float, float, float]) -> str:
    x, y, width, height = box
    return f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'


def _short(text: str) -> str:
    """The end of a name: that is where paths differ."""
    return text if len(text) <= _LABEL else f"\N{HORIZONTAL ELLIPSIS}{text[1 - _LABEL :]}"
