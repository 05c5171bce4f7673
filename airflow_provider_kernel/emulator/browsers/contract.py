"""
The contract of ``/browsers``: request bodies. Pure; no I/O.

Choices where Kernel's behaviour is unknown: an unknown field is ignored; a name must be unique among the open browsers
and may not look like another browser's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_kernel.emulator.contract import bad_request, not_served, read_object

#: The viewport of a browser that names none, as on Kernel: width and height.
DEFAULT_VIEWPORT = (1920, 1080)
#: Maximum width and height of a viewport. Kernel accepts any; the picture of a larger one costs a lot of memory.
MAX_VIEWPORT = 7680
#: Seconds of inactivity after which a browser is closed: default, minimum and maximum, as on Kernel.
DEFAULT_TIMEOUT, MIN_TIMEOUT, MAX_TIMEOUT = 60, 10, 259_200

#: Fields of ``POST /browsers`` that the emulator accepts without effect.
WITHOUT_EFFECT = ("stealth", "location", "memory", "region", "telemetry")
#: Fields that change what the browser may do or reach. The emulator does not serve them, and refuses them.
NOT_SERVED = (
    "chrome_policy",
    "extensions",
    "gpu",
    "network",
    "proxy",
    "proxy_id",
    "vaults",
    "video_memory",
)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
_TAG_NAME, _TAG_VALUE = re.compile(r"[A-Za-z0-9 _.:/=+@-]{1,128}"), re.compile(r"[A-Za-z0-9 _.:/=+@-]{0,256}")


@dataclass(frozen=True)
class ProfileSelection:
    """The profile of a browser: its name, and whether the browser's changes are saved to it."""

    name: str
    save_changes: bool


@dataclass(frozen=True)
class CreateBrowser:
    """
    The valid body of a ``POST /browsers``.

    :param viewport: width and height in pixels.
    :param timeout: seconds of inactivity after which the browser is closed.
    :param ignored: the fields of :data:`WITHOUT_EFFECT` that the request sets.
    """

    invocation_id: str | None = None
    name: str | None = None
    headless: bool = False
    kiosk_mode: bool = False
    stealth: bool = False
    viewport: tuple[int, int] = DEFAULT_VIEWPORT
    timeout: int = DEFAULT_TIMEOUT
    start_url: str | None = None
    profile: ProfileSelection | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class UpdateBrowser:
    """
    The valid body of a ``PATCH /browsers/{id}``. None leaves a value as it is; an empty name clears the name.

    :param forces_viewport: whether the viewport changes although somebody watches or records.
    """

    name: str | None
    tags: Mapping[str, str] | None
    viewport: tuple[int, int] | None
    start_url: str | None
    timeout: int | None
    forces_viewport: bool


def read_create(body: bytes) -> CreateBrowser:
    """
    Return the body of ``POST /browsers``.

    :raises ApiError: 400: the body is not valid; 501: a field asks for what the emulator does not serve.
    """
    data = {name: value for name, value in (read_object(body) if body else {}).items() if value is not None}
    _refuse_what_is_not_served(data)
    if data.get("name") == "":
        raise bad_request("name must not be empty: leave it out")
    return CreateBrowser(
        invocation_id=_text(data, "invocation_id"),
        name=_name(data),
        headless=_flag(data, "headless"),
        kiosk_mode=_flag(data, "kiosk_mode"),
        stealth=_flag(data, "stealth"),
        viewport=_viewport(data) or DEFAULT_VIEWPORT,
        timeout=_timeout(data) or DEFAULT_TIMEOUT,
        start_url=_url(data),
        profile=_profile(data),
        tags=_tags(data) or {},
        ignored=tuple(name for name in WITHOUT_EFFECT if data.get(name)),
    )


def read_update(body: bytes) -> UpdateBrowser:
    """
    Return the body of ``PATCH /browsers/{id}``.

    :raises ApiError: 400: the body is not valid; 501: a field asks for what the emulator does not serve.
    """
    data = {name: value for name, value in read_object(body).items() if value is not None}
    _refuse_what_is_not_served(data)
    if "profile" in data:
        raise not_served("a profile for a browser that runs already: name it in browsers.create")
    viewport = _viewport(data)
    is_forced = viewport is not None and _flag(data["viewport"], "force")
    return UpdateBrowser(_name(data), _tags(data), viewport, _url(data), _timeout(data), is_forced)


def _refuse_what_is_not_served(data: Mapping[str, Any]) -> None:
    for name in NOT_SERVED:
        if data.get(name):
            raise not_served(f"the field {name} of a browser")


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a string")
    return value or None


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise bad_request(f"{name} must be a boolean")
    return value


def _name(data: Mapping[str, Any]) -> str | None:
    name = data.get("name")
    if name not in (None, "") and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise bad_request("name must have 1 to 255 letters, digits, dots, underscores or hyphens")
    return name


def _timeout(data: Mapping[str, Any]) -> int | None:
    value = data.get("timeout_seconds")
    if value is not None and not is_integer(value, MIN_TIMEOUT, MAX_TIMEOUT):
        raise bad_request(f"timeout_seconds must be an integer from {MIN_TIMEOUT} to {MAX_TIMEOUT}")
    return value


def _viewport(data: Mapping[str, Any]) -> tuple[int, int] | None:
    value = data.get("viewport")
    if value is None:
        return None
    if not isinstance(value, dict) or not all(
        is_integer(value.get(name), 1, MAX_VIEWPORT) for name in ("width", "height")
    ):
        raise bad_request(f"viewport must have width and height, integers from 1 to {MAX_VIEWPORT}")
    if not is_integer(value.get("refresh_rate", 1), 1, 10**9):
        raise bad_request("viewport.refresh_rate must be a positive integer")
    return value["width"], value["height"]


def _url(data: Mapping[str, Any]) -> str | None:
    url = _text(data, "start_url")
    if url is not None:
        try:
            scheme = urlsplit(url).scheme
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https", "about", "data", "chrome"):
            raise bad_request("start_url must be a URL with a scheme, such as https://example.com")
    return url


def _profile(data: Mapping[str, Any]) -> ProfileSelection | None:
    value = data.get("profile")
    if value is None:
        return None
    # Kernel's profiles have an id and a name; the emulator's have their name as the id.
    name = value.get("name") or value.get("id") if isinstance(value, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.strip(".") == "":
        raise bad_request(
            "profile must have a name of 1 to 255 letters, digits, dots, underscores or hyphens"
        )
    return ProfileSelection(name, _flag(value, "save_changes"))


def _tags(data: Mapping[str, Any]) -> Mapping[str, str] | None:
    tags = data.get("tags")
    if tags is None:
        return None
    if not isinstance(tags, dict) or len(tags) > 50 or not all(isinstance(it, str) for it in tags.values()):
        raise bad_request("tags must be an object of up to 50 strings")
    if not (all(map(_TAG_NAME.fullmatch, tags)) and all(map(_TAG_VALUE.fullmatch, tags.values()))):
        raise bad_request(
            "tags must have names of 1 to 128 and values of up to 256 letters, digits, spaces or any of _.:/=+@-"
        )
    return tags


def check_viewport(viewport: tuple[int, int], largest: tuple[int, int]) -> None:
    """
    Check that a new viewport fits on a browser's screen.

    :raises ApiError: 400: it does not.
    """
    if viewport[0] > largest[0] or viewport[1] > largest[1]:
        width, height = largest
        raise bad_request(
            f"The screen of this browser has {width}x{height}; create a browser with the larger viewport"
        )


def is_integer(value: object, low: int, high: int) -> bool:
    """Return whether a JSON value is an integer in this range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
