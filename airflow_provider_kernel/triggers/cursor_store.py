"""Stores a watcher's cursor in the state store that Airflow has for each asset since version 3.3."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Any

from airflow_provider_kernel.watch.ends import Cursor

log = logging.getLogger(__name__)
#: Maximum seconds for Airflow's answer, and seconds before the next attempt.
STORE_TIMEOUT, STORE_PAUSE = 30.0, 15.0


class CursorStore:
    """
    Stores the cursor of one watcher with each of the watched assets, because any of the assets may be removed.

    :param accessors: the state stores of the assets, as the triggerer sets them on an event trigger.
    :param identity: JSON that differs between two watchers of the same asset.
    """

    def __init__(self, accessors: Any, identity: Any) -> None:
        # Airflow has no public way to all state stores of a trigger that does not know the names of its assets.
        by_name = getattr(accessors, "_by_name", None)
        self._stores = list(by_name.values()) if by_name else [accessors]
        text = json.dumps(identity, sort_keys=True)
        self._key = f"airflow-provider-kernel:finished:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._saved: dict[str, Any] | None = None

    async def load(self) -> Cursor:
        """
        Return the stored cursor; a new cursor if none is stored, or none that this version can read.

        :raises Exception: Airflow does not answer.
        """
        stored = Cursor()
        for store in self._stores:
            async with asyncio.timeout(STORE_TIMEOUT):
                state = await store.aget(self._key)
            try:
                stored.merge(Cursor.from_state(state))
            except ValueError:
                log.warning("The watcher's cursor %s is not readable. The watcher ignores it.", self._key)
        return stored

    async def load_with_retries(self) -> Cursor:
        """Return the stored cursor as :meth:`load` does; ask again until Airflow answers."""
        while True:
            try:
                return await self.load()
            except Exception as error:  # noqa: BLE001 - a new cursor would miss the ends since the last event
                log.warning(
                    "The watcher's cursor could not be read from Airflow: %s. The watcher tries again in %.0f s.",
                    type(error).__name__,
                    STORE_PAUSE,
                )
                await asyncio.sleep(STORE_PAUSE)

    async def refresh(self, cursor: Cursor) -> None:
        """Merge the stored cursor into ``cursor``; leave ``cursor`` as it is if Airflow does not answer."""
        try:
            cursor.merge(await self.load())
        except Exception as error:  # noqa: BLE001 - the watcher can go on with its own cursor
            log.warning(
                "The watcher's cursor could not be read from Airflow: %s. An end may be reported twice.",
                type(error).__name__,
            )

    async def save(self, state: dict[str, Any]) -> None:
        """Store the state of a cursor if it has changed; a failed save is made good by the next one."""
        if state == self._saved:
            return
        try:
            for store in self._stores:
                async with asyncio.timeout(STORE_TIMEOUT):
                    await store.aset(self._key, state)
        except Exception as error:  # noqa: BLE001 - an error in a shared stream ends all its watchers
            log.warning(
                "The watcher's cursor could not be stored in Airflow: %s. The watcher stores it after the next scan.",
                type(error).__name__,
            )
        else:
            self._saved = state
