"""The emulator's own endpoints, below ``/_emulator``: faults, and settings that can be changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_provider_kernel.emulator.account import REFUSALS
from airflow_provider_kernel.emulator.contract import bad_request, not_found, read_object
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.faults import FaultList, read_fault
from airflow_provider_kernel.emulator.http_messages import json_response, read_body

_PREFIX = "/_emulator/"


def is_control(path: str) -> bool:
    """Return whether a path is one of the emulator's own, which has no faults and is not refused by ``--refuse``."""
    return path.startswith(_PREFIX)


class Settings:
    """
    The settings that can be changed.

    :param engine: has the limit of active invocations.
    :param refuse: a choice of :data:`~airflow_provider_kernel.emulator.account.REFUSALS`; None: no request is refused.
    """

    def __init__(self, engine: Engine, refuse: str | None) -> None:
        self._engine = engine
        self.refuse = refuse

    def as_json(self) -> dict[str, Any]:
        """Return all settings."""
        return {"max_concurrency": self._engine.max_concurrency, "refuse": self.refuse}

    def change(self, wanted: Mapping[str, Any]) -> None:
        """
        Change the settings that are named.

        :raises ApiError: 400: a name or a value is wrong. No setting is changed.
        """
        values = self.as_json()
        if unknown := [name for name in wanted if name not in values]:
            raise bad_request(f"There is no setting {unknown[0]!r}; there are {', '.join(values)}")
        values |= wanted
        limit, refuse = values["max_concurrency"], values["refuse"]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise bad_request("max_concurrency must be a positive whole number, or null for no limit")
        if refuse is not None and (not isinstance(refuse, str) or refuse not in REFUSALS):
            raise bad_request(f"refuse must be one of {', '.join(REFUSALS)}, or null")
        self._engine.max_concurrency, self.refuse = limit, refuse


def control_routes(faults: FaultList, settings: Settings) -> list[Route]:
    """Return the routes that list and change the faults and the settings."""

    async def add_fault(request: Request) -> Response:
        try:
            fault = read_fault(read_object(await read_body(request)))
        except ValueError as error:
            raise bad_request(str(error)) from None
        return json_response(faults.add(fault), 201)

    async def list_faults(request: Request) -> Response:
        return json_response({"faults": faults.as_json()})

    async def remove_fault(request: Request) -> Response:
        fault_id = request.path_params["id"]
        try:
            faults.remove(fault_id)
        except KeyError:
            raise not_found(f"Fault not found: {fault_id}") from None
        return Response(status_code=204)

    async def remove_faults(request: Request) -> Response:
        faults.clear()
        return Response(status_code=204)

    async def retrieve_settings(request: Request) -> Response:
        return json_response(settings.as_json())

    async def change_settings(request: Request) -> Response:
        settings.change(read_object(await read_body(request)))
        return json_response(settings.as_json())

    return [
        Route(f"{_PREFIX}faults", add_fault, methods=["POST"]),
        Route(f"{_PREFIX}faults", list_faults, methods=["GET"]),
        Route(f"{_PREFIX}faults", remove_faults, methods=["DELETE"]),
        Route(f"{_PREFIX}faults/{{id}}", remove_fault, methods=["DELETE"]),
        Route(f"{_PREFIX}settings", retrieve_settings, methods=["GET"]),
        Route(f"{_PREFIX}settings", change_settings, methods=["PATCH"]),
    ]
