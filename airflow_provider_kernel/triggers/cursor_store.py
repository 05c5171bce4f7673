"""Where a watcher keeps its cursor: the store that Airflow, from 3.3 on, has for each asset."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Any

from airflow_provider_kernel.watch.ends import Cursor

log = logging.getLogger(__name__)
#: Seconds that Airflow may take for an answer, and after which it is asked again.
STORE_TIMEOUT, STORE_PAUSE = 30.0, 15.0


class CursorStore:
    """
    The cursor of one watcher, kept with each asset that it watches: any of them may be taken away.

    :param accessors: what the triggerer gives an event trigger: the stores of its assets.
    :param identity: what tells this watcher from others of the same asset.
    """

    def __init__(self, accessors: Any, identity: Any) -> None:
        # Airflow has no public way to the stores of a trigger that does not know the names of its assets.
        by_name = getattr(accessors, "_by_name", None)
        self._stores = list(by_name.values()) if by_name else [accessors]
        text = json.dumps(identity, sort_keys=True)
        self._key = f"airflow-provider-kernel:finished:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._saved: dict[str, Any] | None = None

    async def load(self) -> Cursor:
        """
        Return what is kept; a new cursor if there is nothing, or nothing that this version can read.

        :raises Exception: Airflow cannot be asked.
        """
        kept = Cursor()
        for store in self._stores:
            async with asyncio.timeout(STORE_TIMEOUT):
                state = await store.aget(self._key)
            try:
                kept.merge(Cursor.from_state(state))
            except ValueError:
                log.warning(
                    "What Airflow keeps for a watcher under %s cannot be read, and is left out.", self._key
                )
        return kept

    async def load_patiently(self) -> Cursor:
        """Return what is kept, however long it takes until Airflow can be asked."""
        while True:
            try:
                return await self.load()
            except Exception as error:  # noqa: BLE001 - without it, what has ended meanwhile would be missed
                log.warning(
                    "Airflow could not be asked where a watcher has stopped: %s. Trying again in %.0f s.",
                    type(error).__name__,
                    STORE_PAUSE,
                )
                await asyncio.sleep(STORE_PAUSE)

    async def refresh(self, cursor: Cursor) -> None:
        """Have the cursor learn what is kept by now; it goes without, if Airflow cannot be asked."""
        try:
            cursor.merge(await self.load())
        except Exception as error:  # noqa: BLE001 - it is a precaution only
            log.warning("Airflow could not be asked how far a watcher is: %s.", type(error).__name__)

    async def save(self, state: dict[str, Any]) -> None:
        """Keep the state of a cursor, if it is another than before. What cannot be kept now is kept with the next."""
        if state == self._saved:
            return
        try:
            for store in self._stores:
                async with asyncio.timeout(STORE_TIMEOUT):
                    await store.aset(self._key, state)
        except Exception as error:  # noqa: BLE001 - a shared stream that raises ends all its watchers
            log.warning("Airflow could not be told how far a watcher is: %s.", type(error).__name__)
        else:
            self._saved = state
