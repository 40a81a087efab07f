"""The page of a copy: signed off or not, what was compared, what was found, of which stores, when."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from pixdex._html import document

if TYPE_CHECKING:
    from pixdex._copy_checks import Check
    from pixdex._copy_results import CopyReport

__all__ = ["page"]

_STYLE = """
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0 0 1rem; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: normal; } td { overflow-wrap: anywhere; }
strong { display: inline-block; padding: .2rem .7rem; border-radius: .4rem; color: #fff; background: #b91c1c; }
strong.yes { background: #047857; } td.no { color: #ef4444; } small { color: var(--soft); }
"""
_REFUSED = 100


def page(report: CopyReport) -> str:
    """The page as HTML text; it needs nothing but itself."""
    source, target = report.source, report.target
    word = "signed off" if report.signed_off else "not signed off"
    body = [
        f'<strong class="{"yes" if report.signed_off else "no"}">{word}</strong>',
        _facts(report),
        "<h2>What was compared</h2>",
        _table(("", "", "compared", "found"), [_row(check) for check in report.checks]),
    ]
    if report.refused:
        rows = [(escape(row.id), escape(row.reason)) for row in report.refused[:_REFUSED]]
        body += [f"<h2>{len(report.refused)} records that the target cannot hold</h2>", _table(("id", "why"), rows)]
    if report.notices:
        body += [f"<p>{escape(notice)}</p>" for notice in report.notices]
    note = f"{source.address} to {target.address}, {report.at}"
    return document(f"Copy of {source.address}", note, "".join(body), style=_STYLE)


def _facts(report: CopyReport) -> str:
    source, target = report.source, report.target
    rows = [
        ("source", f"{escape(source.address)}<br><small>{escape(source.store)}</small>", f"{source.count:,} records"),
        ("target", f"{escape(target.address)}<br><small>{escape(target.store)}</small>", f"{target.count:,} records"),
        (
            "copied",
            f"{report.copied:,}",
            f"{report.before:,} by earlier runs; {report.caught_up:,} caught up, {report.deleted:,} deleted again",
        ),
        (
            "time",
            f"{report.seconds:.1f} s",
            f"{report.copy_seconds:.1f} s moving records, {report.rate:,.0f} a second in the main pass",
        ),
        ("by", f"pixdex {escape(report.pixdex)}", escape(report.at)),
    ]
    if report.moving is not None:
        rows.append(
            ("the source is written to", f"as of {escape(report.moving)}", "what came later is not in the target")
        )
    if report.alias is not None:
        rows.append(("alias", escape(report.alias), "names the target now"))
    rows += [
        (f"digest of {name}", escape(digest), "BLAKE2b-128, of the target") for name, digest in report.digests.items()
    ]
    return _table(("", "", ""), rows)


def _row(check: Check) -> tuple[str, ...]:
    more = "".join(f"<br><small>{escape(line)}</small>" for line in check.differing)
    passed = '<td class="yes">same</td>' if check.passed else '<td class="no">differs</td>'
    return escape(check.name), passed, f"{check.compared:,}", f"{escape(check.said)}{more}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"] if any(head) else []
    lines += ["<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
