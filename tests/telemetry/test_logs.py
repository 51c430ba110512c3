"""The log holds nobody: neither whoever logs nor the end of the process, whatever reads it or does not."""

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import pytest
import trustme

import dispatcher
from dispatcher.telemetry.outlet import MAX_QUEUED_BYTES, Outlet
from dispatcher.telemetry.rates import BURST, CLIENT_EVENTS, ClientLines
from testbed import requests
from testbed.patience import seconds
from testbed.replicas import Replica

NO_BROKER = "127.0.0.1:9"
TOPIC = "assets"
MALFORMED = b"GET /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A small one."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    # The writer stays open: an outlet's thread may still be about to write to it, and it must not be another file then.
    with suppress(OSError):
        os.close(reader)


def line(text: str) -> logging.LogRecord:
    """Something to log."""
    return logging.LogRecord("test", logging.INFO, "", 0, text, (), None)


def read_until(descriptor: int, text: bytes) -> bytes:
    """What comes through a pipe until this has."""
    data = b""
    while text not in data:
        data += os.read(descriptor, 65536)
    return data


def test_lines_come_in_order(pipe: tuple[int, int]) -> None:
    """Each line is complete."""
    outlet = Outlet(pipe[1])
    for number in range(100):
        outlet.emit(line(f"line {number}"))
    assert read_until(pipe[0], b"line 99\n").split(b"\n")[:-1] == [b"line %d" % number for number in range(100)]
    outlet.flush()


def test_a_pipe_that_nobody_reads_drops_lines(pipe: tuple[int, int]) -> None:
    """Nothing waits, memory is bounded, and a later line has the number of missing lines."""
    outlet = Outlet(pipe[1])
    for _ in range(2 * MAX_QUEUED_BYTES // 1000):
        outlet.emit(line("x" * 1000))
    assert 900 < outlet.dropped_lines < 1200
    read_until(pipe[0], b"x" * 1000 + b"\n")
    deadline = time.monotonic() + seconds(10)
    data = b""
    while b"log lines dropped" not in data and time.monotonic() < deadline:
        outlet.emit(line("more"))
        data += os.read(pipe[0], 65536)
    assert b'"event":"log lines dropped"' in data


def test_the_end_does_not_wait_for_it(pipe: tuple[int, int]) -> None:
    """A process that ends flushes its log within a bounded time."""
    outlet = Outlet(pipe[1])
    outlet.emit(line("x" * 100_000))
    outlet.flush()


def test_nowhere_to_write(pipe: tuple[int, int]) -> None:
    """Without a descriptor or a reader, lines are counted and nothing is raised."""
    without = Outlet(None)
    without.emit(line("x"))
    assert without.dropped_lines == 1
    outlet = Outlet(pipe[1])
    os.close(pipe[0])
    outlet.emit(line("x"))
    outlet.flush()
    assert outlet.dropped_lines == 1


def test_a_kind_of_line_has_a_budget() -> None:
    """Dropped lines are counted per kind; lines that no client can cause have no budget."""
    lines = ClientLines()
    assert [lines.left_out_before("a") for _ in range(10)] == [0] * BURST + [None] * 5
    assert lines.left_out_before("b") == 0
    assert all(lines(None, "info", {"event": "assigned"}) for _ in range(100))
    lines._budgets["a"]._left = 1
    assert lines.left_out_before("a") == 5
    assert lines.filter(line("x"))


def start(stderr: int, *flags: str) -> tuple["subprocess.Popen[bytes]", int]:
    """A replica whose log goes there, and its port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dispatcher", "serve", "--bootstrap-servers", NO_BROKER, "--log-format", "json"]
    process = subprocess.Popen([*command, "--bind", f"127.0.0.1:{port}", *flags], stderr=stderr)
    deadline = time.monotonic() + seconds(20)
    while True:
        try:
            assert process.poll() is None
            assert requests.get(f"http://127.0.0.1:{port}/livez", timeout=seconds(10)).status_code == 200
        except httpx2.TransportError:
            if time.monotonic() > deadline:
                process.kill()
                raise
            time.sleep(0.05)
        else:
            return process, port


def malformed(port: int) -> None:
    """A request that breaks the protocol."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds(10)) as client, suppress(ConnectionError):
        client.sendall(MALFORMED)
        while client.recv(65536):
            pass


def test_a_replica_whose_log_nobody_reads(pipe: tuple[int, int]) -> None:
    """It continues to answer, counts dropped lines, and exits with 0 on SIGTERM."""
    os.set_blocking(pipe[1], False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe[1], b"x")
    os.set_blocking(pipe[1], True)
    process, port = start(pipe[1], "--log-level", "debug")
    try:
        for _ in range(30):
            malformed(port)
        assert requests.get(f"http://127.0.0.1:{port}/livez", timeout=seconds(10)).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds(15)) == 0
    finally:
        process.kill()
        process.wait()


