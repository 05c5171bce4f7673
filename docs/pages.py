"""
The pages that are generated from code: the reference, the example Dags, the emulator's options.

So a module that the provider info names is on the site without being listed here.
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

#: Where the site has files of the repository.
SITE = {"README.md": "/index.md", "CHANGELOG.md": "/changelog.md", "SECURITY.md": "/report.md"}
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
    made = {
        **{f"reference/{name}.rst": text for name, text in reference_pages(get_provider_info()).items()},
        "examples.md": examples_page(),
        "errors.txt": exception_tree(),
        "emulator.txt": _parser().format_help(),
    }
    for name, text in made.items():
        path = MADE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def with_links_of_the_site(text: str) -> str:
    """Let the links to files of the repository, from the README or from a page, lead to the pages of the site."""

    def target(link: re.Match[str]) -> str:
        path, _, anchor = link[1].removeprefix("../").partition("#")
        if path.startswith("docs/"):
            return f"](/{link[1].removeprefix('docs/')})"
        if path.startswith("example_dags"):
            name = re.sub(r"[^\w-]", "", Path(path).name) if path.endswith(".py") else anchor
            return f"](/made/examples.md{f'#{name}' if name else ''})"
        if path in SITE:
            return f"]({SITE[path]}{f'#{anchor}' if anchor else ''})"
        return link[0] if (DOCS / path).is_file() else f"](/../{path})"

    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", target, text)


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
