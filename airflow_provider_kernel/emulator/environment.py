"""
The environment variables of an app. Pure; no I/O.

On Kernel an app gets the variables that it was deployed with. In the emulator an app gets the variables of ``--env`` and
``--env-file``, and only :data:`INHERITED` of the terminal's variables: no credentials. The emulator is no sandbox: an
app can read the user's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Names of the terminal's variables that Python, Node.js and other programs need. ``*`` matches any text. No proxies: their URLs
#: may hold passwords.
INHERITED = (
    "PATH HOME USER LOGNAME TMPDIR TZ LANG LANGUAGE LC_* "
    "PYTHONPATH PYTHONHOME PYTHONUSERBASE PYTHONNOUSERSITE PYTHONUTF8 PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE "
    "PYTHONPYCACHEPREFIX NODE_PATH VIRTUAL_ENV CONDA_PREFIX LD_LIBRARY_PATH DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH "
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
    """An option is wrong. The message is one sentence, without a full stop, and quotes no variable's value."""


def inherited_variables(terminal: Mapping[str, str]) -> dict[str, str]:
    """Return the terminal's variables that an app gets."""
    return {name: value for name, value in terminal.items() if _INHERITED.fullmatch(name)}


def read_option(text: str, terminal: Mapping[str, str]) -> tuple[str, str]:
    """
    Return name and value of ``--env NAME=VALUE``, or of ``--env NAME`` for the terminal's value.

    :raises OptionError: the name is not valid, or the terminal has no such variable.
    """
    name, has_value, value = text.partition("=")
    if not re.fullmatch(_NAME, name):
        raise OptionError("--env must be NAME=VALUE or NAME; a name has letters, digits and _ only")
    if has_value:
        return name, value
    if name not in terminal:
        raise OptionError(f"--env {name}: the variable is not set; set it, or write --env {name}=VALUE")
    return name, terminal[name]


def read_env_file(text: str) -> dict[str, str]:
    r"""
    Return the variables of a dotenv file: lines of ``NAME=VALUE``, with or without ``export``, and comments.

    Double quotes interpret the escapes ``\n``, ``\r``, ``\"``, ``\\`` and ``\$``; single quotes interpret none. Kernel's
    command line replaces ``$NAME`` by the value of a variable; the emulator refuses it.

    :param text: the content of the file.
    :raises OptionError: a line has another form; the message has the line's number.
    """
    variables = {}
    position = 0
    while position < len(text):
        line = _LINE.match(text, position)
        if line is None:
            number = text.count("\n", 0, position) + 1
            raise OptionError(
                f"line {number} is not NAME=VALUE; put a value with quotes or $ in single quotes"
            )
        position = line.end()
        if line["name"]:
            quoted = re.sub(r"\\(.)", lambda it: _ESCAPED.get(it[1], it[1]), line["quoted"] or "")
            variables[line["name"]] = line["literal"] or quoted or line["plain"] or ""
    return variables
