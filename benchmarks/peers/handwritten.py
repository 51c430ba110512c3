"""``handwritten.py BOOTSTRAP_SERVERS TOPIC OPTIONS``: what the first draft (`first_draft.py`) becomes with care.

One consumer without a group, one queue per client. What is the same for all is done once: a batch that the consumer
brings is encoded once per format, and one item is put into each queue. A client is sent all that waits in its queue in
one write: a piece of an event stream, or a WebSocket message with an array. A queue is bounded: who falls behind is cut
off.

It runs in an environment of its own (``requirements.txt``) and prints its port when it has its partitions.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import uvicorn  # type: ignore[import-not-found]
from aiokafka import AIOKafkaConsumer  # type: ignore[import-not-found]
from fastapi import FastAPI, WebSocket  # type: ignore[import-not-found]
from sse_starlette import EventSourceResponse  # type: ignore[import-not-found]

QUEUE_BATCHES = 1000
MOST_RECORDS = 500

Encoded = TypeVar("Encoded")


class Clients(Generic[Encoded]):
    """The queues of one format's clients."""

    def __init__(self, encode: Callable[[Iterable[Any]], Encoded]) -> None:
        self._encode = encode
        self._queues: set[asyncio.Queue[Encoded | None]] = set()

    def join(self) -> "asyncio.Queue[Encoded | None]":
        """A client's queue: from now on all batches are put into it; None in it is the end."""
        queue: asyncio.Queue[Encoded | None] = asyncio.Queue(QUEUE_BATCHES)
        self._queues.add(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[Encoded | None]") -> None:
        """No more batches."""
        self._queues.discard(queue)

    def publish(self, records: list[Any]) -> None:
        """Give a batch to all of them."""
        if not self._queues:
            return
        batch = self._encode(records)
        for queue in tuple(self._queues):
            try:
                queue.put_nowait(batch)
            except asyncio.QueueFull:
                self.leave(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)


def events(records: Iterable[Any]) -> bytes:
    """A batch as one chunk of an event stream."""
    return b"".join(
        b"id: %d-%d\ndata: %b\n\n" % (record.partition, record.offset, record.value.replace(b"\n", b"\ndata: "))
        for record in records
    )


def objects(records: Iterable[Any]) -> str:
    """A batch as JSON objects with commas between."""
    return ",".join(
        json.dumps({"id": f"{record.partition}-{record.offset}", "value": record.value.decode()}, ensure_ascii=False)
        for record in records
    )


async def waiting(queue: "asyncio.Queue[Encoded | None]") -> AsyncIterator[list[Encoded]]:
    """All that waits in a queue, whenever something does, until its end."""
    while (batch := await queue.get()) is not None:
        batches = [batch]
        while not queue.empty():
            if (batch := queue.get_nowait()) is None:
                yield batches
                return
            batches.append(batch)
        yield batches


class Bridge:
    """From a topic to the clients."""

    def __init__(self, bootstrap_servers: str, topic: str, port: int) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._port = port
        self._streams, self._sockets = Clients(events), Clients(objects)

    def application(self) -> Any:
        """The ASGI application."""
        service = FastAPI(lifespan=self.lifespan)
        service.add_api_route("/events", self.stream, response_class=EventSourceResponse, response_model=None)
        service.add_api_websocket_route("/ws", self.speak)
        return service

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Consumes while the application runs; tells its port when it has its partitions."""
        consumer = AIOKafkaConsumer(
            self._topic, bootstrap_servers=self._bootstrap_servers, group_id=None, auto_offset_reset="latest"
        )
        await consumer.start()
        try:
            await consumer.seek_to_end()
            for partition in consumer.assignment():
                await consumer.position(partition)
            consuming = asyncio.create_task(self.consume(consumer))
            sys.stdout.write(json.dumps({"port": self._port}) + "\n")
            sys.stdout.flush()
            yield
            consuming.cancel()
        finally:
            await consumer.stop()

    async def consume(self, consumer: Any) -> None:
        """Give what comes to all clients."""
        while True:
            batches = await consumer.getmany(timeout_ms=1000, max_records=MOST_RECORDS)
            for records in batches.values():
                self._streams.publish(records)
                self._sockets.publish(records)

    async def stream(self) -> Any:
        """``GET /events``."""
        queue = self._streams.join()

        async def body() -> AsyncIterator[bytes]:
            try:
                async for batches in waiting(queue):
                    yield b"".join(batches)
            finally:
                self._streams.leave(queue)

        return EventSourceResponse(body())

    async def speak(self, websocket: WebSocket) -> None:
        """``/ws``."""
        queue = self._sockets.join()
        await websocket.accept()
        sending = asyncio.create_task(send(websocket, queue))
        try:
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            sending.cancel()
            self._sockets.leave(queue)


async def send(websocket: WebSocket, queue: "asyncio.Queue[str | None]") -> None:
    """Send batches until the end."""
    async for batches in waiting(queue):
        await websocket.send_text(f"[{','.join(batches)}]")
    await websocket.close(1013)


def main(bootstrap_servers: str, topic: str, options: str) -> None:
    """Until it is asked to end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    service = Bridge(bootstrap_servers, topic, listener.getsockname()[1]).application()
    uvicorn.Server(uvicorn.Config(service, **json.loads(options))).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