def test_a_client_cannot_fill_the_log(replicas: Callable[..., Replica]) -> None:
    """100 broken requests become a handful of lines, and a count of the rest."""
    replica = replicas(NO_BROKER, TOPIC)
    for number in range(100):
        malformed(replica.port)
        requests.get(f"{replica.url}/events", headers={"Origin": f"https://{number}.example"})
    assert len(replica.logged("client broke the protocol")) <= BURST + 3
    assert len(replica.logged("request refused")) <= BURST + 3
    # Each open stream has its line in the access log, whose rate is bounded by itself (test_visits.py).
    assert len(replica.log.splitlines()) - len(replica.logged("stream ended")) < 40
    assert "Traceback" not in replica.log


def test_what_a_client_says_moves_no_cursor_of_a_terminal(tmp_path: Path) -> None:
    """A refused path may contain any character, which the log for people shows."""
    with (tmp_path / "log").open("wb") as log:
        process, port = start(log.fileno(), "--log-format", "console")
    try:
        path = "/%1b]0;title%07%e2%80%aeevents%c3%a9"
        refused = requests.get(f"http://127.0.0.1:{port}{path}", headers={"Host": "elsewhere.example"})
        assert refused.status_code == 421
    finally:
        process.terminate()
        process.wait()
    assert r"/\x1b]0;title\x07\u202eeventsé" in (tmp_path / "log").read_text()


def test_a_replica_without_standard_error() -> None:
    """``serve 2>&-`` serves."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    serve = f"exec {sys.executable} -m dispatcher serve --bootstrap-servers {NO_BROKER} --bind 127.0.0.1:{port} 2>&-"
    process = subprocess.Popen(["sh", "-c", serve])
    try:
        deadline = time.monotonic() + seconds(20)
        while True:
            assert process.poll() is None
            with suppress(httpx2.TransportError):
                assert requests.get(f"http://127.0.0.1:{port}/livez", timeout=seconds(10)).status_code == 200
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds(15)) == 0
    finally:
        process.kill()
        process.wait()


HELD = """
import time
from dispatcher.telemetry.status import ReplicaStatus
ReplicaStatus.why_not_ready = lambda self: time.sleep(600)
"""


def test_a_loop_that_is_held_cannot_hold_the_end(replicas: Callable[..., Replica]) -> None:
    """The last resort is a separate timer: after `shutdown_seconds` the process exits with 1."""
    replica = replicas(NO_BROKER, TOPIC, settings={"shutdown_seconds": 2}, code=HELD)
    with pytest.raises(httpx2.TimeoutException):
        requests.get(f"{replica.url}/readyz", timeout=1)
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 1


NO_TERMINAL = "import os\ntry:\n    os.setsid()\nexcept OSError:\n    pass\n"


def serial_number(replica: Replica) -> int:
    """Of the certificate that a new connection is shown."""
    import ssl

    from cryptography import x509

    pem = ssl.get_server_certificate(replica.address)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_hangup_reads_the_certificate_again(replicas: Callable[..., Replica], tmp_path: Path) -> None:
    """This works without a terminal; an unreadable file changes nothing, and is logged as an error."""
    path = tmp_path / "certificate.pem"
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    replica = replicas(NO_BROKER, TOPIC, settings={"tls_certificate": str(path)}, code=NO_TERMINAL)
    before = serial_number(replica)
    path.write_text("nonsense")
    replica.signal(signal.SIGHUP)
    error, *_ = replica.wait_until_logged("reload failed")
    assert "tls_certificate" in error["reason"]
    assert serial_number(replica) == before
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    replica.signal(signal.SIGHUP)
    replica.wait_until_logged("reloaded")
    assert serial_number(replica) != before
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0


@pytest.mark.parametrize("event", sorted(CLIENT_EVENTS))
def test_what_is_bounded_is_logged_by_that_name(event: str) -> None:
    """A renamed event would silently lose its bound."""
    files = Path(dispatcher.__file__).parent.rglob("*.py")
    assert any(f'"{event}"' in path.read_text() for path in files if path.name != "rates.py")
