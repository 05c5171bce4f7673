"""Replays: the screencast of a browser as a video, made by ffmpeg."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_kernel.api.timestamps import format_timestamp
from airflow_provider_kernel.emulator.browsers.chromium import end_process, spawn
from airflow_provider_kernel.emulator.browsers.contract import is_integer
from airflow_provider_kernel.emulator.browsers.screencast import Screencast
from airflow_provider_kernel.emulator.contract import ApiError, bad_request, not_served, read_object

#: Pictures in a second, unless the request names a number; Kernel's maximum without a GPU is 20.
DEFAULT_FRAMERATE, MAX_FRAMERATE = 10, 20
#: Maximum seconds in which ffmpeg must finish the video.
FINISH_TIMEOUT = 30.0
#: Maximum seconds for the first picture of a recording that is stopped before it.
FIRST_PICTURE_TIMEOUT = 15.0


@dataclass(frozen=True)
class StartReplay:
    """The valid body of ``POST /browsers/{id}/replays``. ``max_duration`` is in seconds; None: no limit."""

    framerate: int
    max_duration: int | None


def read_start_replay(body: bytes) -> StartReplay:
    """
    Return the body of ``POST /browsers/{id}/replays``.

    :raises ApiError: 400: the body is not valid; 501: it asks for audio.
    """
    data = read_object(body) if body else {}
    framerate = data.get("framerate", DEFAULT_FRAMERATE)
    if not is_integer(framerate, 1, MAX_FRAMERATE):
        raise bad_request(f"framerate must be an integer from 1 to {MAX_FRAMERATE}")
    duration = data.get("max_duration_in_seconds")
    if duration is not None and not is_integer(duration, 1, 86_400):
        raise bad_request("max_duration_in_seconds must be an integer from 1 to 86400")
    if data.get("record_audio"):
        raise not_served("replays with audio")
    return StartReplay(framerate, duration)


class Replay:
    """
    One recording.

    :param file: the video, once the recording is finished.
    """

    def __init__(self, replay_id: str, file: Path) -> None:
        self.id = replay_id
        self.file = file
        self.secret = secrets.token_urlsafe(24)
        self._started = time.time_ns()
        self._finished: int | None = None
        self._stop = asyncio.Event()
        self._keeps = True
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, replay_id: str, file: Path, screencast: Screencast, size: tuple[int, int], request: StartReplay
    ) -> Replay:
        """
        Start a recording.

        :param file: the file to write the video to.
        :param screencast: the browser's pictures.
        :param size: width and height of the video.
        :raises ApiError: 501: ffmpeg is not installed.
        """
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None:
            raise not_served("replays without ffmpeg: install it (on Debian: apt-get install ffmpeg)")
        width, height = (max(2, side // 2 * 2) for side in size)  # The encoder needs even numbers.
        fit = f"scale={width}:{height}:force_original_aspect_ratio=decrease,pad={width}:{height}:-1:-1"
        process = await spawn(
            *(ffmpeg, "-loglevel", "error", "-f", "image2pipe", "-c:v", "mjpeg"),
            *("-use_wallclock_as_timestamps", "1", "-i", "-", "-fps_mode", "vfr", "-vf", fit),
            *("-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(file)),
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        replay = cls(replay_id, file)
        replay._task = asyncio.create_task(replay._record(process, screencast, request))
        return replay

    @property
    def is_finished(self) -> bool:
        """Whether the video is complete."""
        return self._finished is not None

    def as_json(self, url: str) -> dict[str, Any]:
        """
        Return the replay as the API describes it.

        :param url: the emulator's URL.
        """
        data = {
            "replay_id": self.id,
            "started_at": format_timestamp(self._started),
            "finished_at": format_timestamp(self._finished) if self._finished else None,
            "replay_view_url": f"{url}/replays/{self.id}.mp4?secret={self.secret}",
        }
        return {name: value for name, value in data.items() if value is not None}

    async def stop(self, *, keep: bool = True) -> None:
        """
        End the recording.

        :param keep: True returns when the video is complete; False ends ffmpeg at once, and the video is of no use.
        """
        self._keeps = keep
        self._stop.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _record(
        self, process: asyncio.subprocess.Process, screencast: Screencast, request: StartReplay
    ) -> None:
        loop = asyncio.get_running_loop()
        first = asyncio.Event()
        feeding = asyncio.create_task(_feed(process, screencast, 1 / request.framerate, first))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(
                {feeding, stopping}, timeout=request.max_duration, return_when=asyncio.FIRST_COMPLETED
            )
            if self._keeps and not feeding.done():  # A video has one picture at least.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(first.wait(), FIRST_PICTURE_TIMEOUT)
        finally:
            for task in (feeding, stopping):
                task.cancel()
            deadline = loop.time() + (FINISH_TIMEOUT if self._keeps else 0.0)
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await feeding
            assert process.stdin is not None  # noqa: S101 - a pipe
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), deadline - loop.time())
            except TimeoutError:
                await end_process(process)
            self._finished = time.time_ns()


async def _feed(
    process: asyncio.subprocess.Process, screencast: Screencast, interval: float, first: asyncio.Event
) -> None:
    """Write pictures to ffmpeg: those that change, one each second at least, and the last one twice, which ends the video."""
    assert process.stdin is not None  # noqa: S101 - a pipe
    last = b""
    try:
        async for frame in screencast.frames(least=1.0):
            last = frame.jpeg
            process.stdin.write(last)
            await process.stdin.drain()
            first.set()
            await asyncio.sleep(interval)
    finally:
        process.stdin.write(last)


def replay_file(replay: Replay) -> Path:
    """
    Return the video of a replay.

    :raises ApiError: 409: it is being recorded; 500: ffmpeg made no video.
    """
    if not replay.is_finished:
        raise ApiError(409, "conflict", "The replay is being recorded: stop it first")
    if not replay.file.exists():
        raise ApiError(
            500, "internal_error", "The replay has no video: ffmpeg failed, or the browser had no picture"
        )
    return replay.file


def replay_not_found(replay_id: str) -> ApiError:
    """Return the error for an unknown replay."""
    return ApiError(404, "not_found", f"Replay not found: {replay_id}")
