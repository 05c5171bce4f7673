"""Mouse, keyboard and screenshots of a browser on a screen of its own (Xvfb), by xdotool. As on Kernel, they are the system's."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

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
from airflow_provider_kernel.emulator.browsers.keys import Key
from airflow_provider_kernel.emulator.browsers.pages import Pages
from airflow_provider_kernel.emulator.browsers.png import is_drawn, png_of_screen

_PARTS = re.compile(r"[\0-\x7f]+|[^\0-\x7f]+")
_BUTTONS = {"left": "1", "middle": "2", "right": "3", "back": "8", "forward": "9"}


class ControlsError(Exception):
    """An action could not be carried out. The message is one sentence, without a full stop."""


#: Maximum seconds until the window of a new browser is drawn.
SETTLE_TIMEOUT = 2.0
SETTLE_INTERVAL = 0.02
#: As much of the screen as shows whether the window is drawn.
HEAD_BYTES = 2**20


class X11Controls:
    """
    The computer controls of one browser.

    :param environment: environment with the ``DISPLAY`` of its screen.
    :param screen_file: the file with the screen's picture.
    :param pages: the browser's pages.
    """

    def __init__(self, environment: dict[str, str], screen_file: Path, pages: Pages) -> None:
        self._environment = environment
        self._screen_file = screen_file
        self._pages = pages

    async def settle(self, size: Point) -> None:
        """
        Put the pointer into the browser's picture, and wait until the window is drawn.

        :param size: width and height of the browser's picture.
        """
        await self._run(*_move((size[0] // 2, size[1] // 2)))
        for _ in range(int(SETTLE_TIMEOUT / SETTLE_INTERVAL)):  # Nothing tells when the window is drawn.
            with self._screen_file.open("rb") as file:
                head = file.read(HEAD_BYTES)
            if is_drawn(head, size[0]):
                return
            await asyncio.sleep(SETTLE_INTERVAL)

    async def screenshot(self, left: int, top: int, width: int, height: int) -> bytes:
        """Return a part of the screen as PNG, with the pointer."""
        return await asyncio.to_thread(
            lambda: png_of_screen(self._screen_file.read_bytes(), left, top, width, height)
        )

    async def position(self) -> Point:
        """Return the place of the pointer."""
        values = dict(
            line.split("=") for line in (await self._run("getmouselocation", "--shell")).splitlines()
        )
        return int(values["X"]), int(values["Y"])

    async def perform(self, action: Action) -> None:
        """
        Carry out one action.

        :raises ControlsError: xdotool refused it.
        """
        held: tuple[Key, ...] = getattr(action, "hold", ())
        down = [word for key in held for word in ("keydown", key.keysym)]
        up = [word for key in reversed(held) for word in ("keyup", key.keysym)]
        try:
            await self._perform(action, down)
        finally:
            if up:
                await self._run(*up)

    async def _perform(self, action: Action, down: list[str]) -> None:
        match action:
            case ClickMouse(at, button, kind, count):
                verb = {"click": f"click --repeat {count} --delay 40", "down": "mousedown", "up": "mouseup"}
                await self._run(*down, *_move(at), *verb[kind].split(), _BUTTONS[button])
            case MoveMouse(at):
                await self._run(*down, *_move(at))
            case DragMouse(path, button, delay, step_delay):
                words = [*down, *_move(path[0]), "mousedown", _BUTTONS[button], *_sleep(delay)]
                for point in path[1:]:
                    words += [*_move(point), *_sleep(step_delay)]
                await self._run(*words, "mouseup", _BUTTONS[button])
            case Scroll(at, right, down_clicks):
                words = [*down, *_move(at)]
                for clicks, less, more in ((down_clicks, "4", "5"), (right, "6", "7")):
                    if clicks:
                        words += ["click", "--repeat", str(abs(clicks)), "--delay", "5"]
                        words.append(more if clicks > 0 else less)
                await self._run(*words)
            case TypeText(text, delay):
                for part in _PARTS.findall(text):
                    await self._type(part, delay)
            case PressKey(((key,),), _) if key.keysym.startswith("U") and not down:
                await self._type(key.text, None)
            case PressKey(combinations, duration):
                words = list(down)
                for keys in combinations:
                    names = [key.keysym for key in keys]
                    words += [word for name in names for word in ("keydown", name)]
                    words += _sleep(duration)
                    words += [word for name in reversed(names) for word in ("keyup", name)]
                await self._run(*words)
            case Sleep(duration):
                await asyncio.sleep(duration / 1000)

    async def _type(self, text: str, delay: int | None) -> None:
        """Type text that is ASCII, or has no ASCII."""
        # For other characters xdotool changes the keyboard, of which Chromium hears too late: some are lost.
        if not text.isascii() and await self._pages.have_focus():
            await self._pages.input("Input.insertText", {"text": text})
        else:
            await self._run("type", "--file", "-", *_delay(delay), text=text)

    async def _run(self, *words: str, text: str = "") -> str:
        # xdotool types a file to its end; the text must not be an argument, which every user of the machine can read.
        process = await asyncio.create_subprocess_exec(
            "xdotool",
            *words,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, error = await process.communicate(text.encode())
        except BaseException:  # The client is gone, or the emulator stops.
            process.kill()
            raise
        if process.returncode:
            raise ControlsError(f"xdotool failed: {error.decode(errors='replace').strip()[:300]}")
        return output.decode()


def _move(point: Point) -> list[str]:
    return ["mousemove", str(point[0]), str(point[1])]


def _sleep(milliseconds: int) -> list[str]:
    return ["sleep", f"{milliseconds / 1000:.3f}"] if milliseconds else []


def _delay(milliseconds: int | None) -> list[str]:
    return [] if milliseconds is None else ["--delay", str(milliseconds)]
