"""What stands before every request: its size and time, the API key, a line in the log without ids, and the metrics."""

import asyncio
import hmac
import logging
import time
import traceback
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1 << 20  # of a request's body
PLACES = 6  # of an error that the log tells, the last ones
BODY_SECONDS = 10.0  # in which it has to come
OPEN = ("/", "/health", "/ready")  # to everybody: they tell nothing of a user
LOG = logging.getLogger("eventscribe.service")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Door:
    """ASGI middleware; an error of the app behind it is a 500, and tells the log its kind and place and no values.

    Args:
        app: What stands behind.
        registry: Gets the metrics.
        key: What X-API-Key has to say; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, key: str | None) -> None:
        self.app, self.key = app, key
        self.requests = Counter("eventscribe_requests", "Requests.", ["method", "route", "status"], registry=registry)
        self.seconds = Histogram(
            "eventscribe_request_seconds", "Time to an answer.", ["route"], registry=registry, buckets=SECONDS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._let_in(scope, receive, sending)
        except Exception as error:
            # A message may quote an event, so that the log gets the places alone.
            places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)[-PLACES:]))
            LOG.error("%s at\n%s", type(error).__name__, places)
            if not status:
                await _say(500, "an error of the service; its log has the place", scope, receive, sending)
        finally:
            # The route and not the path, which may have a user's id.
            route, seconds = getattr(scope.get("route"), "path", "none"), time.perf_counter() - start
            self.requests.labels(scope["method"], route, status).inc()
            self.seconds.labels(route).observe(seconds)
            LOG.info("%s %s %d %.1f ms", scope["method"], route, status, 1000 * seconds)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        closed = self.key is not None and scope["path"] not in OPEN
        if closed and not hmac.compare_digest(headers.get(b"x-api-key", b""), (self.key or "").encode()):
            await _say(401, "X-API-Key is missing or wrong", scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            await _say(413, f"a body may have {MOST_BYTES:,} bytes; send fewer events at a time", scope, receive, send)
            return
        body, more = b"", True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MOST_BYTES:
                        said = f"a body may have {MOST_BYTES:,} bytes; send fewer events at a time"
                        await _say(413, said, scope, receive, send)
                        return
        except TimeoutError:
            await _say(408, f"the body did not come within {BODY_SECONDS:.0f} seconds", scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)


async def _say(status: int, said: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers: dict[str, Any] = {"Connection": "close"} if status in (408, 413) else {}
    await JSONResponse({"detail": said}, status, headers)(scope, receive, send)
