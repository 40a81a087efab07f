"""What training a head came to: a JSON document, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders.images import thumbnail_jpeg
from pixdex.errors import InvalidImage
from pixdex.evaluation import Interval, interval, paired
from pixdex.pictures import Item, load_picture

__all__ = ["Comparison", "Sheet", "compared", "page", "sheets"]

_THUMBNAIL = 128
_NEIGHBOURS = 6
_SHEETS = 8
_COLOURS = tuple(f"var(--{name})" for name in ("one", "two", "soft", "good", "bad"))
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 220, 52, 28

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --one: #3b82f6; --two: #f59e0b; --good: #16a34a; --bad: #dc2626; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
p { color: var(--soft); margin: 0 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
figure { display: inline-block; margin: 0 1.5rem 1rem 0; max-width: 100%; }
figcaption { color: var(--soft); font-size: .85rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
ol { display: flex; gap: .5rem; list-style: none; padding: 0; margin: 0 0 .4rem; align-items: flex-start; overflow-x: auto; }
li { border: 3px solid var(--line); border-radius: .4rem; overflow: hidden; width: 8rem; flex: none; box-sizing: border-box; }
li { font-size: .75rem; overflow-wrap: anywhere; }
li.query { border-color: var(--one); } li.good { border-color: var(--good); } li.bad { border-color: var(--bad); }
li.word { border: 0; width: 4.5rem; align-self: center; color: var(--soft); }
img, .none { display: block; width: 100%; height: 6rem; object-fit: contain; background: #8881; }
.none { display: grid; place-items: center; color: var(--soft); }
div.text { padding: .2rem .3rem; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric on the classes that were kept back, before and after.

    Attributes:
        frozen: of the encoder as it was.
        head: of what was chosen.
        gain: of the difference, over the same queries.
    """

    frozen: Interval
    head: Interval
    gain: Interval

    def to_json(self) -> dict[str, Any]:
        """Means and the ends of 95 % intervals."""
        return {
            name: {"mean": value.mean, "low": value.low, "high": value.high}
            for name, value in (("frozen", self.frozen), ("head", self.head), ("gain", self.gain))
        }


def compared(
    before: Mapping[str, NDArray[np.float64]], after: Mapping[str, NDArray[np.float64]], names: Sequence[str]
) -> dict[str, Comparison]:
    """The metrics of these names, float64 ``[n]`` each: a value a query, the same ones before and after."""
    return {
        name: Comparison(
            frozen=interval(before[name]), head=interval(after[name]), gain=paired(after[name], before[name])
        )
        for name in names
    }


@dataclass(frozen=True, slots=True)
class Sheet:
    """A query and its nearest neighbours before and after: rows of the pictures that validated."""

    query: int
    before: NDArray[np.int64]
    after: NDArray[np.int64]


def sheets(
    frozen: NDArray[np.float32],
    head: NDArray[np.float32],
    labels: NDArray[np.int64],
    gains: NDArray[np.float64],
    seed: int,
) -> list[Sheet]:
    """Some queries: where most was gained, where most was lost, and others by chance.

    Vectors are unit, float32 ``[n, d]``, of any two widths; ``gains`` float64 ``[n]`` is what each query gained, NaN
    for one without a partner.
    """
    usable = np.flatnonzero(~np.isnan(gains))
    order = usable[np.argsort(-gains[usable], kind="stable")]
    some = np.random.default_rng(seed).permutation(usable)[:_SHEETS]
    chosen = list(dict.fromkeys([*_apart(order, labels, 3), *_apart(order[::-1], labels, 2), *some.tolist()]))[:_SHEETS]
    return [Sheet(query, _nearest(frozen, query), _nearest(head, query)) for query in chosen]


def page(
    title: str,
    notes: Sequence[str],
    metrics: Mapping[str, Comparison],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    candidates: Sequence[tuple[str, Mapping[str, float], bool]],
    shown: Sequence[Sheet],
    items: Sequence[Item],
    classes: Sequence[str],
    *,
    rounds: bool = False,
) -> str:
    """The page as HTML text; pictures that are gone become an empty frame.

    Args:
        title: of the page.
        notes: what to say first, a paragraph each.
        metrics: by name.
        curves: of each figure by its title, the lines by name: a value an epoch, from 0.
        candidates: name, metrics, and whether it was chosen.
        shown: the queries.
        items, classes: of the pictures that validated, the class of each by name.
        rounds: curves have a value a round instead.
    """
    body = "".join(f"<p>{escape(note)}</p>" for note in notes)
    body += "<h2>Classes kept back: before and after</h2>" + _metrics(metrics)
    body += "<h2>Training</h2>" + "".join(_figure(*curve, rounds=rounds) for curve in curves.items())
    body += "<h2>Candidates</h2>" + _candidates(candidates)
    thumbnails = _Thumbnails(items)
    body += "<h2>Nearest neighbours</h2><p>Green: of the query's class. Red: of another.</p>"
    body += "".join(_sheet(sheet, thumbnails, classes) for sheet in shown)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


