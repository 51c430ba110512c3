"""``handwritten.py BOOTSTRAP_SERVERS TOPIC``: the service that one writes first, written with care.

One consumer without a group, one queue per client. What is the same for all is done once: a batch that the consumer
brings is encoded once per format, and one item is put into each queue; an event stream takes all that waits in its
queue in one write. A queue is bounded: who falls behind is cut off.

It runs in an environment of its own (``requirements.txt``) and prints its port when it has its partitions.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn  # type: ignore[import-not-found]
from aiokafka import AIOKafkaConsumer  # type: ignore[import-not-found]
from fastapi import FastAPI, WebSocket  # type: ignore[import-not-found]
from sse_starlette import EventSourceResponse  # type: ignore[import-not-found]

QUEUE_BATCHES = 1000
MOST_RECORDS = 500


class Clients:
    """The queues of one format's clients."""

    def __init__(self, encode: Callable[[Iterable[Any]], Any]) -> None:
        self._encode = encode
        self._queues: set[asyncio.Queue[Any]] = set()

    def join(self) -> "asyncio.Queue[Any]":
        """A client's queue: from now on all batches are put into it; None in it is the end."""
        queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE_BATCHES)
        self._queues.add(queue)
        return queue

    def leave(self, queue: "asyncio.Queue[Any]") -> None:
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


def messages(records: Iterable[Any]) -> list[str]:
    """A batch as WebSocket messages, one a record."""
    return [
        json.dumps({"id": f"{record.partition}-{record.offset}", "value": record.value.decode()}, ensure_ascii=False)
        for record in records
    ]


class Bridge:
    """From a topic to the clients."""

    def __init__(self, bootstrap_servers: str, topic: str, port: int) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._port = port
        self._streams, self._sockets = Clients(events), Clients(messages)

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
                while (batch := await queue.get()) is not None:
                    waiting = [batch]
                    while not queue.empty() and waiting[-1] is not None:
                        waiting.append(queue.get_nowait())
                    yield b"".join(batch for batch in waiting if batch is not None)
                    if waiting[-1] is None:
                        return
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


async def send(websocket: WebSocket, queue: "asyncio.Queue[Any]") -> None:
    """Send batches until the end."""
    while (batch := await queue.get()) is not None:
        for message in batch:
            await websocket.send_text(message)
    await websocket.close(1013)


def main(bootstrap_servers: str, topic: str, options: str) -> None:
    """Until it is told to end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    service = Bridge(bootstrap_servers, topic, listener.getsockname()[1]).application()
    uvicorn.Server(uvicorn.Config(service, **json.loads(options))).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
