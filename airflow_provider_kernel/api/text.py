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
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


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

    def escape(found: re.Match[str]) -> str:
        is_kept = keep_lines and found[0] in "\n\t"
        return found[0] if is_kept else found[0].encode("unicode_escape").decode()

    shown = _UNSAFE.sub(escape, shown)
    return shown if len(text) <= limit else f"{shown}… ({len(text) - limit} more characters)"


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
        forms |= {base64.b64encode(login.encode()).decode() for login in logins}
        known = sorted((form for form in forms if len(form) >= MIN_SECRET_LENGTH), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def text(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        return self._pattern.sub(REDACTED, text) if self._pattern else text

    def json(self, value: Any, text: str) -> Any:
        """
        Return a JSON value without the secrets in its strings; keys stay.

        :param value: the value; its lists and dicts are changed.
        :param text: the JSON that it was decoded from.
        """
        if not self._pattern:
            return value
        if "\\u00" in text or "\\/" in text:  # which may hide what is plain in the value
            text = json.dumps(value, ensure_ascii=False)
        if not self._pattern.search(text):
            return value
        top = [value]
        remaining: list[list[Any] | dict[Any, Any]] = [top]
        while remaining:
            container = remaining.pop()
            items = enumerate(container) if isinstance(container, list) else container.items()
            for key, item in list(items):
                if isinstance(item, str):
                    container[key] = self.text(item)
                elif isinstance(item, (list, dict)):
                    remaining.append(item)
        return top[0]


#: Knows no secret.
NO_SECRETS = Redactor()
