"""
The contract of ``/browsers/{id}/computer``: actions of mouse and keyboard. Pure; no I/O.

Choices where Kernel's behaviour is unknown: coordinates outside the picture are refused; ``smooth`` movements are
straight; a drag has 10 steps for each segment, 10 milliseconds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from airflow_provider_kernel.emulator.browsers.contract import is_integer
from airflow_provider_kernel.emulator.browsers.keys import Key, parse_combination
from airflow_provider_kernel.emulator.contract import ApiError, bad_request, read_object

#: Maximum milliseconds of one pause, and maximum number of one action's repetitions.
MAX_PAUSE, MAX_REPEAT = 60_000, 1_000
_BUTTONS = ("left", "right", "middle", "back", "forward")

Point: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class ClickMouse:
    """``kind`` is ``click``, ``down`` or ``up``."""

    at: Point
    button: str
    kind: str
    count: int
    hold: tuple[Key, ...]


@dataclass(frozen=True)
class MoveMouse:
    """Move the pointer."""

    at: Point
    hold: tuple[Key, ...]


@dataclass(frozen=True)
class DragMouse:
    """``path`` has all points of the way. ``delay`` and ``step_delay`` are in milliseconds."""

    path: tuple[Point, ...]
    button: str
    delay: int
    step_delay: int
    hold: tuple[Key, ...]


@dataclass(frozen=True)
class Scroll:
    """``right`` and ``down`` are numbers of wheel clicks; a negative number turns the wheel the other way."""

    at: Point
    right: int
    down: int
    hold: tuple[Key, ...]


@dataclass(frozen=True)
class TypeText:
    """``delay`` is the time between two characters in milliseconds; None: the default of the controls."""

    text: str
    delay: int | None


@dataclass(frozen=True)
class PressKey:
    """``combinations`` are pressed one after the other. ``duration`` is in milliseconds; 0: a tap."""

    combinations: tuple[tuple[Key, ...], ...]
    duration: int
    hold: tuple[Key, ...]


@dataclass(frozen=True)
class SetCursor:
    """Show or hide the pointer. Without effect."""

    hidden: bool


@dataclass(frozen=True)
class Sleep:
    """Do nothing for ``duration`` milliseconds."""

    duration: int


Action: TypeAlias = ClickMouse | MoveMouse | DragMouse | Scroll | TypeText | PressKey | SetCursor | Sleep


def read_action(kind: str, body: bytes, size: Point) -> Action:
    """
    Return the action of ``POST /browsers/{id}/computer/...``.

    :param kind: the action's type, as in a batch: ``click_mouse``, ``type_text`` and so on.
    :param size: width and height of the browser's picture.
    :raises ApiError: 400: the body is not valid.
    """
    return _READERS[kind](read_object(body), size)


def read_batch(body: bytes, size: Point) -> list[Action]:
    """
    Return the actions of ``POST /browsers/{id}/computer/batch``.

    :param size: width and height of the browser's picture.
    :raises ApiError: 400: the body, or one of the actions, is not valid. The message has the action's number.
    """
    actions = read_object(body).get("actions")
    if not isinstance(actions, list) or not actions:
        raise bad_request("actions must be a list with at least one action")
    read: list[Action] = []
    for number, action in enumerate(actions):
        kind = action.get("type") if isinstance(action, dict) else None
        if not isinstance(kind, str) or kind not in _READERS or not isinstance(action.get(kind), dict):
            known = ", ".join(_READERS)
            raise bad_request(f"actions[{number}] must have a type ({known}), and a field of that name")
        try:
            read.append(_READERS[kind](action[kind], size))
        except ApiError as error:
            raise bad_request(f"actions[{number}]: {error.message}") from None
    return read


def read_region(body: bytes, size: Point) -> tuple[int, int, int, int]:
    """
    Return the region of a screenshot: left, top, width, height. Without a region it is the whole picture.

    :param size: width and height of the browser's picture.
    :raises ApiError: 400: the region is not within the picture.
    """
    region = read_object(body).get("region") if body else None
    if region is None:
        return 0, 0, *size
    left, top, width, height = (
        _integer(region if isinstance(region, dict) else {}, name, None, low, max(size))
        for name, low in (("x", 0), ("y", 0), ("width", 1), ("height", 1))
    )
    if left + width > size[0] or top + height > size[1]:
        raise bad_request(f"region must be within the picture of {size[0]}x{size[1]}")
    return left, top, width, height


def _click(data: Mapping[str, Any], size: Point) -> Action:
    return ClickMouse(
        _point(data, size),
        _choice(data, "button", _BUTTONS),
        _choice(data, "click_type", ("click", "down", "up")),
        _integer(data, "num_clicks", 1, 1, 10),
        _held(data),
    )


def _move(data: Mapping[str, Any], size: Point) -> Action:
    return MoveMouse(_point(data, size), _held(data))


def _drag(data: Mapping[str, Any], size: Point) -> Action:
    path = data.get("path")
    if not isinstance(path, list) or len(path) < 2:
        raise bad_request("path must be a list of at least 2 points")
    points = []
    for point in path:
        if not isinstance(point, list) or len(point) != 2:
            raise bad_request("each point of path must be a list [x, y]")
        points.append(_point({"x": point[0], "y": point[1]}, size))
    steps = _integer(data, "steps_per_segment", 10, 1, MAX_REPEAT)
    pause = _integer(data, "step_delay_ms", 10, 0, MAX_PAUSE)
    if data.get("smooth") is True and "duration_ms" in data:
        duration = _integer(data, "duration_ms", 0, 0, MAX_PAUSE)
        pause = duration // (steps * (len(points) - 1))
    way = [points[0]]
    for start, end in pairwise(points):
        way += [
            (
                start[0] + (end[0] - start[0]) * step // steps,
                start[1] + (end[1] - start[1]) * step // steps,
            )
            for step in range(1, steps + 1)
        ]
    button = _choice(data, "button", ("left", "middle", "right"))
    return DragMouse(tuple(way), button, _integer(data, "delay", 0, 0, MAX_PAUSE), pause, _held(data))


def _scroll(data: Mapping[str, Any], size: Point) -> Action:
    right, down = (
        _integer(data, name, 0, -MAX_REPEAT * 100, MAX_REPEAT * 100) for name in ("delta_x", "delta_y")
    )
    # Models that count pixels ask for thousands of clicks; no page is that long.
    right, down = (max(-MAX_REPEAT, min(MAX_REPEAT, clicks)) for clicks in (right, down))
    return Scroll(_point(data, size), right, down, _held(data))


def _type(data: Mapping[str, Any], size: Point) -> Action:
    return TypeText(
        _string(data, "text"), _integer(data, "delay", 0, 0, MAX_PAUSE) if "delay" in data else None
    )


def _press(data: Mapping[str, Any], size: Point) -> Action:
    keys = data.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
        raise bad_request("keys must be a list of key names")
    try:
        combinations = tuple(tuple(parse_combination(key)) for key in keys)
    except ValueError as error:
        raise bad_request(str(error)) from None
    return PressKey(combinations, _integer(data, "duration", 0, 0, MAX_PAUSE), _held(data))


def _cursor(data: Mapping[str, Any], size: Point) -> Action:
    if not isinstance(data.get("hidden"), bool):
        raise bad_request("hidden must be a boolean")
    return SetCursor(data["hidden"])


def _sleep(data: Mapping[str, Any], size: Point) -> Action:
    return Sleep(_integer(data, "duration_ms", None, 0, MAX_PAUSE))


_READERS: dict[str, Callable[[Mapping[str, Any], Point], Action]] = {
    "click_mouse": _click,
    "move_mouse": _move,
    "drag_mouse": _drag,
    "scroll": _scroll,
    "type_text": _type,
    "press_key": _press,
    "set_cursor": _cursor,
    "sleep": _sleep,
}


def read_clipboard_text(body: bytes) -> str:
    """
    Return the text of ``POST /browsers/{id}/computer/clipboard/write``.

    :raises ApiError: 400: the body is not valid.
    """
    return _string(read_object(body), "text")


def _point(data: Mapping[str, Any], size: Point) -> Point:
    for name, limit in (("x", size[0]), ("y", size[1])):
        if not is_integer(data.get(name), 0, limit - 1):
            raise bad_request(
                f"{name} must be an integer from 0 to {limit - 1}: the picture is {size[0]}x{size[1]}"
            )
    return data["x"], data["y"]


def _held(data: Mapping[str, Any]) -> tuple[Key, ...]:
    names = data.get("hold_keys") or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise bad_request("hold_keys must be a list of key names")
    try:
        return tuple(key for name in names for key in parse_combination(name))
    except ValueError as error:
        raise bad_request(f"hold_keys: {error}") from None


def _choice(data: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    value = data.get(name, choices[0])
    if value not in choices:
        raise bad_request(f"{name} must be one of {', '.join(choices)}")
    return str(value)


def _integer(data: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    value = data.get(name, default)
    if not is_integer(value, low, high):
        raise bad_request(f"{name} must be an integer from {low} to {high}")
    return int(value)


def _string(data: Mapping[str, Any], name: str) -> str:
    if not isinstance(data.get(name), str):
        raise bad_request(f"{name} must be a string")
    return str(data[name])
