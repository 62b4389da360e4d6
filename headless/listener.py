"""The websocket of a client: every run that is expected gets the messages about it.

One task reads the websocket, so that several runs of a client can be followed at the same time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp

REFUSALS = 2  # of the websocket in a row, after which it is not tried again
SOCKET_TIMEOUT_S = 10

Socket = aiohttp.ClientWebSocketResponse[bool]
Event = dict[str, Any]


class Listener:
    """Listens to the ComfyUI at `url` for one client. `socket` is None while there is none."""

    def __init__(self, url: str, client_id: str):
        self._url = f"{url}/ws"
        self._query = {"clientId": client_id}
        self.socket: Socket | None = None
        self._refusals = 0
        self._opening = asyncio.Lock()
        self._inboxes: dict[str, asyncio.Queue[Event | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def open(self, connect: Callable[..., Awaitable[Socket]]) -> None:
        """Open the websocket unless it is open, or was refused too often. connect: ws_connect of
        a session of aiohttp."""
        async with self._opening:
            if self.socket is not None or self._refusals >= REFUSALS:
                return
            self._refusals += 1
            with suppress(aiohttp.ClientError, asyncio.TimeoutError):
                opening = connect(self._url, params=self._query, heartbeat=30, max_msg_size=0)
                self.socket = await asyncio.wait_for(opening, SOCKET_TIMEOUT_S)
                self._refusals = 0
                self._reading = asyncio.create_task(self._read(self.socket))

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        if (connection := self.socket) is not None:
            await connection.close()

    def expect(self, prompt_id: str) -> None:
        """Keep the messages about a run from now on."""
        self._inboxes.setdefault(prompt_id, asyncio.Queue())

    def forget(self, prompt_id: str) -> None:
        self._inboxes.pop(prompt_id, None)

    async def hear(self, prompt_id: str, timeout_s: float) -> Event | None:
        """The next message about an expected run; None if none came in time, or the websocket
        dropped."""
        with suppress(asyncio.TimeoutError):
            return await asyncio.wait_for(self._inboxes[prompt_id].get(), timeout_s)
        return None

    async def _read(self, socket: Socket) -> None:
        try:
            async for message in socket:  # until it closes
                if message.type is aiohttp.WSMsgType.TEXT:  # previews are binary
                    self._deliver(message.data)
        finally:
            if self.socket is socket:
                self.socket = None
            for inbox in self._inboxes.values():
                inbox.put_nowait(None)

    def _deliver(self, text: str) -> None:
        try:
            event = json.loads(text)
            inbox = self._inboxes.get(event["data"]["prompt_id"]) if event["type"] else None
        except (ValueError, TypeError, KeyError):  # other packs send what they like
            return
        if inbox is not None:
            inbox.put_nowait(event)
