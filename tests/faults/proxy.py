"""An HTTP proxy on loopback that treats a share of the requests to an object store as the world does."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web
from yarl import URL

KINDS = ("500", "503", "reset", "lost", "stall", "cut", "short")
"""500; 503 SlowDown; a reset before the store was asked, and one after (its answer is lost); no answer; a body that ends before
its Content-Length; a body that is cut and says so nowhere but in Content-Range and ETag."""
_OF_BODIES = ("cut", "short")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_CODE = {"500": "InternalError", "503": "SlowDown"}


class FaultyProxy:
    """Stands before an object store at ``upstream``; a context manager.

    Parameters
    ----------
    upstream
        URL of the store, ``http://127.0.0.1:PORT``.
    share
        Of the requests that go wrong; may be changed at any time.
    seed
        Of which go wrong and how.
    kinds
        How they go wrong.
    stall_s
        How long a stalled request is held before its connection is closed.
    """

    def __init__(
        self,
        upstream: str,
        *,
        share: float = 0.0,
        seed: int = 0,
        kinds: tuple[str, ...] = KINDS,
        stall_s: float = 20.0,
    ) -> None:
        self.upstream, self.share, self.kinds, self.stall_s = upstream, share, kinds, stall_s
        self._rng = random.Random(seed)
        self._order = self._rng.sample(KINDS, len(KINDS))
        self.done: Counter[str] = Counter()
        """Requests by what was done with them; ``passed`` went through."""
        self.fail_after: int | None = None
        """So many requests more are treated as ever, and all that come later go wrong."""

    @property
    def requests(self) -> int:
        """How many requests came."""
        return self.done.total()

    @property
    def faults(self) -> int:
        """How many of them went wrong."""
        return self.requests - self.done["passed"]

    def __enter__(self) -> FaultyProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> str:
        self._session = ClientSession(timeout=ClientTimeout(total=60), auto_decompress=False)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _close(self) -> None:
        await self._session.close()
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _fate(self, method: str) -> str:
        """Return what befalls a request; of the kinds that fit it the one that was longest not used."""
        if self.fail_after is None:
            wrong = self._rng.random() < self.share
        else:
            self.fail_after -= 1
            wrong = self.fail_after < 0
        fit = [kind for kind in self._order if kind in self.kinds and (method == "GET" or kind not in _OF_BODIES)]
        if not wrong or not fit:
            return "passed"
        self._order.remove(fit[0])
        self._order.append(fit[0])
        return fit[0]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fate = self._fate(request.method)
        if fate in _CODE:
            self.done[fate] += 1
            text = f"<?xml version='1.0'?><Error><Code>{_CODE[fate]}</Code><Message>no</Message></Error>"
            return web.Response(status=int(fate), text=text, content_type="application/xml")
        if fate in ("reset", "stall"):
            self.done[fate] += 1
            if fate == "stall":
                await asyncio.sleep(self.stall_s)
            return self._reset(request)
        status, headers, body = await self._ask(request)
        if fate == "lost":
            self.done[fate] += 1
            return self._reset(request)
        length = headers.pop("Content-Length", str(len(body)))
        if request.method == "HEAD":
            self.done["passed"] += 1
            response = web.Response(status=status, headers=headers | {"Content-Length": length})
            return response
        if fate == "passed" or len(body) < 2 or status >= 300:  # nothing to cut
            self.done["passed"] += 1
            return web.Response(status=status, headers=headers, body=body)
        self.done[fate] += 1
        part = body[: self._rng.randrange(1, len(body))]
        if fate == "short":
            return web.Response(status=status, headers=headers, body=part)
        response = web.StreamResponse(status=status, headers=headers | {"Content-Length": length})
        await response.prepare(request)
        await response.write(part)
        return self._reset(request, response)

    async def _ask(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        url = URL(self.upstream + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        data = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            kept: dict[str, Any] = {
                name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP
            }
            if "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return answer.status, kept, await answer.read()

    @staticmethod
    def _reset(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
        """Close the connection with a reset, in the middle of the answer where one has begun."""
        if request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            if connection is not None and response is None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.close() if response is not None else request.transport.abort()
        return response or web.Response(status=500)
