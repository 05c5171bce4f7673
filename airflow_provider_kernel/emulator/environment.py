"""
The environment variables of an app. Pure; no I/O.

On Kernel an app gets the variables that it was deployed with. Here it gets those of ``--env`` and ``--env-file``, and
of the terminal's only :data:`INHERITED`: no credentials. This is no sandbox: an app can read the user's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: What Python and other programs need, by name; ``*`` stands for any end. No proxies: their URLs may hold passwords.
INHERITED = (
    "PATH HOME USER LOGNAME TMPDIR TZ LANG LANGUAGE LC_* "
    "PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONNOUSERSITE PYTHONUTF8 PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE "
    "PYTHONPYCACHEPREFIX VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS "
    "PLAYWRIGHT_BROWSERS_PATH XDG_CACHE_HOME __CF_USER_TEXT_ENCODING OBJC_DISABLE_INITIALIZE_FORK_SAFETY"
)

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_INHERITED = re.compile("|".join(INHERITED.replace("*", ".*").split()))
_LINE = re.compile(
    rf"""
    [ \t]* (?: (?:export[ \t]+)? (?P<name>{_NAME}) [ \t]* = [ \t]*
        (?: '(?P<literal>[^'\0]*)' | "(?P<quoted>(?:[^"\\$\0] | \\[nr"\\$])*)" | (?P<plain>[^\s'"#$\0][^\n$\0]*?)? )
        (?!\S) )?
    [ \t]* (?: \#[^\n]* )? (?: \n | \Z )
    """,
    re.ASCII | re.VERBOSE,
)
_ESCAPED = {"n": "\n", "r": "\r"}


class OptionError(Exception):
    """An option cannot be used; the message is a sentence for the user, and quotes no variable's value."""


def inherited(terminal: Mapping[str, str]) -> dict[str, str]:
    """Return what an app gets of the terminal's environment."""
    return {name: value for name, value in terminal.items() if _INHERITED.fullmatch(name)}


def read_option(text: str, terminal: Mapping[str, str]) -> tuple[str, str]:
    """
    Return name and value of ``--env NAME=VALUE``, or of ``--env NAME`` for the terminal's value.

    :raises OptionError: the name is none, or the terminal has no such variable.
    """
    name, has_value, value = text.partition("=")
    if not re.fullmatch(_NAME, name):
        raise OptionError("--env must be NAME=VALUE or NAME; a name is made of letters, digits and _")
    if has_value:
        return name, value
    if name not in terminal:
        raise OptionError(f"--env {name}: there is no such variable; set it, or write --env {name}=VALUE")
    return name, terminal[name]


def read_env_file(text: str) -> dict[str, str]:
    r"""
    Read a file of the dotenv format: lines of ``NAME=VALUE``, with or without ``export``, and comments.

    Within double quotes ``\n``, ``\r``, ``\"``, ``\\`` and ``\$`` are read; within single quotes nothing is. Kernel's
    command line puts variables in the place of ``$NAME``; that is not done here, but refused.

    :raises OptionError: a line is something else; the message has its number.
    """
    variables = {}
    position = 0
    while position < len(text):
        line = _LINE.match(text, position)
        if line is None:
            number = text.count("\n", 0, position) + 1
            raise OptionError(
                f"line {number} is not NAME=VALUE; put a value that has quotes or $ in single quotes"
            )
        position = line.end()
        if line["name"]:
            quoted = re.sub(r"\\(.)", lambda it: _ESCAPED.get(it[1], it[1]), line["quoted"] or "")
            variables[line["name"]] = line["literal"] or quoted or line["plain"] or ""
    return variables
