"""A forked replica is what a started one is, to all who look at it from outside."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed import forking
from testbed.patience import seconds
from testbed.replicas import Replica

NO_BROKER = "127.0.0.1:1"
TOPIC = "assets"
END_SECONDS = 15.0

KEPT = {"Groups", "NoNewPrivs", "Seccomp", "SigBlk", "SigCgt", "SigIgn", "Umask"}
"""What is compared of ``/proc/PID/status``."""

ASKS_FOR_ONE = f"""
import signal
from testbed import forking
with open({os.devnull!r}, "wb") as log:
    arguments = ["serve", "--bootstrap-servers={NO_BROKER}", "--topics=assets", "--bind=127.0.0.1:0"]
    fork = forking.start(arguments, log.fileno(), log.fileno())
print(fork.pid, flush=True)
signal.pause()
"""


def seen(replica: Replica) -> dict[str, Any]:
    """What the kernel knows of a replica's process."""
    process = psutil.Process(replica.process.pid)
    status = [line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()]
    # A socket or a pipe has a number that nothing else has.
    shared = descriptors(process.pid) & (descriptors(process.ppid()) | descriptors(os.getpid()))
    return {
        **{name: value for name, value in status if name in KEPT},
        "descriptors": shared,
        "folder": process.cwd(),
        "limit": process.rlimit(psutil.RLIMIT_NOFILE),
        "niceness": process.nice(),
        "process group": os.getpgid(process.pid),
        "session": os.getsid(process.pid),
    }


def descriptors(pid: int) -> set[str]:
    """What the descriptors of a process refer to."""
    found = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(one.readlink()))
    return found


def test_a_fork_is_what_a_command_is(replicas: Callable[..., Replica]) -> None:
    """Signals, descriptors, limits, groups and threads are the same."""
    forked, fresh = replicas(NO_BROKER, TOPIC), replicas(NO_BROKER, TOPIC, fresh=True)
    assert isinstance(forked.process, forking.Fork)
    assert isinstance(fresh.process, subprocess.Popen)
    for replica in (forked, fresh):
        replica.wait_until_logged("kafka client error")
        assert replica.get("/livez").status_code == 200
    assert seen(fresh) == seen(forked)
    assert len({os.getpid(), forked.process.pid, fresh.process.pid}) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGABRT])
def test_a_fork_ends_as_a_command_does(replicas: Callable[..., Replica], number: signal.Signals) -> None:
    """The exit code is the same, and whether it stopped in order."""
    ends = []
    for fresh in (True, False):
        replica = replicas(NO_BROKER, TOPIC, settings={"shutdown_seconds": 60}, fresh=fresh)
        replica.signal(number)
        code = replica.wait()
        ends.append((code, bool(replica.logged("stopped"))))
        assert replica.process.poll() == code
    assert ends[0] == ends[1]


def test_a_fork_gets_what_the_test_sets(
    replicas: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Arguments, environment and folder are those of the start; a wrong setting is reported as a command does it."""
    tmp_path.joinpath("dispatcher.toml").write_text("heartbeat_seconds = -2")
    said = []
    for fresh in (True, False):
        with monkeypatch.context() as patched:
            patched.chdir(tmp_path)
            patched.setenv("DISPATCHER_MAX_SUBSCRIBERS", "-3")
            with pytest.raises(AssertionError, match="did not start listening") as raised:
                Replica(NO_BROKER, TOPIC, settings={"history_bytes": -4}, fresh=fresh)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert all(name in said[0] for name in ("heartbeat_seconds", "MAX_SUBSCRIBERS", "history-bytes"))
    later = replicas(NO_BROKER, TOPIC)
    assert Path(f"/proc/{later.process.pid}/cwd").resolve() == Path.cwd()


def test_a_fork_that_runs_passes_a_deadline(replicas: Callable[..., Replica]) -> None:
    """Waiting for its end raises what a command's raises, and the end is seen afterwards."""
    replica = replicas(NO_BROKER, TOPIC)
    with pytest.raises(subprocess.TimeoutExpired):
        replica.process.wait(0.01)
    assert replica.process.poll() is None
    replica.process.kill()
    assert replica.process.wait() == -signal.SIGKILL
    replica.process.kill()


def test_no_fork_outlives_the_process_that_asked_for_it() -> None:
    """It ends, too, if that process is killed."""
    command = [sys.executable, "-c", ASKS_FOR_ONE]
    with subprocess.Popen(command, cwd=forking.ROOT, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        fork = psutil.Process(int(asking.stdout.readline()))
        assert fork.is_running()
        asking.kill()
    _, alive = psutil.wait_procs([fork], timeout=seconds(END_SECONDS))
    assert not alive