# --- tables and curves ------------------------------------------------------------------------------


def _metrics(metrics: Mapping[str, Comparison]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_spelled(one.frozen)}</td><td>{_spelled(one.head)}</td>"
        f"<td>{_spelled(one.gain, sign='+')}</td></tr>"
        for name, one in metrics.items()
    )
    return f"<table><tr><th></th><th>frozen</th><th>chosen</th><th>difference</th></tr>{rows}</table>"


def _spelled(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _candidates(candidates: Sequence[tuple[str, Mapping[str, float], bool]]) -> str:
    names = list(candidates[0][1]) if candidates else []
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{'<b>' if chosen else ''}{escape(name)}{' (chosen)</b>' if chosen else ''}</td>"
        + "".join(f"<td>{values[key]:.3f}</td>" for key in names)
        + "</tr>"
        for name, values, chosen in candidates
    )
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _figure(title: str, lines: Mapping[str, Sequence[float]], *, rounds: bool) -> str:
    """Lines over epochs, which are counted from 0, or rounds, from 1, as SVG."""
    values = [value for line in lines.values() for value in line if np.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    most = max(len(line) for line in lines.values())

    def place(epoch: int, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 10) * epoch / max(1, most - 1)
        y = 10 + (_HEIGHT - _BOTTOM - 10) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    drawn, legend = [], []
    for (name, line), colour in zip(lines.items(), cycle(_COLOURS), strict=False):
        points = [place(epoch, value) for epoch, value in enumerate(line) if np.isfinite(value)]
        if len(points) == 1:  # which is no line
            x, _, y = points[0].partition(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        drawn.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend.append(f'<span style="color:{colour}">{escape(name)}</span>')
    base = _HEIGHT - _BOTTOM
    last = f"round {most}" if rounds else f"epoch {most - 1}"
    axes = (
        f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH}" y2="{base}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}">{int(rounds)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 10}" text-anchor="end">{last}</text>'
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">{axes}{"".join(drawn)}</svg>'
    return f"<figure>{svg}<figcaption>{escape(title)}: {', '.join(legend)}</figcaption></figure>"


# --- neighbours -------------------------------------------------------------------------------------


def _apart(order: NDArray[np.int64], labels: NDArray[np.int64], count: int) -> list[int]:
    """The first ``count`` rows, of a class each."""
    chosen: dict[int, int] = {}
    for row in order.tolist():
        chosen.setdefault(int(labels[row]), row)
        if len(chosen) == count:
            break
    return list(chosen.values())


def _nearest(vectors: NDArray[np.float32], query: int) -> NDArray[np.int64]:
    scores = vectors @ vectors[query]
    scores[query] = -np.inf
    return np.argsort(-scores, kind="stable")[:_NEIGHBOURS].astype(np.int64)


class _Thumbnails:
    """Pictures as data URIs, each made once."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._made: dict[int, str] = {}

    def of(self, row: int) -> str:
        if row not in self._made:
            self._made[row] = self._make(self._items[row])
        return self._made[row]

    @staticmethod
    def _make(item: Item) -> str:
        try:
            pixels, _ = load_picture(item.picture, min_side=_THUMBNAIL)
        except InvalidImage:
            return '<div class="none">no picture</div>'
        data = base64.b64encode(thumbnail_jpeg(pixels, _THUMBNAIL)).decode()
        return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(item.label, quote=True)}">'


def _sheet(sheet: Sheet, thumbnails: _Thumbnails, classes: Sequence[str]) -> str:
    own = classes[sheet.query]
    query = _card(thumbnails.of(sheet.query), own, "query")
    lines = ""
    for word, rows in (("frozen", sheet.before), ("chosen", sheet.after)):
        cards = [
            _card(thumbnails.of(row), classes[row], "good" if classes[row] == own else "bad") for row in rows.tolist()
        ]
        lines += f'<ol>{query}<li class="word">{word}</li>{"".join(cards)}</ol>\n'
    return lines + "<br>\n"


def _card(picture: str, name: str, kind: str) -> str:
    return f'<li class="{kind}">{picture}<div class="text">{escape(name)}</div></li>'
