"""``first_draft.py BOOTSTRAP_SERVERS TOPIC OPTIONS``: the service as the documentation of its libraries has it.

One consumer without a group, one queue per client, each record by itself: it is put into each queue, becomes an event
or a message for each client, and is written. A queue is bounded: who falls behind is cut off. `handwritten.py` is what
this becomes with care.

It runs in the same environment (``requirements.txt``) and prints its port when it has its partitions.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn  # type: ignore[import-not-found]
from aiokafka import AIOKafkaConsumer  # type: ignore[import-not-found]
from fastapi import FastAPI, WebSocket, WebSocketDisconnect  # type: ignore[import-not-found]
from sse_starlette import EventSourceResponse, ServerSentEvent  # type: ignore[import-not-found]

QUEUE_RECORDS = 10_000

Queue = asyncio.Queue[Any]
queues: set[Queue] = set()


@asynccontextmanager
async def lifespan(service: Any) -> AsyncIterator[None]:
    """Consumes while the application runs; tells its port when it has its partitions."""
    consumer = AIOKafkaConsumer(service.state.topic, bootstrap_servers=service.state.bootstrap_servers)
    await consumer.start()
    try:
        await consumer.seek_to_end()
        for partition in consumer.assignment():
            await consumer.position(partition)
        consuming = asyncio.create_task(consume(consumer))
        print(json.dumps({"port": service.state.port}), flush=True)  # noqa: T201 - for who started it
        yield
        consuming.cancel()
    finally:
        await consumer.stop()


async def consume(consumer: Any) -> None:
    """Put each record into each queue."""
    async for record in consumer:
        for queue in tuple(queues):
            try:
                queue.put_nowait(record)
            except asyncio.QueueFull:
                queues.discard(queue)


async def records(queue: Queue) -> AsyncIterator[Any]:
    """What is put into a queue, until it is given up."""
    queues.add(queue)
    try:
        while queue in queues or not queue.empty():
            yield await queue.get()
    finally:
        queues.discard(queue)


def identity(record: Any) -> str:
    """What a client resumes from."""
    return f"{record.partition}-{record.offset}"


async def events() -> Any:
    """``GET /events``."""

    async def each() -> AsyncIterator[ServerSentEvent]:
        async for record in records(Queue(QUEUE_RECORDS)):
            yield ServerSentEvent(record.value.decode(), id=identity(record))

    return EventSourceResponse(each())


async def messages(websocket: WebSocket) -> None:
    """``/ws``."""
    await websocket.accept()
    with suppress(WebSocketDisconnect):
        async for record in records(Queue(QUEUE_RECORDS)):
            await websocket.send_json({"id": identity(record), "value": record.value.decode()})


def main(bootstrap_servers: str, topic: str, options: str) -> None:
    """Until it is asked to end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    service = FastAPI(lifespan=lifespan)
    service.state.bootstrap_servers, service.state.topic = bootstrap_servers, topic
    service.state.port = listener.getsockname()[1]
    service.add_api_route("/events", events, response_class=EventSourceResponse, response_model=None)
    service.add_api_websocket_route("/ws", messages)
    uvicorn.Server(uvicorn.Config(service, **json.loads(options))).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
