"""Text that comes from outside, made fit for a log, an exception and a terminal. No I/O."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

#: Longest part of a failed invocation's output, or of Kernel's reason, that is shown, in characters.
MAX_REASON = 2_000
#: Longest name, code or id of Kernel's that is shown, in characters.
MAX_NAME = 200
#: What a secret is replaced with.
REDACTED = "***"
#: A shorter secret is not looked for: it would be found within words. Airflow masks from this length, too.
MIN_SECRET_LENGTH = 5

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# Controls, line separators, what turns the direction of text around, and what no terminal shows.
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
    """Return ``text`` cut to ``limit`` characters, saying how many were left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def sentence(text: str) -> str:
    """Return words of somebody else's with a full stop at their end, if they have none, so that ours may follow."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def clean(text: str, limit: int = MAX_REASON, *, keep_lines: bool = False) -> str:
    r"""
    Return ``text`` so that it can be shown: on one line, without anything that a terminal or a log would act on.

    Colors are left out; other control characters are shown as Python writes them, such as ``\x1b`` and ``\n``.

    :param text: what came from outside.
    :param limit: longest part that is shown, in characters.
    :param keep_lines: whether line ends and tabs stay as they are: in an app's own output.
    :return: the text.
    """
    shown = _COLOR.sub("", text[:limit])
    if keep_lines:
        shown = shown.replace("\r\n", "\n")
    if _UNSAFE.search(shown):
        shown = shown.translate(_ESCAPES_OF_OUTPUT if keep_lines else _ESCAPES)
    left = max(0, len(text) - limit) + max(0, len(shown) - limit)
    return f"{shown[:limit]}… ({left} more characters)" if left else shown


class Redactor:
    """
    Replaces secrets in what comes from outside: servers and proxies that quote a request quote its token.

    :param secrets: a token and passwords; each is also known in the forms that JSON and an address give it.
    :param logins: ``user:password`` as an HTTP proxy is told them, which quotes them in base64.
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
        """Return ``text`` without the secrets; and without colors, if those are in the middle of one."""
        if not self._pattern:
            return text
        if "\x1b" in text and self._pattern.search(plain := _COLOR.sub("", text)):
            text = plain
        return self._pattern.sub(REDACTED, text)

    def json(self, value: Any, text: str) -> Any:
        """
        Return a JSON value without the secrets in its strings; in its keys, without tokens alone.

        :param value: the value; its lists and dicts are changed.
        :param text: the JSON that it was decoded from.
        """
        if not self._pattern:
            return value
        if "\\u001b" not in text:  # a color, which may be in the middle of one
            if "\\u00" in text or "\\/" in text:  # which may hide what is plain in the value
                text = json.dumps(value, ensure_ascii=False)
            if not self._pattern.search(text):
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


#: Knows no secret.
NO_SECRETS = Redactor()
