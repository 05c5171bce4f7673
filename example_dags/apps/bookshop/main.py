"""
A small Kernel app: reads the price list of a bookshop.

It needs nothing but the catalogue beside it, a page of 3,000 books such as a shop's website would serve. On Kernel
the page would come from a browser; everything after that stays the same. Deploy it from this folder with
``kernel deploy main.py``, or run it here with ``python -m airflow_provider_kernel.emulator main.py``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import kernel

CATALOGUE = Path(__file__).with_name("catalogue.html")

app = kernel.App("bookshop")


class CatalogueParser(HTMLParser):
    """Collects the books of a catalogue page."""

    def __init__(self) -> None:
        super().__init__()
        self.books: list[dict[str, str]] = []
        self._field: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a book, or one of its fields."""
        attributes = dict(attrs)
        if tag == "article":
            self.books.append({"genre": attributes.get("data-genre") or ""})
        self._field = attributes.get("class") if tag == "span" else None

    def handle_endtag(self, tag: str) -> None:
        """End a field."""
        self._field = None

    def handle_data(self, data: str) -> None:
        """Take the text of a field."""
        if self._field:
            self.books[-1][self._field] = self.books[-1].get(self._field, "") + data


@app.action("price-report")
def price_report(ctx: kernel.KernelContext, payload: dict[str, Any]) -> dict[str, Any]:
    """
    Summarize the prices, genre by genre.

    The payload may name the ``genres`` to read (default: all), and say how long to pause after each one with
    ``pause_seconds`` (default: 1), as a polite visitor of a website does.
    """
    books = read_catalogue()
    shelves: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for book in books:
        shelves[book["genre"]].append(book)
    print(f"read {CATALOGUE.stat().st_size // 1024} KB: {len(books)} books in {len(shelves)} genres")

    genres = payload.get("genres") or sorted(shelves)
    averages: dict[str, float] = {}
    cheapest: list[dict[str, Any]] = []
    for number, genre in enumerate(genres, start=1):
        if genre not in shelves:
            raise ValueError(f"there is no genre {genre!r}; the genres are {', '.join(sorted(shelves))}")
        shelf = shelves[genre]
        averages[genre] = round(sum(book["price"] for book in shelf) / len(shelf), 2)
        cheapest.append(min(shelf, key=lambda book: book["price"]))
        print(f"{number}/{len(genres)} {genre}: {len(shelf)} books, on average {averages[genre]:.2f}")
        time.sleep(payload.get("pause_seconds", 1))
    return {"average_prices": averages, "cheapest": min(cheapest, key=lambda book: book["price"])}


@app.action("book")
def book(ctx: kernel.KernelContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Look up the book whose ``number`` in the catalogue the payload says, from 0; ``pause_seconds`` as above."""
    time.sleep(payload.get("pause_seconds", 0))
    return read_catalogue()[payload["number"]]


def read_catalogue() -> list[dict[str, Any]]:
    """Parse the page."""
    parser = CatalogueParser()
    parser.feed(CATALOGUE.read_text(encoding="utf-8"))
    return [{**book, "price": float(book["price"].removeprefix("£"))} for book in parser.books]
