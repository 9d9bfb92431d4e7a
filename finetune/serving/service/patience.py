"""uvicorn's HTTP for clients of any kind: one whose request does not come is let go, so that it holds up nobody."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # in which the line and the headers of a request have to come
MOST_HEAD = 65_536  # bytes of them


class Patience(HttpToolsProtocol):
    """A connection, which is closed where the head of a request is too slow or too long; uvicorn would wait for ever.

    Between two requests `timeout_keep_alive` counts, of a body `door.BODY_SECONDS`.
    """

    timer: asyncio.TimerHandle | None = None
    came = 0

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self.timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        if self.timer is not None:
            self.came += len(data)
        super().data_received(data)
        if self.timer is not None and self.came > MOST_HEAD:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._come()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._come()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self.came, self.timer = 0, self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _come(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
