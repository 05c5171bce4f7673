"""
The pages that are made of something else: of the README, of the provider info, of the example Dags.

So a section of the README and a module that the provider info names are on the site without being listed here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.emulator.__main__ import _parser
from airflow_provider_kernel.get_provider_info import get_provider_info

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MADE = DOCS / "made"

#: The README's sections that are on the front page; each other one has a page.
FRONT = ("See it", "Install")
#: What the provider info calls the kinds of modules, and what they are called here.
KINDS = {
    "operators": "Operators",
    "sensors": "Sensors",
    "task-decorators": "Decorators",
    "triggers": "Triggers",
    "hooks": "Hooks",
    "extra-links": "Links",
}


def write() -> None:
    """Write all of them, anew."""
    shutil.rmtree(MADE, ignore_errors=True)
    readme = (ROOT / "README.md").read_text()
    sections = readme_pages(readme)
    reference = reference_pages(get_provider_info())
    made = {
        "parts/front.md": sections.pop("front"),
        "parts/contents.md": contents("Use", [f"readme/{name}" for name in sections])
        + contents("Reference", [f"reference/{name}" for name in reference]),
        **{f"readme/{name}.md": text for name, text in sections.items()},
        **{f"reference/{name}.rst": text for name, text in reference.items()},
        "report.md": with_links_of_the_site((ROOT / "SECURITY.md").read_text(), readme),
        "examples.md": examples_page(),
        "errors.txt": exception_tree(),
        "emulator.txt": _parser().format_help(),
    }
    for name, text in made.items():
        path = MADE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(caption: str, names: list[str]) -> str:
    """Return a part of the table of contents, for the front page to include."""
    lines = "\n".join(f"/made/{name}" for name in names)
    return f"```{{toctree}}\n:hidden:\n:titlesonly:\n:caption: {caption}\n\n{lines}\n```\n\n"


def slug(heading: str) -> str:
    """Return the anchor of a heading, as it is made on code forges and by MyST."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def readme_pages(readme: str) -> dict[str, str]:
    """Cut the README into pages at its headings of the second level; return their texts by their names."""
    pages: dict[str, str] = {"front": ""}
    for name, line, level in _sections(readme):
        # A page's own heading is of the first level.
        pages[name] = pages.get(name, "") + (line[1:] if level > 1 and name != "front" else line) + "\n"
    return {name: with_links_of_the_site(text, readme) for name, text in pages.items()}


def with_links_of_the_site(text: str, readme: str) -> str:
    """Let the links of a page, or of the README, lead to the pages of the site."""
    page_of = {slug(line.lstrip("#")): name for name, line, level in _sections(readme) if level}

    def target(link: re.Match[str]) -> str:
        path, _, anchor = link[1].removeprefix("../").partition("#")
        if path in ("", "README.md"):
            page = page_of.get(anchor)
            if page is None:
                return link[0]  # a heading of the page itself
            return f"](/index.md#{anchor})" if page == "front" else f"](/made/readme/{page}.md#{anchor})"
        if path.startswith("example_dags"):
            return "](/made/examples.md" + (f"#{slug(Path(path).name)})" if path.endswith(".py") else ")")
        if path == "CHANGELOG.md":
            return "](/changelog.md)"
        if path == "SECURITY.md":
            return "](/made/report.md)"
        if path.startswith("docs/"):
            return f"](/{link[1].removeprefix('docs/')})"
        if (DOCS / path).is_file():
            return link[0]  # another page of the site
        return f"](/../{path})"

    return re.sub(r"\]\((?!\w+:)([^)\s]+)\)", target, text)


def _sections(readme: str) -> Iterator[tuple[str, str, int]]:
    """Give the README's lines, each with the page that it belongs to, and with its level."""
    name = "front"
    for line, level in _lines(readme):
        if level == 2 and line.lstrip("# ") not in FRONT:
            name = slug(line.lstrip("#")).strip("-")
        yield name, line, level


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Give the lines of a Markdown text, each with its level as a heading; 0 for what is none."""
    is_code = False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        marks = re.match("#+(?= )", line)
        yield line, 0 if is_code or not marks else len(marks[0])


def reference_pages(info: dict[str, Any]) -> dict[str, str]:
    """Return a page for each kind of module that the provider info names."""
    found = {}
    for kind, title in KINDS.items():
        if modules := modules_of(info, kind):
            blocks = [f"{title}\n{'=' * len(title)}\n"]
            for module in modules:
                blocks.append(f"{module}\n{'-' * len(module)}\n\n.. automodule:: {module}\n")
            found[title.lower()] = "\n".join(blocks)
    return found


def modules_of(info: dict[str, Any], kind: str) -> list[str]:
    """Return the modules of one kind that the provider info names, or whose classes it names."""
    modules: list[str] = []
    for entry in info.get(kind, []):
        if isinstance(entry, str):
            modules.append(entry.rpartition(".")[0])
        elif "class-name" in entry:
            modules.append(entry["class-name"].rpartition(".")[0])
        else:
            modules += entry["python-modules"]
    return list(dict.fromkeys(modules))


def exception_tree() -> str:
    """Return the tree of the exceptions, as text."""

    def below(kind: type[Exception], indent: str) -> Iterator[str]:
        yield indent + kind.__name__
        for child in kind.__subclasses__():
            yield from below(child, f"{indent}    ")

    return "\n".join(below(KernelError, "")) + "\n"


def examples_page() -> str:
    """Return a page with the example Dags and their apps."""
    folder = ROOT / "example_dags"
    files = [*sorted(folder.glob("*.py")), *sorted(folder.glob("apps/*/*.py"))]
    parts = ["# Example Dags", "They run as they are, against the emulator and against Kernel."]
    for file in files:
        heading = file.name if file.parent == folder else f"{file.parent.name}/{file.name}"
        parts.append(
            f"## {heading}\n\n```{{literalinclude}} ../../{file.relative_to(ROOT)}\n:language: python\n```"
        )
    return "\n\n".join(parts) + "\n"
