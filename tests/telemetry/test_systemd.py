"""systemd is notified of the start, of a living loop, and of the stop."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from dispatcher.telemetry.systemd import Systemd
from testbed.patience import seconds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(seconds(20))
        yield listener


def test_a_replica_says_that_it_is_ready_alive_and_stopping(manager: socket.socket) -> None:
    """`dispatcher demo`, started as by systemd, is ready once it listens, and stops with exit code 0."""
    environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    environment.pop("WATCHDOG_PID", None)
    command = [sys.executable, "-m", "dispatcher", "demo", "--bind", "127.0.0.1:0", "--log-format", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            heard = [manager.recv(100) for _ in range(4)]
            assert sorted(heard[:2]) == [b"READY=1", b"WATCHDOG=1"]
            assert heard[2:] == [b"WATCHDOG=1"] * 2
            process.send_signal(signal.SIGTERM)
            while manager.recv(100) != b"STOPPING=1":
                pass
            assert process.wait(seconds(20)) == 0
        finally:
            process.kill()


def test_an_abstract_socket_is_found(tmp_path: Path) -> None:
    """A leading @ means a null byte (sd_notify(3))."""
    name = f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name[1:]}")
        listener.settimeout(seconds(5))
        Systemd({"NOTIFY_SOCKET": name}).stopping()
        assert listener.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_this_process_only(environment: dict[str, str], expected: float | None) -> None:
    """Its time is read as sd_watchdog_enabled(3) says."""
    assert Systemd({"NOTIFY_SOCKET": "/nowhere", **environment}).watchdog_seconds == expected


async def test_without_systemd_nothing_is_sent_and_nothing_waits() -> None:
    """This holds if its variables are left over, and if its socket is gone."""
    for environment in ({}, {"WATCHDOG_USEC": "1000"}):
        systemd = Systemd(environment)
        systemd.ready()
        await systemd.watch()
    Systemd({"NOTIFY_SOCKET": "/nowhere/notify"}).ready()


async def test_a_loop_that_hangs_sends_no_sign_of_life(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    """A running loop sends one at once, and one in each half of the time."""
    del autojump_clock
    manager.setblocking(False)
    with trio.move_on_after(3.5):
        await Systemd({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000"}).watch()
    assert [manager.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
    with pytest.raises(BlockingIOError):
        manager.recv(100)
