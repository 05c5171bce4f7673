"""Writes example_dags/apps/bookshop/catalogue.html, the same on every machine."""

from __future__ import annotations

import random
from pathlib import Path

CATALOGUE = Path(__file__).parent.parent / "example_dags/apps/bookshop/catalogue.html"
GENRES = [
    "Art", "Biography", "Children", "Cooking", "Crime", "Fantasy",
    "History", "Poetry", "Science", "Travel",
]  # fmt: skip
ADJECTIVES = ["Quiet", "Last", "Northern", "Hidden", "Golden", "Broken", "Little", "Endless", "Paper"]
NOUNS = ["Garden", "Winter", "Harbour", "Letter", "Mountain", "Clock", "River", "Island", "Orchard"]
NAMES = ["A. Moreau", "J. Okafor", "L. Svensson", "M. Tanaka", "R. Castillo", "S. Whitfield", "V. Novak"]


def main() -> None:
    """Write the page."""
    choice = random.Random(1).choice
    lines = ["<!doctype html>", '<html lang="en">', "<title>A bookshop</title>", "<main>"]
    for number in range(1, 3001):
        title = f"The {choice(ADJECTIVES)} {choice(NOUNS)}, vol. {number}"
        price = choice(range(299, 5999)) / 100
        lines.append(
            f'<article id="book-{number}" data-genre="{choice(GENRES)}"><span class="title">{title}</span>'
            f' by <span class="author">{choice(NAMES)}</span>, <span class="price">£{price:.2f}</span></article>'
        )
    CATALOGUE.write_text("\n".join([*lines, "</main>", "</html>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
