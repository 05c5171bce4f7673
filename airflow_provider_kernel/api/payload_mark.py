"""
The mark of a submission: a random key, written as white space after the payload's JSON text. No I/O.

JSON text may end in white space (RFC 8259, section 2), so every JSON parser reads the same value with the mark and
without it. Kernel has no idempotency key: by the mark, the operator knows its own invocation among others.
"""

from __future__ import annotations

import secrets

#: Bits of a key, which is written as 16 hexadecimal digits.
KEY_BITS = 64
#: The bits that every mark begins with, so that other white space is not taken for a mark.
_PREFIX = "1011001110001111"
#: Length of a mark, in characters and bytes.
MARK_LENGTH = len(_PREFIX) + KEY_BITS
_WHITE_SPACE = str.maketrans("01", " \t")
_BITS = str.maketrans(" \t", "01")


def new_key() -> str:
    """Return a random key: 16 hexadecimal digits."""
    return secrets.token_hex(KEY_BITS // 8)


def add_mark(payload: str, key: str) -> str:
    """
    Return ``payload`` with a mark.

    :param payload: JSON text.
    :param key: 16 hexadecimal digits.
    """
    return payload + f"{_PREFIX}{int(key, 16):0{KEY_BITS}b}".translate(_WHITE_SPACE)


def read_mark(payload: str | None) -> str | None:
    """Return the key in the mark of ``payload``; None if it has no mark."""
    end = (payload or "")[-MARK_LENGTH:]
    is_mark = len(end) == MARK_LENGTH and not end.strip(" \t")
    bits = end.translate(_BITS) if is_mark else ""
    return f"{int(bits[len(_PREFIX) :], 2):0{KEY_BITS // 4}x}" if bits.startswith(_PREFIX) else None
