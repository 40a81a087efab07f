"""Pictures with a class each, and how classes are divided between training and validation.

What is learned here shall hold for classes that nobody has seen, so validation keeps whole classes back: pictures of a
class that was trained on say how well the head knows it by heart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixdex.errors import ConfigError, nearest
from pixdex.filters import bind, matches
from pixdex.pictures import Item, from_files, is_folder, path_exists, shown, source_of
from pixdex.sources import Options, Sources
from pixdex.sources.tables import Table
from pixdex.spec import Fingerprint, Spec, Vector
from pixdex.types import Payload

__all__ = ["LABEL", "Labelled", "has_labels", "labelled", "numbered", "split_classes", "unlabelled"]

LABEL = "label"
"""The column of a table that holds the class, where nobody says which it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Pictures and their classes.

    Attributes:
        items: the pictures, with ids; ``item.picture`` is a path, bytes or something to read.
        labels: int64 ``[n]``, the number of the class in ``names``.
        names: of the classes, sorted.
    """

    items: tuple[Item, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """Some of them; ``names`` stay as they are."""
        return Labelled(tuple(self.items[row] for row in rows), self.labels[rows], self.names)


def labelled(
    source: str | os.PathLike[str], *, label: str | None = None, column: str | None = None, where: str | None = None
) -> Labelled:
    """The pictures of a folder of class folders, or of a table.

    Args:
        source: a folder, each folder in which is a class, with all pictures below it; or a table (``.csv``, ``.tsv``,
            ``.jsonl``, ``.parquet``), as ``ImageIndex.add`` reads them.
        label: the column of the table with the class; default ``label``.
        column: the one that names or holds the pictures.
        where: a filter over the other columns, such as ``split == "train"``: other rows are left out.

    Raises:
        ConfigError: there is no such source or column, a picture without a class, or only one class.
        InvalidFilter: ``where`` does not parse, or is about no column.
        MissingDependency: pyarrow is not installed, for Parquet files.
    """
    path = _there(source)
    if is_folder(path):
        if label is not None or where is not None:
            raise ConfigError(f"{path} is a folder: its folders are the classes, so label and where say nothing")
        pairs = list(_of_folder(path))
    else:
        with _table(path, column) as table:
            pairs = list(_of_table(table, label or LABEL, where))
    if not pairs:
        raise ConfigError(f"no pictures in {path}" + ("" if where is None else f" with {where}"))
    labels, names = numbered([name for _, name in pairs])
    if len(names) < 2:
        raise ConfigError(f"{path} has one class only, {names[0]!r}: at least two are needed to tell apart")
    return Labelled(tuple(item for item, _ in pairs), labels, names)


def unlabelled(
    source: str | os.PathLike[str], *, column: str | None = None, where: str | None = None
) -> tuple[Item, ...]:
    """The pictures of a folder, at any depth, or of a table; ``column`` and ``where`` as of ``labelled``.

    Raises:
        ConfigError: there is no such source or column, or it has no pictures.
        InvalidFilter: ``where`` does not parse, or is about no column.
        MissingDependency: pyarrow is not installed, for Parquet files.
    """
    path = _there(source)
    if is_folder(path):
        if where is not None:
            raise ConfigError(f"{path} is a folder: where is a filter over the columns of a table")
        found = [item for item in from_files(path, source_of(path, None)[0]) if item is not None]
    else:
        with _table(path, column) as table:
            found = [item for item, _ in _of_table(table, None, where)]
    if not found:
        raise ConfigError(f"no pictures in {path}" + ("" if where is None else f" with {where}"))
    return tuple(found)


def has_labels(source: str | os.PathLike[str], *, column: str | None = None) -> bool:
    """Whether ``labelled`` finds classes where nobody names them: every picture of the folder lies in a folder of it, or the
    table has a column ``label``.

    Raises:
        ConfigError: there is no such source or column.
        MissingDependency: pyarrow is not installed, for Parquet files.
    """
    path = _there(source)
    if is_folder(path):
        files = (Path(item.picture) for item in from_files(path, "") if item is not None)
        return all(len(file.relative_to(path).parts) > 1 for file in files if not is_folder(file))
    with _table(path, column) as table:
        table.check()
        return LABEL in {field.name for field in _spec(table).fields}


def _there(source: str | os.PathLike[str]) -> Path:
    path = Path(os.fspath(source)).expanduser()
    if not path_exists(path):
        raise ConfigError(f"{path} does not exist")
    return path


@contextmanager
def _table(path: Path, column: str | None) -> Iterator[Table]:
    with Sources(Options(column=column)) as sources:
        table = sources.of(str(path))
        if not isinstance(table, Table):
            raise ConfigError(f"{path}: a folder of class folders is needed, or a table with a column of classes")
        yield table


def numbered(classes: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """int64 ``[n]`` numbers of classes given by name, and the names, sorted."""
    names, numbers = np.unique(np.asarray(classes, dtype=object).astype(str), return_inverse=True)
    return numbers.astype(np.int64), tuple(names.tolist())


def split_classes(
    labels: NDArray[np.int64], share: float = 0.2, seed: int = 0, *, turn: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and rows to validate on, which have no class in common.

    ``share`` is that of the classes, of which each side gets at least two. What has a single picture validates nothing,
    and is trained on. Turns keep other classes back, until all were. Both are int64, sorted.

    Raises:
        ConfigError: the share is not in (0, 1), or fewer than four classes have two pictures.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of classes to validate on is between 0 and 1, not {share}")
    classes, counts = np.unique(labels, return_counts=True)
    usable = classes[counts > 1]
    if len(usable) < 4:
        raise ConfigError(f"validation keeps whole classes back: four with two pictures are needed, not {len(usable)}")
    held = min(max(2, round(share * len(usable))), len(usable) - 2)
    order = np.random.default_rng(seed).permutation(usable)
    kept = np.roll(order, -turn * held)[:held]
    validates = np.isin(labels, kept)
    return np.flatnonzero(~validates).astype(np.int64), np.flatnonzero(validates).astype(np.int64)


def _of_folder(root: Path) -> Iterator[tuple[Item, str]]:
    source, _ = source_of(root, None)
    for item in from_files(root, source):
        if item is None:
            continue
        inside = Path(item.picture).relative_to(root).parts
        if len(inside) < 2:
            raise ConfigError(f"{shown(item.picture)} lies in no folder of its class: move it, or give a table instead")
        yield item, inside[0]


def _of_table(table: Table, label: str | None, where: str | None) -> Iterator[tuple[Item, str]]:
    """Pictures with their classes, which are empty without ``label``."""
    table.check()
    spec = _spec(table)
    known = {field.name for field in spec.fields}
    if label is not None and label not in known:
        raise ConfigError(f"{table.path}: there is no column {label!r} of classes{nearest(label, known)}")
    chosen = None if where is None else bind(_parsed(where), spec)
    for item in table.items(spec):
        if item is None or (chosen is not None and not matches(chosen, item.id or "", item.payload)):
            continue
        yield item, "" if label is None else _class(item, item.payload, label)


def _class(item: Item, payload: Payload, label: str) -> str:
    value: Any = payload.get(label)
    if value is None or isinstance(value, list | dict) or not str(value).strip():
        raise ConfigError(f"{item.label} has no {label}: every picture needs one class")
    return str(value)


def _parsed(where: str) -> Any:
    from pixdex.filters import parse

    return parse(where)


def _spec(table: Table) -> Spec:
    """The columns as the fields of a collection, as filters and readers of cells need them."""
    return Spec(
        vectors=(Vector(dim=1, fingerprint=Fingerprint(encoder="none", digest="00000000")),),
        fields=tuple(table.suggested()),
    )
