"""``pixdex eval --fit-weights``: how evidence is best joined, as a table and as options of ``pixdex search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pixdex.fusion import Decay
    from pixdex.fusion_fitting import Choice, Fitted, Sought

__all__ = ["as_options", "print_fitted", "sought"]

_UNITS = {"near": 1.0, "at": 86_400.0}
"""Of scales, in kilometres and seconds."""


def sought(text: str) -> Sought:
    """What ``--fit-weights`` says: ``image,text,near:25,at:90``, behind the colon kilometres or days to half."""
    from pixdex.fusion import AT, NEAR, Decay
    from pixdex.fusion_fitting import Sought

    names: list[str] = []
    decays: dict[str, Decay] = {}
    for each in text.split(","):
        name, _, scale = each.strip().partition(":")
        names.append(name)
        if scale and name in _UNITS:
            try:
                decays[name] = Decay(scale=float(scale) * _UNITS[name])
            except ValueError:
                raise typer.BadParameter(f"{each!r}: write {name}:NUMBER", param_hint="--fit-weights") from None
    return Sought(names=tuple(names), near=decays.get("near", NEAR), at=decays.get("at", AT))


def as_options(chosen: Choice, wanted: Sought) -> list[str]:
    """What makes ``pixdex search`` join as was chosen. Evidence that is not among the weights is not searched by."""
    options = [f"--fusion {chosen.method}"] if len({"image", "text"} & chosen.weights.keys()) > 1 else []
    options += [f"--weight {name}={weight:.4g}" for name, weight in chosen.weights.items() if weight != 1]
    for name, (_, _, decay) in wanted.fields.items():
        if chosen.weights.get(name):
            place = "LAT,LON" if name == "near" else "TIME"
            options.append(f"--{name} {place},{decay.scale / _UNITS[name]:.4g}")
    return options


def print_fitted(done: Fitted, url: str, wanted: Sought, *, as_json: bool) -> None:
    """Say what was chosen, and what it is worth."""
    import dataclasses

    from pixdex._printing import console, print_json

    options = as_options(done.chosen, wanted)
    if as_json:
        print_json(
            {
                "url": url,
                "queries": len(done.labels),
                "labels": len(set(done.labels)),
                "fusion": str(done.chosen.method),
                "weights": dict(done.chosen.weights),
                "options": options,
                "map": {name: dataclasses.asdict(each) for name, each in done.intervals.items()},
                "gain": dataclasses.asdict(done.gain),
            }
        )
        return
    from rich.markup import escape
    from rich.table import Table

    out = console()
    out.print(f"[bold]{escape(url)}[/bold]  {len(done.labels)} queries, {len(set(done.labels))} labels")
    table = Table(box=None, pad_edge=False)
    table.add_column("evidence")
    table.add_column("mAP [95 % interval]", justify="right")
    for name, value in done.intervals.items():
        table.add_row(escape(_CALLED.get(name, name)), escape(str(value)))
    out.print(table)
    gain: Any = done.gain
    out.print(f"fitted - single: {gain.mean:+.3f} {escape(f'[{gain.low:+.3f}, {gain.high:+.3f}]')}")
    only = [name for name in ("image", "text") if name in wanted.names and name not in done.chosen.weights]
    if only:
        out.print(f"nothing gains by {' and '.join(only)}: search without")
    out.print(escape(f"pixdex search {url} ... {' '.join(options)}".rstrip()), soft_wrap=True)


_CALLED = {
    "chosen": "chosen, on the queries that chose it",
    "fitted": "fitted on other labels (cross-validation)",
    "single": "single list that was best on other labels",
}
