"""The blocks of code in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and text of the blocks of code of a page, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def write_files(text: str, folder: Path) -> list[tuple[str, str]]:
    """Write the blocks that begin with the name of a file; return the others."""
    others = []
    for language, block in blocks(text):
        if named := re.match(r"(?:#|<!--) ([\w./]+\.\w+)", block):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        else:
            others.append((language, block))
    return others
