"""How Sphinx makes the site. Nothing is fetched: neither when it is built nor when it is read."""

import os
import re
import sys
from pathlib import Path
from typing import Any

# Before Airflow is imported, which reads it then and writes its configuration there.
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / ".run" / "docs" / "airflow")
sys.path.insert(0, str(Path(__file__).parent))

import pages

from airflow_provider_kernel import __version__

pages.write()

project = "airflow-provider-kernel"
copyright = "the authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"Kernel for Airflow {__version__}"
html_show_sphinx = False
html_copy_source = False
exclude_patterns = ["made/parts"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False


def setup(app: Any) -> None:
    """Connect what is below; Sphinx calls this."""
    app.connect("autodoc-process-docstring", keep_underscores)
    app.connect("source-read", lead_to_the_site)


def lead_to_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Let a page's links lead to the site's pages; where it lies, they lead to the repository's files."""
    if docname in ("guide", "emulator", "testing", "scale", "security"):
        source[0] = pages.with_links_of_the_site(source[0], (pages.ROOT / "README.md").read_text())


def keep_underscores(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let a parameter such as ``async_`` keep its underscore, which is markup otherwise."""
    lines[:] = [re.sub(r"^:param (\w+)_:", r":param \1\\_:", line) for line in lines]
