"""Pages as tests read them."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["Reader"]


class Reader(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        """Attributes of the elements of a tag, of a class where one is given."""
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and kind in [*(attributes.get("class") or "").split(), ""]
        ]
