"""The worker's side: runs a replica, reports to the parent that the loop runs, and answers the parent's questions."""

import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import structlog
import trio

from dispatcher.errors import NotFoundError
from dispatcher.hub.hub import Hub
from dispatcher.hub.spreading import send_some_on
from dispatcher.settings import Settings
from dispatcher.supervisor import Reload
from dispatcher.web.admin_streams import OwnStreams, Selection
from dispatcher.web.operations import Operations
from dispatcher.workers.channel import Channel
from dispatcher.workers.orders import STOP, Orders, decode_settings

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 0.5


class Leash:
    """Ends this process when its parent is gone.

    *Thread*: a separate one, which works even while the event loop hangs.

    Args:
        lines: The lines that the parent sends over standard input; they end with the parent.
        shutdown_seconds: How long a stop may take.
    """

    def __init__(self, lines: Iterator[bytes], shutdown_seconds: float) -> None:
        self._lines = lines
        self._shutdown_seconds = shutdown_seconds
        self._is_stopping = False

    def start(self) -> None:
        """Start watching, in a thread."""
        threading.Thread(target=self._watch, name="leash", daemon=True).start()

    def _watch(self) -> None:
        for line in self._lines:
            self._is_stopping |= line == STOP
        # Write nothing: whatever reads the log may be what hangs. This timer needs neither the loop nor the
        # interpreter.
        nowhere = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115 - until the end of the process
        faulthandler.dump_traceback_later(self._shutdown_seconds, exit=True, file=nowhere)
        if not self._is_stopping:
            log.warning("the parent process is gone, stopping")
            os.kill(os.getpid(), signal.SIGTERM)


class ParentLink:
    """The parent, in the form that `supervise` expects.

    Args:
        orders: The orders that the parent gave this worker.
    """

    def __init__(self, orders: Orders) -> None:
        self.sockets: Sequence[socket.socket] = [socket.socket(fileno=number) for number in orders.sockets]
        self._channel = Channel(socket.socket(fileno=orders.channel))
        self._settings = orders.settings
        self._lookups: dict[int, trio.MemorySendChannel[Any]] = {}
        self._last_lookup = 0
        self._reloading = trio.Lock()
        self._drain = 0

    def read_settings(self) -> Settings:
        """Return the settings that the parent has read last."""
        return self._settings

    async def serve(self, operations: Operations, streams: OwnStreams, hub: Hub, reload: Reload) -> None:
        """See `supervisor.Parent`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._channel.run)
                nursery.start_soon(self._show_life, operations, streams, hub)
                while (received := await self._channel.receive()) is not None:
                    message, _payload = received
                    if "ask" in message:
                        nursery.start_soon(self._answer, message, operations, streams)
                    elif "drain" in message:
                        await self._order_drain(message, streams)
                        await self._channel.send(self._life(operations, streams, hub))
                    elif "send_on" in message:
                        nursery.start_soon(self._send_on, hub, message["send_on"])
                    else:
                        self._obey(message, reload, nursery)
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass  # the parent is gone, and `Leash` stops the process

    async def offsets_since(self, partitions: Sequence[tuple[str, int]], since_ms: int) -> Sequence[int | None]:
        """Ask the parent, in which the broker runs, for each partition's first offset with this time or a later one.

        *Cancellation*: safe.
        """
        self._last_lookup += 1
        number = self._last_lookup
        send, receive = trio.open_memory_channel[Any](1)
        self._lookups[number] = send
        try:
            await self._channel.send({"lookup": number, "partitions": partitions, "since_ms": since_ms})
            found: Sequence[int | None] = await receive.receive()
            return found
        finally:
            del self._lookups[number]
            send.close()
            receive.close()

    async def _show_life(self, operations: Operations, streams: OwnStreams, hub: Hub) -> None:
        while True:
            await self._channel.send(self._life(operations, streams, hub))
            await trio.sleep(HEARTBEAT_SECONDS)

    def _life(self, operations: Operations, streams: OwnStreams, hub: Hub) -> Mapping[str, Any]:
        """Return the report that shows that the loop runs, and how late it was since the last one."""
        return {
            "alive": True,
            "reasons": operations.why_not_ready(),
            "degraded": operations.degraded(),
            "has_been_ready": operations.has_been_ready,
            "drain": self._drain,
            "subscribers": streams.subscribers,
            "late_seconds": hub.take_late_seconds(),
        }

    async def _order_drain(self, message: Mapping[str, Any], streams: OwnStreams) -> None:
        """Begin or end a drain. The parent stops all workers together, once every worker is empty."""
        if message["seconds"] is None:
            await streams.end_drain()
        else:
            await streams.begin_drain(message["seconds"], stops=False)
        self._drain = message["drain"]

    async def _send_on(self, hub: Hub, number: int) -> None:
        """Ask some subscribers to reconnect: the kernel gives most of them to other workers."""
        log.warning("late, sending subscribers to other workers", number=number, of=hub.subscribers)
        await send_some_on(hub, number, self._settings.spread_seconds)

    def _obey(self, message: Mapping[str, Any], reload: Reload, nursery: trio.Nursery) -> None:
        if "settings" in message:
            self._settings = decode_settings(message["settings"])
            nursery.start_soon(self._reload, reload)
        elif "inspect" in message:
            os.kill(os.getpid(), signal.SIGUSR1)
        elif "found" in message and message["lookup"] in self._lookups:
            self._lookups[message["lookup"]].send_nowait(message["found"])

    async def _reload(self, reload: Reload) -> None:
        async with self._reloading:
            await reload()

    async def _answer(self, question: Mapping[str, Any], operations: Operations, streams: OwnStreams) -> None:
        makers: Mapping[str, Callable[[], Awaitable[bytes]]] = {
            "status": operations.status_page,
            "metrics": operations.metrics_page,
            "openmetrics": partial(operations.metrics_page, openmetrics=True),
            "subscribers": partial(_subscribers, streams, question),
            "disconnect-one": partial(_disconnect_one, streams, question),
            "disconnect": partial(_disconnect, streams, question),
        }
        try:
            answer = await makers[question["what"]]()
        except Exception:  # a page that fails must not end the replica
            log.exception("answer to the parent failed", what=question["what"])
            answer = b""
        await self._channel.send({"answer": question["ask"]}, answer)


async def _subscribers(streams: OwnStreams, question: Mapping[str, Any]) -> bytes:
    selection = Selection.of(question["selection"])
    return orjson.dumps(await streams.page(selection, question["after"], question["limit"]))


async def _disconnect_one(streams: OwnStreams, question: Mapping[str, Any]) -> bytes:
    try:
        answer = await streams.disconnect_one(question["number"], returns=question["returns"])
    except NotFoundError:
        answer = {"disconnected": 0}
    return orjson.dumps(answer)


async def _disconnect(streams: OwnStreams, question: Mapping[str, Any]) -> bytes:
    return orjson.dumps(await streams.disconnect(Selection.of(question["selection"]), returns=question["returns"]))
