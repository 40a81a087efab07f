"""A result page that needs nothing but itself: thumbnails as data, scores, what was asked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from pixdex.encoders.images import thumbnail_jpeg
from pixdex.errors import InvalidImage
from pixdex.pictures import load_picture
from pixdex.types import Hit

__all__ = ["Section", "document", "page", "thumbnail"]

Section = tuple[str, Any, Sequence[Hit]]
"""A title, the query picture (None: no picture) and its hits."""

_THUMBNAIL = 200

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .2rem; } h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
p { color: var(--soft); margin: 0 0 1.5rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem; list-style: none; padding: 0; margin: 0; }
li { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
li.query { border: 2px solid #3b82f6; }
img, .none { display: block; width: 100%; height: 9rem; object-fit: contain; background: #8881; }
.none { display: grid; place-items: center; color: var(--soft); font-size: .85rem; }
div.text { padding: .5rem .6rem; font-size: .85rem; overflow-wrap: anywhere; }
b { font-variant-numeric: tabular-nums; }
"""


def page(title: str, note: str, sections: Sequence[Section]) -> str:
    """The page as HTML text. Pictures that are gone or unreadable become an empty frame."""
    return document(title, note, "".join(_section(*section) for section in sections))


def document(title: str, note: str, body: str, *, style: str = "") -> str:
    """A page of the house: ``body`` is HTML below a heading and a line, ``style`` rules besides those of every page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(note)}</p>{body}</body></html>\n"
    )


def _section(title: str, query: Any, hits: Sequence[Hit]) -> str:
    cards = (
        []
        if query is None
        else [f'<li class="query">{thumbnail(query, "the query")}<div class="text">query</div></li>']
    )
    cards += [_card(rank, hit) for rank, hit in enumerate(hits, 1)]
    return f"<h2>{escape(title)}</h2><ol>{''.join(cards)}</ol>\n"


def _card(rank: int, hit: Hit) -> str:
    path = (hit.payload or {}).get("path")
    picture = thumbnail(Path(path), hit.id) if isinstance(path, str) else '<div class="none">no file</div>'
    return f'<li>{picture}<div class="text">{rank}. <b>{hit.score:+.3f}</b><br>{escape(hit.id)}</div></li>\n'


def thumbnail(picture: Any, alt: str) -> str:
    """A picture as data, or an empty frame that says why it is none."""
    try:
        data = base64.b64encode(thumbnail_jpeg(load_picture(picture)[0], _THUMBNAIL)).decode()
    except InvalidImage as error:
        return f'<div class="none">{escape(str(error))}</div>'
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alt, quote=True)}">'
