"""The page of a calibration: what is said against what is true, how often each is said, and what became of the order."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pixdex import _plots as plots
from pixdex._html import document
from pixdex.evaluation.reliability import Binning, reliability

if TYPE_CHECKING:
    from pixdex.calibrating import Outcome
    from pixdex.evaluation import Interval

__all__ = ["page"]

_STYLE = """
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1rem; }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; } th { color: var(--soft); }
"""


def page(done: Outcome, name: str) -> str:
    """The page as HTML text; ``name`` is what was calibrated on."""
    held = done.held
    equal = reliability(held.probabilities, held.matches)
    mass = reliability(held.probabilities, held.matches, binning=Binning.MASS)
    series = [
        ("parts of equal width", [(part.said, part.true, part.count) for part in equal]),
        ("of equal mass", [(part.said, part.true, part.count) for part in mass]),
    ]
    often = [
        plots.Line(what, held.probabilities[of].tolist())
        for what, of in (("match", held.matches), ("don't", ~held.matches))
    ]
    body = [
        f"<p>{escape(_choice(done))}</p>",
        _table(done),
        f"<h2>Reliability: ECE {held.ece:.3f}, of equal mass {held.ece_mass:.3f}; Brier {held.brier:.3f}</h2>",
        plots.reliability(series, title="Reliability diagram"),
        "<h2>How often each probability is said, by the root of the number</h2>",
        plots.distribution(often, title="Distribution of P(match)", root=True),
        _list(done.notices),
    ]
    note = (
        f"{held.queries} queries, {len(held.matches)} pairs of which {np.mean(held.matches):.1%} match; each is judged by what was "
        "fitted to queries of other groups"
    )
    title = f"P(match) of {done.reranker.record.inner} in {name}"
    return document(title, note, "".join(body), style=plots.STYLE + _STYLE)


def _choice(done: Outcome) -> str:
    tried = "; ".join(f"{choice} {_signed(each)}" for choice, each in done.over.items())
    calibration = done.calibration
    return (
        f"What orders: {done.choice}. mAP over the first stage, cross-validated: {tried or 'no other could be fitted'}. "
        f"P(match) = sigmoid({calibration.weight_first:.4g} first + {calibration.weight_rerank:.4g} score "
        f"{calibration.weight_last:+.4g} last {calibration.bias:+.4g}), last is the first stage's score at place {calibration.depth}."
    )


def _table(done: Outcome) -> str:
    held = done.held
    rows = [
        ("map", f"{held.first}", f"{held.ordered}", _signed(held.over)),
        ("recall@1", *(f"{value:.3f}" for value in held.recall), f"{held.recall[1] - held.recall[0]:+.3f}"),
    ]
    head = "".join(f"<th>{name}</th>" for name in ("", "first stage", "calibrated", "difference"))
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _signed(value: Interval) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _list(lines: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""
