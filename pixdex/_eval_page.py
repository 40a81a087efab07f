"""The page of an evaluation: the numbers, how they come about, and the queries that went worst, with what they found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from pixdex import _plots as plots
from pixdex._eval_results import Comparison, Evaluation, Query
from pixdex._html import document, thumbnail
from pixdex.evaluation import DEFINITIONS, named
from pixdex.evaluation.statistics import Interval

__all__ = ["leading", "page", "titles", "worst"]

_WORST = 12
_LABELS = 40
"""Labels with a bar each; of more, the distribution is shown, and the lowest."""
_LOWEST = 20
_STYLE = """
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1rem; }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); }
td small { color: var(--soft); } ul { color: var(--soft); padding-left: 1.1rem; }
li.right { border-color: #10b981; } li.wrong { border-color: #ef4444; }
"""


def page(done: Evaluation | Comparison, paths: Mapping[str, str], *, names: Sequence[str] = ()) -> str:
    """The page as HTML text.

    Args:
        done: what was measured.
        paths: where the pictures of hits lie, by id of the record; the others become an empty frame.
        names: what to call the one, or the two.
    """
    sides = [done.first, done.second] if isinstance(done, Comparison) else [done]
    called = list(names) or titles(sides)
    first = sides[0]
    notices = [notice for side in sides for notice in side.notices]
    notices += done.notices if isinstance(done, Comparison) else ()
    metric = leading(first)
    body = [
        _table(done, sides, called),
        _list(dict.fromkeys(notices)),
        "<h2>Recall@k: queries with a right one among the first k hits</h2>",
        plots.curves(
            [plots.Line(name, side.recall_curve().tolist()) for name, side in zip(called, sides, strict=True)],
            title="Recall@k",
        ),
        _by_label(sides, called, metric),
        _worst(done, metric, paths),
    ]
    note = (
        f"{len(first.queries)} queries by {first.label}, {first.records} records of {first.classes} labels; mean and 95 % "
        "interval by bootstrap over the queries"
    )
    return document(
        f"Search by {first.label} in {' and '.join(called)}", note, "".join(body), style=plots.STYLE + _STYLE
    )


def titles(sides: Sequence[Evaluation]) -> list[str]:
    """What to call each of one or two evaluations."""
    called = [f"{side.store} {side.collection}" for side in sides]
    if len(set(called)) < len(called):
        called = [f"{name} ({side.encoder})" for name, side in zip(called, sides, strict=True)]
    return called if len(set(called)) == len(called) else [f"{name} [{n}]" for n, name in enumerate(called, 1)]


def leading(done: Evaluation) -> str:
    """The metric that queries and labels are ranked by: one that looks at all right answers, where there is one."""
    for name in ("map@r", "map", "r_precision"):
        if name in done.values:
            return name
    return next((name for name in done.values if name.startswith("map@")), next(iter(done.values)))


def worst(done: Evaluation | Comparison, metric: str, count: int = _WORST) -> list[Query]:
    """The queries with the lowest values, the lowest first; of a comparison, where the first lost most to the second."""
    if isinstance(done, Comparison):
        queries, values = done.first.queries, done.first.values[metric] - done.second.values[metric]
    else:
        queries, values = done.queries, done.values[metric]
    ranked = [row for row in np.argsort(values, kind="stable").tolist() if not np.isnan(values[row])]
    if isinstance(done, Comparison):
        ranked = [row for row in ranked if values[row] < 0]
    return [queries[row] for row in ranked[:count]]


def _table(done: Evaluation | Comparison, sides: Sequence[Evaluation], called: Sequence[str]) -> str:
    columns: list[tuple[str, Mapping[str, Interval]]] = []
    for name, side in zip(called, sides, strict=True):
        columns.append((name, side.metrics))
        if side.exact is not None:
            columns.append((f"{name}, exact search", side.exact))
    if isinstance(done, Comparison):
        columns.append(("difference", done.differences))
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    rows = []
    for metric in sides[0].metrics:
        cells = "".join(f"<td>{_cell(values[metric])}</td>" for _, values in columns)
        rows.append(f'<tr><td title="{escape(DEFINITIONS[named(metric).kind])}">{escape(metric)}</td>{cells}</tr>')
    recalls = [
        f"<p>{escape(name)}: the store finds {side.ann_recall.mean:.4f} of the first {side.depth} hits of an exact search</p>"
        for name, side in zip(called, sides, strict=True)
        if side.ann_recall is not None
    ]
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>{''.join(recalls)}"


def _cell(value: Interval) -> str:
    return f"{value.mean:.3f} <small>{value.low:.3f} to {value.high:.3f}</small>"


def _list(lines: Mapping[str, None]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _by_label(sides: Sequence[Evaluation], called: Sequence[str], metric: str) -> str:
    means = [side.by_label(metric) for side in sides]
    labels = [label for label in means[0] if all(label in each for each in means)]
    shown = labels if len(labels) <= _LABELS else labels[:_LOWEST]
    rows = [plots.Bar(str(label), [each[label] for each in means]) for label in shown]
    drawn = plots.bars(rows, names=called, title=f"{metric} by label")
    if len(labels) <= _LABELS:
        return f"<h2>{escape(metric)} by {escape(sides[0].label)}</h2>{drawn}"
    spread = plots.distribution(
        [plots.Line(name, list(each.values())) for name, each in zip(called, means, strict=True)],
        title=f"distribution of {metric}",
    )
    return (
        f"<h2>{escape(metric)} of the {len(labels)} labels: how many have how much</h2>{spread}"
        f"<h2>The {len(shown)} lowest</h2>{drawn}"
    )


def _worst(done: Evaluation | Comparison, metric: str, paths: Mapping[str, str]) -> str:
    chosen = worst(done, metric)
    if not chosen:
        return ""
    title = "Where the first loses most to the second" if isinstance(done, Comparison) else "The worst queries"
    return f"<h2>{title}, by {escape(metric)}</h2>{''.join(_query(query, paths) for query in chosen)}"


def _query(query: Query, paths: Mapping[str, str]) -> str:
    first = f"first right one at rank {query.first_right}" if query.first_right else "no right one found"
    cards = [f'<li class="query">{_shown(query.path, "the query")}<div class="text">query</div></li>']
    for rank, (hit, right) in enumerate(zip(query.hits, query.right, strict=True), 1):
        cards.append(
            f'<li class="{"right" if right else "wrong"}">{_shown(paths.get(hit.id), hit.id)}<div class="text">{rank}. '
            f"<b>{hit.score:+.3f}</b> {'right' if right else 'wrong'}<br>{escape(hit.id)}</div></li>\n"
        )
    title = f"{query.label}: {query.id} ({query.positives} right answers, {first})"
    return f"<h2>{escape(title)}</h2><ol>{''.join(cards)}</ol>\n"


def _shown(path: str | None, alt: str) -> str:
    return '<div class="none">no file</div>' if path is None else thumbnail(Path(path), alt)
