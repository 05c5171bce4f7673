"""Exponential backoff. No I/O."""

from __future__ import annotations


def exponential(failures: int, maximum: float, *, initial: float = 1.0) -> float:
    """
    Return the pause after consecutive failures: ``initial``, then twice as much each time.

    :param failures: the number of consecutive failures, from 1.
    :param maximum: the longest pause in seconds.
    :param initial: the pause in seconds after the first failure. Default 1.
    """
    return min(maximum, initial * 2.0 ** min(failures - 1, 30))


def with_jitter(seconds: float, jitter: float) -> float:
    """Return between half of ``seconds`` and all of it; ``jitter`` is a number from 0 to 1."""
    return seconds * (0.5 + jitter / 2)
