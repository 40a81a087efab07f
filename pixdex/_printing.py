"""How the ``pixdex`` command shows what it found: tables, JSON, pages. Results go to standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pixdex.adopting import Proposal
    from pixdex.connectors.port import Finding
    from pixdex.demo import Outcome
    from pixdex.report import Report
    from pixdex.types import Hit

__all__ = [
    "console",
    "hit_values",
    "one_line",
    "print_findings",
    "print_hits",
    "print_json",
    "print_outcomes",
    "print_proposal",
    "print_report",
    "printable",
    "proposed",
    "write_page",
    "write_text",
]

_SOME = 5
"""Records that are named of those that something concerns."""


def console(*, err: bool = False) -> Console:
    """A console for results, or for everything else."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else 1000  # what goes into a file or pipe is not cut
    return Console(stderr=err, highlight=False, soft_wrap=True, width=width)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()


def hit_values(hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it; with a trace where the score came about in several steps."""
    values = {"id": hit.id, "score": hit.score, "payload": hit.payload}
    return {**values, "trace": hit.trace} if hit.trace else values


def print_hits(hits: Sequence[Hit]) -> None:
    """A line for each hit."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "score"):
        table.add_column(heading, justify="right")
    for heading in ("id", "path"):
        table.add_column(heading, overflow="fold")
    for rank, hit in enumerate(hits, 1):
        path = (hit.payload or {}).get("path", "")
        table.add_row(str(rank), f"{hit.score:+.3f}", printable(hit.id), printable(str(path)))
    console().print(table if hits else "nothing found")


def proposed(proposal: Proposal) -> dict[str, Any]:
    """A proposal as JSON has it."""
    import dataclasses

    import orjson

    spec = orjson.loads(proposal.spec.to_json())
    return {"survey": dataclasses.asdict(proposal.survey), "spec": spec, "notices": list(proposal.notices)}


def print_proposal(proposal: Proposal) -> None:
    """What a collection of another tool would be."""
    from rich.table import Table

    from pixdex.fields import spelled

    survey = proposal.survey
    table = Table(box=None, pad_edge=False)
    for heading in ("theirs", "", "in pixdex", ""):
        table.add_column(heading, overflow="fold")
    table.add_row(printable(survey.key), f"ids, {survey.ids}", "id", "text")
    for vector in proposal.spec.vectors:
        theirs = printable(vector.stored_as or "(unnamed)")
        table.add_row(theirs, "vector", vector.name, f"{vector.dim} x {vector.metric}, {vector.fingerprint.encoder}")
    for field in proposal.spec.fields:
        table.add_row(printable(field.stored_as or ""), "field", field.name, spelled(field))
    out = console()
    out.print(f"[bold]{printable(proposal.collection)}[/bold]: {survey.count} records")
    out.print(table)
    for notice in proposal.notices:
        out.print(f"note: {printable(notice)}")


def print_report(report: Report, *, as_json: bool) -> None:
    """What became of the pictures, on standard error; as JSON on standard output."""
    import dataclasses

    if as_json:
        print_json(dataclasses.asdict(report))
        return
    out = console(err=True)
    for notice in report.notices:
        out.print(f"note: {printable(notice)}")
    for row in report.quarantined:
        out.print(f"[red]unusable[/red] {printable(row.path)}: {printable(row.reason)}")
    parts = [f"{report.added} added", f"{report.reused} reused", f"{report.unchanged} unchanged"]
    parts += [f"{report.duplicate} duplicates left out"] if report.duplicate else []
    parts += [f"{report.removed} removed"] if report.removed else []
    parts += [f"{report.ignored} other files ignored"] if report.ignored else []
    parts += [f"{len(report.quarantined)} unusable"] if report.quarantined else []
    out.print(f"{', '.join(parts)} in {report.seconds:.1f} s")


def print_findings(findings: Sequence[Finding]) -> None:
    """What ``verify`` found, one paragraph each: what, where, which records, and what to do."""
    if not findings:
        console(err=True).print("everything is as it was written")
    for finding in findings:
        some = ", ".join(map(repr, finding.records[:_SOME]))
        more = f" and {len(finding.records) - _SOME} more" if len(finding.records) > _SOME else ""
        lines = [
            finding.what,
            f"  in {finding.place}",
            f"  records {some}{more}" if some else "",
            f"  {finding.remedy}",
        ]
        console().print("\n".join(printable(line) for line in lines if line))


def print_outcomes(outcomes: Sequence[Outcome], target: Path) -> None:
    """What a demo found, and a page of it."""
    from pixdex._html import page
    from pixdex.demo import EDITS

    out = console()
    first = next((o for o in outcomes if o.photograph == "chelsea"), outcomes[0])
    out.print(f"[bold]{first.query.name}[/bold] finds:")
    print_hits(first.hits)
    for edit in EDITS:
        of_edit = [outcome for outcome in outcomes if outcome.edit == edit]
        out.print(f"{edit:11} {sum(o.right for o in of_edit):3} of {len(of_edit)} top hits are the same photograph")
    right = sum(outcome.right for outcome in outcomes)
    out.print(f"[bold]top hit right: {right} of {len(outcomes)} = {right / len(outcomes):.1%}[/bold]")
    note = f"{len(outcomes)} edited copies searched for; the top hit is right for {right / len(outcomes):.1%}"
    sections = [(f"{o.photograph}, {o.edit}", o.query, o.hits) for o in outcomes]
    target.write_text(page("pixdex demo", note, sections), encoding="utf-8")
    out.print(f"page: {target}")


def printable(text: str) -> str:
    """Markup for ``text`` on one line: names of files may hold newlines and orders to the terminal."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def write_page(target: Path, asked: str, picture: Path | None, hits: Sequence[Hit]) -> None:
    """A page of thumbnails: the picture that was asked for, or the words or id, and what was found."""
    from pixdex._html import page
    from pixdex.pictures import shown

    title = asked if picture is None else shown(Path(picture.name))
    write_text(target, page(f"Pictures like {title}", f"{len(hits)} hits", [("hits", picture, hits)]))


def write_text(target: Path, text: str) -> None:
    """Write the page of ``--html``.

    Raises:
        ConfigError: it cannot be written there.
    """
    from pixdex.errors import ConfigError

    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {target}: cannot be written ({error.strerror}): choose another file") from error


def one_line(error: Exception) -> str:
    """The message of an error."""
    from pixdex.errors import InvalidFilter

    text = str(error)
    if isinstance(error, InvalidFilter):  # what follows points at the place, which it names already
        text = text.partition("\n")[0]
    return " ".join(text.split())
