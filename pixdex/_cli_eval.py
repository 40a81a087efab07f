"""``pixdex eval``: how well a collection is searched, as a table, as JSON, as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixdex._options import Encoder, Json, Url, Where
from pixdex._shell import check_there, stopping

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.evaluating import Comparison, Evaluation, Target
    from pixdex.evaluation import Interval

__all__ = ["evaluate"]

_METRICS = "recall@1,recall@5,recall@10,r_precision,map@r,map@100"
_WORST = 10
"""Queries that JSON lists of those that went worst."""
_NOTHING = "nothing was changed"


def evaluate(
    url: Url,
    *,
    label: Annotated[str, typer.Option("--label", "-l", metavar="FIELD", help="What says which hits are right.")],
    queries: Annotated[
        list[str] | None,
        typer.Option(
            "--queries",
            metavar="SOURCE",
            help="Pictures to search for, as for add; their label is a column FIELD of a table, else the name of their "
            "folder. Default: every record is a query, left out of its own ranking.",
        ),
    ] = None,
    where: Where = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly too: what the store's index loses.")] = False,
    against: Annotated[
        str | None, typer.Option("--against", metavar="URL", help="Compare with this one, over the same queries.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits of each query are looked at.")] = 100,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="With commas between: recall@k (hit rate), recall_fraction@k, precision@k, map@k, ndcg@k, r_precision, "
            "map@r, map, map_trapezoid, ndcg, mrr.",
        ),
    ] = _METRICS,
    limit_queries: Annotated[
        int | None, typer.Option("--limit-queries", min=1, metavar="N", help="No more queries, chosen at random.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of that choice, and of the bootstrap.")] = 0,
    fit_weights: Annotated[
        str | None,
        typer.Option(
            "--fit-weights",
            metavar="image,text,near:KM,at:DAYS",
            help="Instead of measuring one search, fit how these kinds of evidence are best joined, and print the options.",
        ),
    ] = None,
    query_text: Annotated[
        str | None,
        typer.Option(
            "--query-text", metavar="FIELD", help="The text that asks, of --fit-weights; default: the caption."
        ),
    ] = None,
    encoder: Encoder = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with plots.")] = None,
) -> None:
    """Measure how well a collection is searched, by labels that its records have; or compare two, or fit weights."""
    from pixdex import evaluating
    from pixdex.filters import parse

    check_there(queries or [])
    if fit_weights is not None:
        if against is not None or html is not None or exact:
            raise typer.BadParameter("goes without --against, --exact and --html", param_hint="--fit-weights")
        from pixdex import index
        from pixdex._cli_fusion import print_fitted, sought
        from pixdex.fusion_fitting import fit_fusion

        wanted = sought(fit_weights)
        with stopping(_NOTHING), index.open(url, encoder=encoder) as opened:
            fitted = fit_fusion(
                opened,
                label=label,
                evidence=wanted,
                queries=queries,
                query_text=query_text,
                where=None if where is None else parse(where),
                k=k,
                limit=limit_queries,
                seed=seed,
            )
            print_fitted(fitted, url, wanted, as_json=json)
        return
    asked: dict[str, Any] = {
        "label": label,
        "queries": queries,
        "where": None if where is None else parse(where),
        "k": k,
        "metrics": [name for name in metrics.split(",") if name.strip()],
        "exact": exact,
        "limit": limit_queries,
        "seed": seed,
    }
    with stopping(_NOTHING), _opened(url, encoder, pictures=queries is not None) as (target, collection):
        done: Evaluation | Comparison
        if against is None:
            done = evaluating.evaluate(target, **asked)
        else:
            with _opened(against, None, pictures=queries is not None) as (other, _):
                done = evaluating.compare(target, other, **asked)
        names = [url] if against is None else [url, against]
        if json:
            _print_json(done, names)
        else:
            _print_table(done, names)
        if html is not None:
            _write_page(html, done, collection, names)


@contextmanager
def _opened(url: str, encoder: str | None, *, pictures: bool) -> Iterator[tuple[Target, Collection]]:
    """What is evaluated; an encoder is loaded only where there are pictures to encode, or one was named."""
    if pictures or encoder is not None:
        from pixdex import index

        with index.open(url, encoder=encoder) as opened:
            yield opened, opened.collection
        return
    from pixdex.collection import Collection
    from pixdex.connectors import connect

    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        yield collection, collection
    finally:
        connector.close()


def _sides(done: Evaluation | Comparison) -> list[Evaluation]:
    from pixdex.evaluating import Comparison

    return [done.first, done.second] if isinstance(done, Comparison) else [done]


# --- as a table --------------------------------------------------------------------------------------


def _print_table(done: Evaluation | Comparison, names: Sequence[str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from pixdex._printing import console
    from pixdex.evaluating import Comparison

    sides = _sides(done)
    out, notes = console(), console(err=True)
    columns: list[tuple[str, Mapping[str, Interval]]] = []
    for name, side in zip(["first", "second"] if len(sides) > 1 else [""], sides, strict=True):
        columns.append((name or "store's search", side.metrics))
        if side.exact is not None:
            columns.append((f"{name} exact" if name else "exact search", side.exact))
    if isinstance(done, Comparison):
        columns.append(("first - second", done.differences))
    for number, (name, side) in enumerate(zip(names, sides, strict=True)):
        which = f"{('first', 'second')[number]}: " if len(sides) > 1 else ""
        out.print(
            f"[bold]{which}{escape(name)}[/bold]  {escape(side.encoder)}, {side.records} records, {side.classes} labels, "
            f"{len(side.queries)} queries, {len(side.queries) / max(side.seconds, 1e-9):.0f} searches/s"
        )
    table = Table(box=None, pad_edge=False)
    table.add_column("mean [95 % interval]")
    for heading, _ in columns:
        table.add_column(heading, justify="right")
    for metric in sides[0].metrics:
        table.add_row(metric, *(escape(_shown(values[metric], signed="-" in h)) for h, values in columns))
    out.print(table)
    for name, side in zip(names, sides, strict=True):
        if side.ann_recall is not None:
            out.print(f"{escape(name)}: its index finds {side.ann_recall.mean:.4f} of the exact first {side.depth}")
    for notice in _notices(done):
        notes.print(f"note: {escape(notice)}")
    for row in dict.fromkeys(row for side in sides for row in side.unusable):
        notes.print(f"[red]unusable[/red] {escape(row.path)}: {escape(row.reason)}")


def _shown(value: Interval, *, signed: bool) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]" if signed else str(value)


def _notices(done: Evaluation | Comparison) -> list[str]:
    from pixdex.evaluating import Comparison

    notices = [notice for side in _sides(done) for notice in side.notices]
    notices += done.notices if isinstance(done, Comparison) else ()
    return list(dict.fromkeys(notices))


# --- as JSON -----------------------------------------------------------------------------------------


def _print_json(done: Evaluation | Comparison, names: Sequence[str]) -> None:
    from pixdex._printing import print_json
    from pixdex.evaluating import Comparison

    sides = [_as_json(side, name) for side, name in zip(_sides(done), names, strict=True)]
    if isinstance(done, Comparison):
        differences = _intervals(done.differences)
        print_json({"first": sides[0], "second": sides[1], "differences": differences, "notices": list(done.notices)})
    else:
        print_json(sides[0])


def _as_json(done: Evaluation, name: str) -> dict[str, Any]:
    import dataclasses

    from pixdex._eval_page import leading, worst

    metric = leading(done)
    values = dict(zip((query.id for query in done.queries), done.values[metric].tolist(), strict=True))
    return {
        "url": name,
        "store": done.store,
        "collection": done.collection,
        "encoder": done.encoder,
        "fingerprint": done.fingerprint,
        "label": done.label,
        "k": done.depth,
        "records": done.records,
        "labels": done.classes,
        "queries": len(done.queries),
        "seconds": done.seconds,
        "metrics": _intervals(done.metrics),
        "exact": None if done.exact is None else _intervals(done.exact),
        "ann_recall": None if done.ann_recall is None else dataclasses.asdict(done.ann_recall),
        "by_label": {str(label): value for label, value in done.by_label(metric).items()},
        "worst": [
            {"id": query.id, "label": query.label, metric: values[query.id], "first_right": query.first_right}
            for query in worst(done, metric, _WORST)
        ],
        "unusable": [dataclasses.asdict(row) for row in done.unusable],
        "notices": list(done.notices),
    }


def _intervals(values: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    import dataclasses

    return {name: dataclasses.asdict(value) for name, value in values.items()}


# --- as a page ---------------------------------------------------------------------------------------


def _write_page(target: Path, done: Evaluation | Comparison, collection: Collection, names: Sequence[str]) -> None:
    from pixdex._eval_page import leading, page, worst
    from pixdex._printing import write_text
    from pixdex.types import Want

    shown = [hit.id for query in worst(done, leading(_sides(done)[0])) for hit in query.hits]
    batch = collection.fetch(shown, want=Want())
    paths = {
        record: payload["path"]
        for record, payload in zip(batch.ids, batch.payloads or (), strict=True)
        if isinstance(payload.get("path"), str)
    }
    write_text(target, page(done, paths, names=names))
    typer.echo(f"page: {target}", err=True)
