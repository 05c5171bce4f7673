"""Bodies of requests and responses, as all endpoints read and write them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from airflow_provider_kernel.emulator.contract import MAX_BODY_BYTES, bad_request

#: Bytes of a piece of a response that is sent in pieces.
PIECE_SIZE = 65_536


def encode_json(value: Any) -> bytes:
    """Return JSON as UTF-8. Half of a surrogate pair, which UTF-8 cannot hold, becomes ``?``."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def url_of(request: Request) -> str:
    """Return the emulator's URL, as the client that sent the request knows it."""
    return str(request.base_url).rstrip("/")


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """
    Return a request's body.

    :param limit: maximum bytes.
    :raises ApiError: 400: it is larger.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise bad_request("The body is too large")
    return bytes(body)


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with JSON."""
    return Response(encode_json(data), status, headers, "application/json")


def json_list_response(items: Iterable[Any], headers: Mapping[str, str]) -> Response:
    """Return a response with a JSON array. Large items are written one after the other, and others are served meanwhile."""

    async def pieces() -> AsyncIterator[bytes]:
        piece = bytearray(b"[")
        for number, item in enumerate(items):
            piece += b", " * (number > 0) + encode_json(item)
            if len(piece) >= PIECE_SIZE:
                yield bytes(piece)
                piece.clear()
                await asyncio.sleep(0)  # Sending does not wait while the socket's buffer has room.
        yield bytes(piece + b"]")

    return StreamingResponse(pieces(), headers=headers, media_type="application/json")


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with Kernel's error body. The SDKs do not repeat what the emulator does not serve."""
    if status == 501:
        headers = {"x-should-retry": "false", **(headers or {})}
    return json_response({"code": code, "message": message}, status, headers)
