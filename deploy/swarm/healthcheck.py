"""Docker's health check: exit code 0 if ``/readyz`` says that the replica is ready, or has been.

Swarm sends no clients to a task that is not healthy yet, waits for it in a rolling update, and kills a task that
becomes unhealthy. So a task has to be ready once. After that it only has to answer: when Kafka is unreachable, no
replica is ready, and killing all of them would disconnect every subscriber without bringing Kafka back sooner.
"""

import socket
import sys

ADDRESS = ("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

try:
    with socket.create_connection(ADDRESS, timeout=2) as connection:
        connection.sendall(REQUEST)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
except OSError as error:
    sys.exit(f"no answer: {error}")
head, _, body = answer.partition(b"\r\n\r\n")
print(body.decode(errors="replace"))  # noqa: T201 - `docker inspect` shows it
sys.exit(not (head.startswith(b"HTTP/1.1 200") or b'"has_been_ready": true' in body))
