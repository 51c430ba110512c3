"""``python -m benchmarks.bare``: the machine's limit, measured by a bare loop of non-blocking sends to every socket.

Accepts connections and answers each with the head of a stream. For each line on stdin (``BYTES RECORDS TIMES PAUSE``)
it sends each of them TIMES writes of RECORDS records of BYTES bytes, with a pause of PAUSE seconds between the rounds,
and answers with its CPU seconds.
"""

import json
import socket
import sys
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def main() -> None:
    """Serve until stdin ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(HEAD)
            connection.setblocking(False)
            connections.append(connection)

    threading.Thread(target=accept, daemon=True).start()
    tell(json.dumps({"port": listener.getsockname()[1]}))
    for line in sys.stdin:
        size_bytes, records, times, pause = line.split()
        data = f"§{time.time_ns()}".encode().ljust(int(size_bytes), b"x") * int(records)
        began = time.process_time()
        full = 0
        for _ in range(int(times)):
            for connection in connections:
                try:
                    full += connection.send(data) < len(data)
                except BlockingIOError:
                    full += 1
            time.sleep(float(pause))  # lets the readers run, because a full socket would measure them
        tell(json.dumps({"cpu_seconds": time.process_time() - began, "full": full}))


def tell(line: str) -> None:
    """Print an answer."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
