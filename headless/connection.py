"""Requests to one ComfyUI over HTTP: questions that are asked again, and errors in sentences."""

import asyncio
import base64
import json
import os
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from .errors import ServerGone

REPLY_TIMEOUT_S = 60
PAUSES_S = (0.5, 1, 2)  # before a question that failed is asked again


class Connection:
    """The ComfyUI at `url`, which may hold a user and a password; they are shown nowhere."""

    def __init__(self, url: str):
        self.url, login = hide_password(url)
        self._headers = {"Authorization": f"Basic {login}"} if login else {}

    def _open(self) -> None:
        if problem := address_problem(self.url):
            raise ServerGone(problem)
        timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT_S, connect=10)
        self._session = aiohttp.ClientSession(timeout=timeout, headers=self._headers)

    async def _ask(self, path: str) -> Any:
        """A GET, asked again where the network fails for a moment."""
        for pause in PAUSES_S:
            try:
                return await self._json("GET", path)
            except ServerGone:
                await asyncio.sleep(pause)
        return await self._json("GET", path)

    async def _json(self, method: str, path: str, **request: Any) -> Any:
        async with self._request(method, path, **request) as reply:
            self._expect_ok(reply)
            return await decode_reply(reply)

    def _expect_ok(self, reply: aiohttp.ClientResponse) -> None:
        if reply.status != 200:
            raise ServerGone(
                f"{self.url} answered {reply.status} ({reply.reason}) to {reply.url.path}. "
                "Check that the address is ComfyUI's and look into its log"
                + (" (is its disk full?)." if reply.status >= 500 else ".")
            )

    def _request(self, method: str, path: str, **request: Any) -> "_Reply":
        return _Reply(self.url, self._session.request(method, self.url + path, **request))


class _Reply:
    """A request whose connection errors come out as ServerGone."""

    def __init__(self, url: str, request: Any):
        self._url = url
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            return await self._request.__aenter__()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._explain_loss(error) from error

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._request.__aexit__(exc_type, exc, traceback)
        if isinstance(exc, aiohttp.ClientError | asyncio.TimeoutError):
            raise self._explain_loss(exc) from exc

    def _explain_loss(self, error: BaseException) -> ServerGone:
        return ServerGone(
            f"No ComfyUI answers at {self._url} ({_reason(error)}). Start ComfyUI there, or "
            "correct the address; if it was running, look into its log."
        )


def _reason(error: BaseException) -> str:
    """Why a connection failed, without aiohttp's own words where the system has some."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def address_problem(url: str) -> str:
    """What is wrong with the form of an address, and the cure; empty where nothing is."""
    shown, _ = hide_password(url)
    try:
        parts = urlsplit(shown)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or too big
        is_right = False
    return "" if is_right else f"{shown!r} is not an address. Write http://HOST:PORT."


def hide_password(url: str) -> tuple[str, str | None]:
    """An address as it may be shown, and the user and password in it, coded as HTTP wants them."""
    scheme, mark, rest = url.rstrip("/").partition("://")
    if not mark:  # forgotten, which is reported with the address
        scheme, rest = "", scheme
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        return url.rstrip("/"), None
    shown = f"{scheme}{mark}{rest[len(user) + len(at) :]}"
    return shown, base64.b64encode(unquote(user).encode()).decode()


async def decode_reply(reply: aiohttp.ClientResponse) -> Any:
    """The reply as JSON; empty replies (of /queue and /interrupt) and other text as {}."""
    try:
        return json.loads(await reply.text())
    except ValueError:
        return {}
