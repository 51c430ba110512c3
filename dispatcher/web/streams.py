"""Streams that outlive the request that began them.

A handler checks a request, subscribes, and leaves the stream with its connection (`Connection.stream`). Quart answers
the request, all but its end, and is done: what it made for the request is let go, which is half of what an idle
subscriber would cost. Then the stream runs here, in the task that Hypercorn made for the request, and ends the answer.
"""

from typing import Protocol

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope


class Stream(Protocol):
    """What a handler leaves behind."""

    async def run(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Send until either side ends it, then end the answer."""

    def close(self) -> None:
        """Unsubscribe; called in any case, perhaps without `run`."""


class Streaming:
    """An ASGI app in front of another.

    Args:
        app: Answers requests.
    """

    def __init__(self, app: ASGIFramework) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request, and the stream that it began."""
        connection = scope["state"]["connection"]

        async def send_all_but_the_end(message: ASGISendEvent) -> None:
            if connection.stream is None or not _is_end(message):
                await send(message)

        try:
            await self._app(scope, receive, send_all_but_the_end)
            if connection.stream is not None:
                await connection.stream.run(receive, send)
        finally:
            if connection.stream is not None:
                connection.stream.close()
                connection.stream = None


def _is_end(message: ASGISendEvent) -> bool:
    if message["type"] == "http.response.body":
        return not message["more_body"]
    return message["type"] == "websocket.close"
