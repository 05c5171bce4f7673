"""What a trigger asks of Airflow synchronously gets back to the triggerer's event loop, where alone it is answered."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

import airflow_provider_kernel
from airflow_provider_kernel.hooks.connection import ask_in_thread

pytestmark = pytest.mark.no_airflow

PACKAGE = Path(airflow_provider_kernel.__file__).parent


async def test_ask_in_thread_sends_synchronous_requests_in_the_waiting_event_loop():
    async def send() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def ask(message: str) -> tuple[str, int, asyncio.AbstractEventLoop]:
        # As Airflow's TriggerCommsDecoder.send does.
        return message, threading.get_ident(), async_to_sync(send)()

    message, thread, loop = await ask_in_thread(ask, "hello")
    assert message == "hello"
    assert thread != threading.get_ident()
    assert loop is asyncio.get_running_loop()


@pytest.mark.parametrize("folder", ["hooks", "triggers"])
def test_folder_does_not_use_asyncio_to_thread(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        code = path.read_text().replace(":func:`asyncio.to_thread`", "")
        assert "asyncio.to_thread" not in code, path
        assert "run_in_executor" not in code, path
