"""What the load generator counts, of streams that a server sends to several of its connections."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.harness import Load
from benchmarks.inflating import PING, PONG
from benchmarks.targets import compressed_requests
from benchmarks.values import stamped_vehicle
from dispatcher.sansio.encoding import frames
from dispatcher.sansio.encoding.compression import GZIP_HEAD, Compression

SSE_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n"
WEBSOCKET_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
CONNECTIONS = 5


def accepted(listener: socket.socket, head: bytes) -> Sequence[socket.socket]:
    """The server's side of all connections, once each has sent its request and was sent a head."""
    connections = [listener.accept()[0] for _ in range(CONNECTIONS)]
    for connection in connections:
        assert b"\r\n\r\n" in connection.recv(65536)
        connection.sendall(head)
    return connections


@pytest.mark.parametrize("kind", ["plain", "sse", "websocket"])
def test_records_and_bytes_of_all_connections_are_counted(kind: str) -> None:
    """Whether the stream is compressed or not, and with a ping that is answered."""
    deflater = Compression(6, 256).deflater
    texts = [b"\n".join(stamped_vehicle() for _ in range(records)) for records in (1, 20, 300)]
    protocol, head, writes = {
        "plain": ("websocket", SSE_HEAD % b"", [*map(frames.chunk, texts), PING]),
        "sse": (
            "sse",
            SSE_HEAD % b"Content-Encoding: gzip\r\n",
            [frames.chunk(GZIP_HEAD), *(frames.chunk(deflater.segment(text)) for text in texts)],
        ),
        "websocket": ("websocket", WEBSOCKET_HEAD, [*map(deflater.message, texts), PING]),
    }[kind]
    stream = b"".join(writes)
    with socket.create_server(("127.0.0.1", 0)) as listener, Load() as load, ThreadPoolExecutor(1) as pool:
        server = pool.submit(accepted, listener, head)
        load.open("all", CONNECTIONS, listener.getsockname(), compressed_requests()[protocol], samples_all=True)
        connections = server.result()
        for number, connection in enumerate(connections):
            # Where a read ends differs from connection to connection.
            cut = len(stream) * number // CONNECTIONS
            connection.sendall(stream[:cut])
            connection.sendall(stream[cut:])
        received_bytes = records = 0
        samples = 0
        while received_bytes < CONNECTIONS * len(stream):
            group = load.report()["groups"]["all"]
            received_bytes += group["bytes"]
            records += group["records"]
            samples += group["latency_us"]["n"]
        assert (received_bytes, records) == (CONNECTIONS * len(stream), CONNECTIONS * 321)
        assert samples > 0
        if PING in writes:
            for connection in connections:
                assert connection.recv(100) == PONG
        for connection in connections:
            connection.close()
