"""Make text from outside safe for logs, exceptions and terminals. No I/O."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

#: Maximum length of a failed invocation's output and of Kernel's reason, as shown, in characters.
MAX_REASON = 2_000
#: Maximum length of Kernel's names, codes and ids, as shown, in characters.
MAX_NAME = 200
#: Replaces secrets.
REDACTED = "***"
#: Minimum length of a secret: a shorter one would be found within words. Airflow masks from the same length.
MIN_SECRET_LENGTH = 5

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Control characters, line separators, direction marks, and characters that no terminal shows.
_UNSAFE_RANGES = (
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0x61C, 0x61C),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
)
_UNSAFE = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _UNSAFE_RANGES)}]")
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for first, last in _UNSAFE_RANGES
    for code in range(first, last + 1)
}
_ESCAPES_OF_OUTPUT = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\n\t"}


def shorten(text: str, limit: int = MAX_REASON) -> str:
    """Return ``text`` cut to ``limit`` characters, with the number of characters left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def sentence(text: str) -> str:
    """Return ``text`` with a full stop at its end, so that another sentence may follow."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def clean(text: str, limit: int = MAX_REASON, *, keep_lines: bool = False) -> str:
    r"""
    Return ``text`` as it can be shown: on one line, without characters that a terminal or a log would act on.

    Colors are removed. Other control characters are shown as Python writes them, such as ``\x1b`` and ``\n``.

    :param text: text from outside.
    :param limit: maximum length, in characters.
    :param keep_lines: whether line ends and tabs stay, as in an app's own output.
    :return: the safe text.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text  # almost all
    shown = _COLOR.sub("", text[:limit])
    if keep_lines:
        shown = shown.replace("\r\n", "\n")
    if _UNSAFE.search(shown):
        shown = shown.translate(_ESCAPES_OF_OUTPUT if keep_lines else _ESCAPES)
    left = max(0, len(text) - limit) + max(0, len(shown) - limit)
    return f"{shown[:limit]}… ({left} more characters)" if left else shown


class Redactor:
    """
    Replaces secrets in text from outside: a server or proxy that quotes a request quotes its token.

    :param secrets: a token and passwords. They are also recognized as JSON and URLs write them.
    :param logins: ``user:password`` of an HTTP proxy, which quotes them in base64.
    """

    def __init__(self, secrets: Iterable[str] = (), logins: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            escaped = json.dumps(secret)[1:-1]
            forms |= {secret, unquote(secret), quote(secret, safe=""), escaped, escaped.replace("/", "\\/")}
        for login in logins:
            # HTTP clients send it in Latin-1; see proxy_address().
            forms.add(base64.b64encode(login.encode("latin-1", "replace")).decode())
        known = sorted((form for form in forms if len(form) >= MIN_SECRET_LENGTH), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Return ``text`` without the secrets, and without colors if they split one."""
        if not self._pattern:
            return text
        if "\x1b" in text and self._pattern.search(plain := _COLOR.sub("", text)):
            text = plain
        return self._pattern.sub(REDACTED, text)

    def json(self, value: Any, text: str) -> Any:
        """
        Return a JSON value without the secrets in its strings, and without tokens in its keys.

        :param value: the value; its lists and dicts are changed in place.
        :param text: the JSON text of the value.
        """
        if not self._pattern:
            return value
        # Escapes may hide a secret in the text, and a color may split one.
        may_hide = "\\u00" in text or "\\/" in text
        if not may_hide and not self._pattern.search(text):
            return value
        top = [value]
        remaining: list[list[Any] | dict[Any, Any]] = [top]
        while remaining:
            container = remaining.pop()
            if isinstance(container, dict) and any(
                "sk_" in key and self._pattern.search(key) for key in container
            ):
                renamed = {self.text(key): item for key, item in container.items()}
                container.clear()
                container.update(renamed)
            items = enumerate(container) if isinstance(container, list) else container.items()
            for key, item in list(items):
                if isinstance(item, str):
                    container[key] = self.text(item)
                elif isinstance(item, (list, dict)):
                    remaining.append(item)
        return top[0]


#: A redactor without secrets.
NO_SECRETS = Redactor()
