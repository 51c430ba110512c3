"""Real workers on real sockets, without a broker: how they start, are watched, and end."""

import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import orjson
import psutil
import pytest

from testbed import requests
from testbed.patience import seconds
from testbed.replicas import Replica

NOWHERE = "127.0.0.1:9"
"""No broker: nothing here needs one."""
SECRET = "0123456789abcdef" * 2
SETTINGS = {
    "workers": 2,
    "default_scope": "topic",
    "operations_bind": "127.0.0.1:0",
    "max_subscribers": 100,
    "history_bytes": "8MiB",
    "pause_above_bytes": "4MiB",
    "resume_below_bytes": "2MiB",
    "replay_concurrency": 1,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
SERVE = [sys.executable, "-m", "dispatcher", "serve", "--bootstrap-servers", NOWHERE, "--bind=127.0.0.1:0", *FLAGS]

Start = Callable[..., Replica]


def wait_until(what: str, condition: Callable[[], object], limit_seconds: float = 30.0) -> None:
    """Return when a condition holds."""
    deadline = time.monotonic() + seconds(limit_seconds)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def workers_of(status: dict[str, object]) -> list[dict[str, object]]:
    """The workers in a status."""
    workers = status["workers"]
    assert isinstance(workers, list)
    return workers


def are_up(status: dict[str, object]) -> bool:
    """Whether every worker answers."""
    return all(worker["up"] for worker in workers_of(status))


def pids(replica: Replica) -> dict[str, int]:
    """The processes of the workers, all of which are up."""
    return {str(one["worker"]): int(str(one["pid"])) for one in workers_of(replica.wait_for("workers up", are_up))}


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def reached(replica: Replica) -> str:
    """The name of the worker that a new stream has reached."""
    with httpx2.stream("GET", f"{replica.url}/events", timeout=seconds(10)) as response:
        line = next(line for line in response.iter_lines() if line.startswith("data: "))
    return str(orjson.loads(line.removeprefix("data: "))["replica"])


def is_served(replica: Replica) -> bool:
    """Whether a new connection is answered."""
    try:
        return requests.get(f"{replica.url}/livez", timeout=seconds(2)).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def running() -> Iterator[Replica]:
    """Two workers, for tests that leave them as they were."""
    replica = Replica(NOWHERE, "assets", settings=SETTINGS)
    try:
        pids(replica)
        yield replica
    finally:
        replica.end()


def test_operators_get_one_answer_for_all(running: Replica) -> None:
    """It has status, metrics and readiness, which `bind` does not serve."""
    status = running.status()
    assert [worker["worker"] for worker in workers_of(status)] == ["1", "2"]
    text = requests.get(f"{running.operations_url}/metrics", timeout=seconds(10)).text
    for name in ("1", "2"):
        assert f'dispatcher_worker_up{{worker="{name}"}} 1.0' in text
        assert f'replica="replica-{name}"' in text
    ready = requests.get(f"{running.operations_url}/readyz", timeout=seconds(10))
    assert ready.status_code == 503
    # librdkafka's own words, and so the number of reasons, may differ between the two.
    assert f": no Kafka broker is reachable at {NOWHERE}" in ready.json()["reasons"][0]
    assert requests.get(f"{running.operations_url}/livez", timeout=seconds(10)).status_code == 200
    assert running.get("/metrics").status_code == 404


def test_both_workers_take_connections(running: Replica) -> None:
    """The kernel spreads them, and streams name the worker that they reached."""
    wait_until("both have been reached", lambda: {reached(running) for _ in range(10)} == {"replica-1", "replica-2"})


def admin(replica: Replica, method: str, path: str, bearer: str = SECRET) -> httpx2.Response:
    """What an administrator is answered."""
    headers = {"Authorization": f"Bearer {bearer}"}
    return httpx2.request(method, f"{replica.operations_url}/admin/{path}", headers=headers, timeout=seconds(20))


def test_administrators_see_and_end_streams_of_all_workers(replicas: Start, tmp_path: Path) -> None:
    """Streams are listed, ended, drained in late processes, too, and stopped together."""
    (tmp_path / "token").write_text(SECRET)
    settings = {**SETTINGS, "admin_token_file": tmp_path / "token"}
    replica = replicas(NOWHERE, "assets", settings=settings)
    workers = pids(replica)
    assert admin(replica, "GET", "subscribers", "0" * 32).status_code == 401
    with ExitStack() as stack:

        def listed(query: str = "") -> list[dict[str, object]]:
            return list(admin(replica, "GET", f"subscribers{query}").json()["subscribers"])

        def is_spread() -> bool:
            stack.enter_context(httpx2.stream("GET", f"{replica.url}/events", timeout=seconds(60)))
            return {one["worker"] for one in listed()} == {"1", "2"}

        wait_until("both workers have a stream", is_spread)
        before = [one["id"] for one in listed()]
        assert admin(replica, "GET", "subscribers?limit=1").json()["next"] == before[0]
        assert admin(replica, "DELETE", f"subscribers/{before[-1]}").json() == {"disconnected": 1}
        wait_until("it has ended", lambda: before[-1] not in [one["id"] for one in listed()])
        left = len(listed())
        assert admin(replica, "POST", "disconnect?topic=assets").json() == {"disconnected": left, "unanswered": []}
        wait_until("all have ended", lambda: not listed())
    answer = admin(replica, "POST", "drain?seconds=0")
    assert (answer.status_code, answer.json()["draining"], answer.json()["unanswered"]) == (202, True, [])
    os.kill(workers["1"], signal.SIGKILL)
    replica.wait_for("another process", lambda status: workers_of(status)[0]["restarts"] == 1 and are_up(status))

    def reasons() -> str:
        return " ".join(requests.get(f"{replica.operations_url}/readyz", timeout=seconds(10)).json()["reasons"])

    wait_until("both drain", lambda: "worker 1, 2: an operator is draining the replica" in reasons())
    (tmp_path / "token").write_text("f" * 32)
    replica.signal(signal.SIGHUP)
    wait_until("the new token counts", lambda: admin(replica, "DELETE", "drain", "f" * 32).status_code == 200)
    assert admin(replica, "GET", "subscribers").status_code == 401
    wait_until("neither drains", lambda: "operator" not in reasons())
    admin(replica, "POST", "drain?seconds=0&stop=1", "f" * 32)
    assert replica.wait() == 0
    assert {line.get("worker") for line in replica.logged("stopped")} == {"1", "2", None}


def test_a_second_service_on_the_port_fails_clearly(running: Replica) -> None:
    """This holds with as many workers, which could share the port, and with one."""
    for workers in ("2", "1"):
        command = [sys.executable, "-m", "dispatcher", "serve", "--bootstrap-servers", NOWHERE, "--log-format=json"]
        command += ["--workers", workers, "--default-scope=topic", "--operations-bind=127.0.0.1:0"]
        command += ["--max-subscribers=100", "--bind", f"127.0.0.1:{running.port}"]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        assert result.returncode == 1
        assert [orjson.loads(line)["event"] for line in result.stderr.splitlines()][-1] == "cannot bind"


def test_signals_are_passed_on_and_lines_name_the_worker(running: Replica) -> None:
    """SIGHUP reloads and SIGUSR1 reports in every worker, and nothing ends."""
    before = pids(running)

    def workers_that_logged(event: str) -> set[object]:
        return {line.get("worker") for line in running.logged(event)}

    running.signal(signal.SIGHUP)
    wait_until("both have reloaded", lambda: workers_that_logged("reloaded") == {"1", "2"})
    running.signal(signal.SIGUSR1)
    wait_until("all have reported", lambda: workers_that_logged("statistics") >= {"1", "2", None})
    assert pids(running) == before


def test_workers_may_write_to_a_terminal_that_others_in_the_background_may_not() -> None:
    """Their process groups are in the background; `stty tostop` stops what writes from there."""
    ours, theirs = pty.openpty()
    # A session's first process gets the first terminal that it opens.
    on_terminal = ["sh", "-c", 'exec <"$0" >"$0" 2>&1; stty tostop; exec "$@"', os.ttyname(theirs)]
    parent = subprocess.Popen([*on_terminal, *SERVE], start_new_session=True)
    with os.fdopen(ours, "rb", buffering=0) as lines:
        seen = b""
        while b"all workers are up" not in seen and select.select([lines], [], [], seconds(30))[0]:
            seen += lines.read(1000)
        parent.send_signal(signal.SIGTERM if b"all workers are up" in seen else signal.SIGKILL)
        os.close(theirs)
        # Once nobody has the terminal open, reading from it fails.
        with suppress(OSError):
            while lines.read(1000):
                pass
    assert parent.wait() == 0


def test_a_terminal_signals_the_parent_alone(running: Replica) -> None:
    """Each worker has a process group, but no session: within one, the kernel compares niceness with others."""
    parent = running.process.pid
    for pid in pids(running).values():
        assert (os.getpgid(pid), os.getsid(pid)) == (pid, os.getsid(parent))


def test_a_worker_that_is_killed_comes_back_and_nobody_waits_for_it(running: Replica) -> None:
    """The others accept meanwhile, its port stays, and it is counted."""
    before = pids(running)
    os.kill(before["1"], signal.SIGKILL)
    running.wait_for("another process", lambda status: workers_of(status)[0]["restarts"] == 1)
    wait_until("a connection is served", lambda: is_served(running))
    after = pids(running)
    assert after["1"] != before["1"]
    assert after["2"] == before["2"]
    assert [line["reason"] for line in running.wait_until_logged("worker ended")] == ["SIGKILL"]


@pytest.mark.parametrize("fault", ["time.sleep(3600)", "sys.exit(3)"])
def test_nobody_waits_for_a_worker_that_never_came_up(replicas: Start, tmp_path: Path, fault: str) -> None:
    """Its first processes hang, or end, once the other one serves, which then gets all connections until it is back."""
    broken = tmp_path / "broken"
    broken.touch()
    started = (
        "import os, sys, time\n"
        f"broken = {str(broken)!r}\n"
        "while sys.argv[1] == 'worker-2' and os.path.exists(broken) and not os.path.getsize(broken):\n"
        "    time.sleep(0.05)\n"
        f"if sys.argv[1] == 'worker-2' and os.path.exists(broken):\n    {fault}\n"
    )
    code = f"from dispatcher.workers import member; member.START_CODE = {started!r} + member.START_CODE"
    replica = replicas(NOWHERE, "assets", settings=SETTINGS, code=code)
    replica.wait_until_logged("worker up")
    broken.write_text("from now on")
    wait_until("all connections are served", lambda: all(is_served(replica) for _ in range(20)))
    broken.unlink()
    if "sleep" in fault:
        os.kill(int(str(workers_of(replica.status())[1]["pid"])), signal.SIGKILL)
    pids(replica)
    wait_until("both have been reached", lambda: {reached(replica) for _ in range(10)} == {"replica-1", "replica-2"})


def test_a_worker_that_cannot_be_started_ends_nobody(replicas: Start) -> None:
    """The parent lacks descriptors for a restart, tries later, and the others continue."""
    replica = replicas(NOWHERE, "assets", settings=SETTINGS)
    before = pids(replica)
    parent = replica.process.pid
    _, most = resource.prlimit(parent, resource.RLIMIT_NOFILE)
    resource.prlimit(parent, resource.RLIMIT_NOFILE, (3, most))
    os.kill(before["1"], signal.SIGKILL)
    wait_until("it was tried", lambda: replica.logged("worker cannot be started"))
    resource.prlimit(parent, resource.RLIMIT_NOFILE, (most, most))
    after = pids(replica)
    assert after["1"] != before["1"]
    assert after["2"] == before["2"]
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0


def test_a_worker_that_hangs_is_ended_and_the_others_serve(replicas: Start) -> None:
    """Suspended, it first gets no connections and is then killed; limits are shortened here."""
    code = "from dispatcher.workers import member; member.UNHEARD_SECONDS, member.SILENT_SECONDS = 2.0, 4.0"
    replica = replicas(NOWHERE, "assets", settings=SETTINGS, code=code)
    before = pids(replica)
    os.kill(before["1"], signal.SIGSTOP)
    wait_until("it was noticed", lambda: "1" in {line["worker"] for line in replica.logged("worker hangs, killing it")})
    wait_until("a connection is served", lambda: is_served(replica))
    assert pids(replica)["1"] != before["1"]
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 0


def test_no_worker_outlives_its_parent(replicas: Start) -> None:
    """After kill -9 of the parent, workers stop as on SIGTERM."""
    replica = replicas(NOWHERE, "assets", settings=SETTINGS)
    workers = pids(replica)
    replica.signal(signal.SIGKILL)
    replica.wait()
    for name, pid in workers.items():
        wait_until(f"worker {name} is gone", lambda pid=pid: is_gone(pid))  # type: ignore[misc]
    assert {line["worker"] for line in replica.logged("stopped")} == {"1", "2"}


def test_a_worker_that_cannot_stop_is_not_waited_for(replicas: Start) -> None:
    """One that hangs at SIGTERM is killed in the end, and the exit code says so."""
    replica = replicas(NOWHERE, "assets", settings={**SETTINGS, "shutdown_seconds": 2})
    workers = pids(replica)
    os.kill(workers["2"], signal.SIGSTOP)
    replica.signal(signal.SIGTERM)
    assert replica.wait() == 1
    assert all(is_gone(pid) for pid in workers.values())
    assert {line.get("worker") for line in replica.logged("stopped")} == {"1", None}


def test_when_no_worker_can_start_the_parent_ends() -> None:
    """It does not retry, because settings or machine are wrong, and passes the exit code on."""
    code = (
        "import sys; from dispatcher.workers import member;"
        "member.START_CODE = 'raise SystemExit(3)';"
        "from dispatcher.command.main import main; main()"
    )
    command = [sys.executable, "-c", code, *SERVE[3:], "--log-format=json"]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 3
    events = [orjson.loads(line)["event"] for line in result.stderr.splitlines()]
    assert "worker could not start" in events
    assert events[-1] == "stopped"


KILLED_AT_START = """
import os, signal, sys
from pathlib import Path
starts = Path({folder!r}, sys.argv[1])
with starts.open("a") as file:
    file.write(".")
if starts.stat().st_size <= {times}:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("times", "code"), [(2, 0), (100, 1)])
def test_workers_that_are_killed_at_their_start_are_started_a_few_times(tmp_path: Path, times: int, code: int) -> None:
    """Settings and machine may be right; but in the end the parent gives up."""
    kill = KILLED_AT_START.format(folder=str(tmp_path), times=times)
    serve = (
        f"from dispatcher.workers import member; member.START_CODE = {kill!r} + member.START_CODE;"
        "from dispatcher.command.main import main; main()"
    )
    events = Counter[str]()
    with subprocess.Popen(
        [sys.executable, "-c", serve, *SERVE[3:], "--log-format=json"], stderr=subprocess.PIPE
    ) as parent:
        assert parent.stderr is not None
        for line in map(orjson.loads, parent.stderr):
            events[line["event"]] += 1
            if line["event"] == "all workers are up":
                parent.send_signal(signal.SIGTERM)
    assert parent.returncode == code
    assert events["worker could not start"] == code
    assert events["all workers are up"] == 1 - code
    assert code or events["worker ended"] == 2 * times


def test_one_signal_stops_all_of_them(running: Replica) -> None:
    """The exit code is 0, even just after a restart. This must be the last test with these workers."""
    workers = pids(running)
    starts = len(running.logged("worker started"))
    os.kill(workers["1"], signal.SIGKILL)
    wait_until("it is started again", lambda: len(running.logged("worker started")) > starts)
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert {line.get("worker") for line in running.logged("stopped")} >= {"2", None}
    started = [line["pid"] for line in running.logged("worker started")]
    assert all(is_gone(pid) for pid in started)
