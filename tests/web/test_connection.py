"""The connection: records go out behind the head of their own response, or not at all."""

import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio

from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

RECORDS = 200
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ANSWERED_IN_ANOTHER_WAY = {
    "a frame after the upgrade": UPGRADE + b"\x81\x80\0\0\0\0",
    "a close frame after the upgrade": UPGRADE + b"\x88\x80\0\0\0\0",
    "a broken chunk": b"GET /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("request_bytes", list(ANSWERED_IN_ANOTHER_WAY.values()), ids=list(ANSWERED_IN_ANOTHER_WAY))
async def test_nothing_is_dispatched_after_an_error(
    kafka: Kafka, replicas: Callable[..., Replica], request_bytes: bytes
) -> None:
    """Hypercorn answers 400 without the app; records written after that would be lost."""
    topic = kafka.create_topic(1)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, RECORDS, 1)
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_for("records", lambda status: status["records"]["waiting"] == RECORDS)
    received = b""
    with socket.create_connection(replica.address, timeout=5) as client, suppress(ConnectionResetError):
        client.sendall(request_bytes)
        while data := client.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    status = replica.wait_for("no subscriber", lambda status: not status["subscribers"]["total"])
    assert (status["records"]["dispatched"], status["records"]["waiting"]) == (0, RECORDS)
