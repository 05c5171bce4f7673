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

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"Kernel for Airflow {__version__}"
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False


#: Words that are looked for, and the pages that are about them: the search finds these before pages that only have the word.
SOUGHT = {
    "run-an-action": ("cancel", "retry", "timeout", "xcom"),
    "guarantees": ("cancel", "kill", "retry"),
    "emulator": ("browser",),
    "full-account": ("429", "pool"),
    "large-outputs": ("xcom",),
}
#: Methods of a hook that Airflow calls.
FOR_THE_FORM = ("get_connection_form_widgets", "get_ui_field_behaviour")


def setup(app: Any) -> None:
    """Connect what is below; Sphinx calls this."""
    app.connect("autodoc-process-docstring", keep_underscores)
    app.connect("autodoc-skip-member", leave_out_internals)
    app.connect("source-read", lead_to_the_site)


def lead_to_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Put in the files of the repository that are pages, and let links to such files lead to these pages."""
    text = source[0]
    if docname == "index":  # the site's contents are at its side
        text = "```{include} ../README.md\n```\n\n" + text[text.index("```{toctree}") :]
    text = re.sub(r"```{include} \.\./(\w+\.md)\n```", lambda file: (pages.ROOT / file[1]).read_text(), text)
    # The site's search skips numbers, but for those in the index.
    text = re.sub(r"^(?=\*\*`(\d{3})`)", r"```{index} ! single: \1\n```\n\n", text, flags=re.MULTILINE)
    entries = "".join(f"```{{index}} ! single: {word}\n```\n\n" for word in SOUGHT.get(docname, ()))
    text = re.sub(r"^(# .*\n\n)", lambda title: title[1] + entries, text, count=1)
    source[0] = pages.with_links_of_the_site(text)


def leave_out_internals(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Of what Airflow calls, show the class and its parameters alone; of a hook, the methods that users call, too."""
    kind = app.env.docname.removeprefix("made/reference/")
    if kind == app.env.docname:
        return None
    if what == "module":
        return None if isinstance(obj, type) or name == "kernel_task" else True
    return None if kind == "hooks" and name not in FOR_THE_FORM else True


def keep_underscores(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let a parameter such as ``async_`` keep its underscore, which is markup otherwise."""
    lines[:] = [re.sub(r"^:param (\w+)_:", r":param \1\\_:", line) for line in lines]
