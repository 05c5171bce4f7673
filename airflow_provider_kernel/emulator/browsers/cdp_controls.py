"""
Mouse, keyboard and screenshots of a browser without a screen of its own, by the DevTools Protocol.

The protocol reaches the page and not the window around it. So what agents do in that window is translated: Ctrl+L, an
address and Return; Alt+Left and Alt+Right; F5 and Ctrl+R; Ctrl+T and Ctrl+W.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Sequence
from typing import Any

from airflow_provider_kernel.emulator.browsers.cdp import CdpConnection, CdpError
from airflow_provider_kernel.emulator.browsers.clipboard import Clipboard
from airflow_provider_kernel.emulator.browsers.computer_contract import (
    Action,
    ClickMouse,
    DragMouse,
    MoveMouse,
    Point,
    PressKey,
    Scroll,
    Sleep,
    TypeText,
)
from airflow_provider_kernel.emulator.browsers.keys import MODIFIERS, Key, character_key
from airflow_provider_kernel.emulator.browsers.pages import Pages

#: Pixels that one click of the wheel scrolls, as in Chromium on Linux.
WHEEL_PIXELS = 120
#: The bits of ``buttons`` in the DevTools Protocol.
_BUTTONS = {"left": 1, "right": 2, "middle": 4, "back": 8, "forward": 16}
#: Commands of the editor that keyboards give, by the combination's keys.
_EDITING = {"a": "selectAll", "c": "copy", "v": "paste", "x": "cut", "z": "undo", "y": "redo"}


class CdpControls:
    """
    The computer controls of one browser.

    :param cdp: the emulator's connection to the browser.
    :param pages: its pages.
    :param clipboard: its clipboard.
    """

    def __init__(self, cdp: CdpConnection, pages: Pages, clipboard: Clipboard) -> None:
        self._cdp = cdp
        self._pages = pages
        self._clipboard = clipboard
        self._at: Point = (0, 0)
        self._pressed: dict[str, int] = {}
        #: What is in the address bar while it has the focus; None: the page has the focus.
        self._address: str | None = None

    async def screenshot(self, left: int, top: int, width: int, height: int) -> bytes:
        """Return a part of the page as PNG. It has no pointer."""
        # A part is cut out of the document, of which the picture shows what is scrolled to.
        view = (await self._pages.call_again("Page.getLayoutMetrics"))["cssVisualViewport"]
        clip = {
            "x": left + view["pageX"],
            "y": top + view["pageY"],
            "width": width,
            "height": height,
            "scale": 1,
        }
        params = {"format": "png", "clip": clip, "optimizeForSpeed": True}
        return base64.b64decode((await self._pages.call_again("Page.captureScreenshot", params))["data"])

    async def position(self) -> Point:
        """Return the place of the pointer."""
        return self._at

    async def perform(self, action: Action) -> None:
        """
        Carry out one action.

        :raises CdpError: the browser refused it.
        """
        held: Sequence[Key] = getattr(action, "hold", ())
        if isinstance(action, PressKey):
            for combination in action.combinations:
                await self._press([*held, *combination], action.duration)
            return
        modifiers = _modifiers(held)
        match action:
            case ClickMouse(at, button, kind, count):
                await self._click(at, button, kind, count, modifiers)
            case MoveMouse(at):
                await self._mouse("mouseMoved", at, modifiers)
            case DragMouse(path, button, delay, step_delay):
                await self._mouse("mouseMoved", path[0], modifiers)
                await self._mouse("mousePressed", path[0], modifiers, button, 1)
                await asyncio.sleep(delay / 1000)
                for point in path[1:]:
                    await self._mouse("mouseMoved", point, modifiers)
                    await asyncio.sleep(step_delay / 1000)
                await self._mouse("mouseReleased", path[-1], modifiers, button, 1)
            case Scroll(at, right, down):
                await self._mouse("mouseMoved", at, modifiers)
                await self._mouse(
                    "mouseWheel", at, modifiers, deltaX=right * WHEEL_PIXELS, deltaY=down * WHEEL_PIXELS
                )
            case TypeText(text, delay):
                await self._type(text, delay or 0)
            case Sleep(duration):
                await asyncio.sleep(duration / 1000)

    async def _click(self, at: Point, button: str, kind: str, count: int, modifiers: int) -> None:
        self._address = None
        if button in ("back", "forward"):
            if kind != "down":
                await self._go(-1 if button == "back" else 1)
            return
        await self._mouse("mouseMoved", at, modifiers)
        for number in range(1, count + 1):
            if kind != "up":
                await self._mouse("mousePressed", at, modifiers, button, number)
            if kind != "down":
                await self._mouse("mouseReleased", at, modifiers, button, number)

    async def _mouse(
        self, kind: str, at: Point, modifiers: int, button: str | None = None, clicks: int = 0, **more: Any
    ) -> None:
        self._at = at
        if button is not None and kind == "mousePressed":
            self._pressed[button] = _BUTTONS[button]
        elif button is not None and kind == "mouseReleased":
            self._pressed.pop(button, None)
        params = {"type": kind, "x": at[0], "y": at[1], "modifiers": modifiers, "clickCount": clicks, **more}
        params["buttons"] = sum(self._pressed.values())
        params["button"] = button or next(iter(self._pressed), "none")
        await self._pages.input("Input.dispatchMouseEvent", params)

    async def _type(self, text: str, delay: int) -> None:
        for character in text:
            await self._press([character_key(character)], 0)
            if delay:
                await asyncio.sleep(delay / 1000)

    async def _press(self, keys: Sequence[Key], duration: int) -> None:
        """Press keys together: all go down, the last first up."""
        if await self._is_for_the_window(keys):
            return
        for number, key in enumerate(keys, 1):
            await self._key("keyDown", key, keys[:number])
        await asyncio.sleep(duration / 1000)
        for number in range(len(keys), 0, -1):
            with contextlib.suppress(CdpError):  # The key may have closed the page.
                await self._key("keyUp", keys[number - 1], keys[: number - 1])

    async def _key(self, kind: str, key: Key, pressed: Sequence[Key]) -> None:
        modifiers = _modifiers(pressed)
        is_shortcut = modifiers & (MODIFIERS["Control"] | MODIFIERS["Alt"] | MODIFIERS["Meta"])
        is_shifted = modifiers & MODIFIERS["Shift"] and len(key.key) == 1
        value = key.key.upper() if is_shifted else key.key
        params: dict[str, Any] = {"type": kind, "modifiers": modifiers, "key": value}
        params |= {"code": key.code, "windowsVirtualKeyCode": key.number}
        if kind == "keyDown":
            if key.text and not is_shortcut:
                params["text"] = value if len(key.key) == 1 else key.text
            else:
                params["type"] = "rawKeyDown"
            if modifiers & MODIFIERS["Control"] and key.key.lower() in _EDITING:
                params["commands"] = [_EDITING[key.key.lower()]]
        await self._pages.input("Input.dispatchKeyEvent", params)

    async def _is_for_the_window(self, keys: Sequence[Key]) -> bool:
        """Do what the keys mean in the window around the page; return False if they are for the page."""
        last = keys[-1].key
        modifiers = _modifiers(keys[:-1])
        control, alt = modifiers == MODIFIERS["Control"], modifiers == MODIFIERS["Alt"]
        if (
            (control and last.lower() == "l")
            or (alt and last.lower() == "d")
            or (not modifiers and last == "F6")
        ):
            self._address = ""
        elif alt and last in ("ArrowLeft", "ArrowRight"):
            await self._go(-1 if last == "ArrowLeft" else 1)
        elif last in ("BrowserBack", "BrowserForward"):
            await self._go(-1 if last == "BrowserBack" else 1)
        elif last in ("F5", "BrowserRefresh") or (control and last.lower() == "r"):
            await self._pages.call("Page.reload")
        elif control and last.lower() == "t":
            await self._cdp.call("Target.createTarget", {"url": "about:blank"})
            self._address = ""
        elif control and last.lower() == "w":
            await self._cdp.call("Target.closeTarget", {"targetId": await self._pages.active()})
        elif self._address is None:
            return False
        else:
            await self._edit_address(last, control)
        return True

    async def _edit_address(self, key: str, control: bool) -> None:
        assert self._address is not None  # noqa: S101 - checked by the caller
        if key == "Enter":
            url, self._address = self._address.strip(), None
            if url:
                has_scheme = "://" in url or url.startswith(("about:", "data:", "chrome:"))
                await self._pages.call("Page.navigate", {"url": url if has_scheme else f"http://{url}"})
        elif key == "Escape":
            self._address = None
        elif control and key.lower() == "c":
            history = await self._pages.call("Page.getNavigationHistory")
            await self._clipboard.write(history["entries"][history["currentIndex"]]["url"])
        elif control and key.lower() == "a":
            self._address = ""  # What is typed next replaces the selection.
        elif key == "Backspace":
            self._address = self._address[:-1]
        elif len(key) == 1 and not control:
            self._address += key

    async def _go(self, steps: int) -> None:
        history = await self._pages.call("Page.getNavigationHistory")
        index = history["currentIndex"] + steps
        if 0 <= index < len(history["entries"]):
            entry = {"entryId": history["entries"][index]["id"]}
            await self._pages.call("Page.navigateToHistoryEntry", entry)


def _modifiers(keys: Sequence[Key]) -> int:
    return sum({MODIFIERS.get(key.key, 0) for key in keys})
