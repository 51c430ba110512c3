"""One worker as the parent sees it: its process, its sockets, what it has reported, and when it is restarted."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from dispatcher.settings import Settings
from dispatcher.workers.balance import Load
from dispatcher.workers.channel import Channel
from dispatcher.workers.life import LOOK_SECONDS, Life
from dispatcher.workers.orders import STOP, Orders, encode_settings
from dispatcher.workers.plan import Restarts, Silence
from dispatcher.workers.sockets import begin_listening, end_listening

log = structlog.get_logger(__name__)

START_SECONDS = 120.0
"""How long a worker may take until its first report."""
SILENT_SECONDS = 10.0
"""A worker that has not reported for this long is killed."""
UNHEARD_SECONDS = 5.0
"""A worker that has not reported for this long gets no new connections."""
END_SECONDS = 2.0
"""How long a killed process may take to disappear."""
AWAY_SECONDS = 2.0
"""How long connections to a worker that does not serve wait for it, once any worker has been up."""
START_CODE = """\
import signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
sys.path[:] = sys.argv[2].split('\\n')
from dispatcher.command.loading import loading
with loading():
    from dispatcher.command.worker import main
main()
"""
"""Lets the worker write to any terminal (`stty tostop`), and import modules from where the parent does."""

_MANAGERS_VARIABLES = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
"""Not passed on to workers: only the parent talks to the service manager."""

LookUp = Callable[[Sequence[tuple[str, int]], int], Sequence[int | None]]
"""Finds, for each partition, the first offset with this time (in milliseconds) or a later one."""


@dataclass(frozen=True, slots=True)
class MemberStatistics:
    """A snapshot."""

    pid: int | None
    is_up: bool
    restarts: int
    silent_seconds: float
    sent_on: int
    """Subscribers that it was ordered to send on to other workers."""


class Member:
    """A worker, across the restarts of its process.

    *Thread*: Trio's.

    Args:
        name: The worker's number, as text.
        settings: The worker's own settings, for processes that start from now on.
        sockets: Its listening sockets, which stay open as long as the parent lives.
        look_up: Finds offsets by time if the broker runs in the parent; None otherwise.
    """

    def __init__(
        self, name: str, settings: Settings, sockets: Sequence[socket.socket], look_up: LookUp | None = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.has_been_ready = False
        self.has_been_up = False
        self.keeps_port = True
        """Whether the sockets listen although no process has reported yet: no other worker has been up either."""
        self._sockets = sockets
        self._look_up = look_up
        self._life: Life | None = None
        self._away = Silence(LOOK_SECONDS)
        self._is_listening = True
        self._stopping = trio.Event()
        self._restarts = self._sent_on = 0
        self._heard = trio.Event()
        self.exit_code: int | None = None
        """The exit code of the last process that has ended."""
        self.has_served = False
        """Whether that process had served."""

    def _is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def is_up(self) -> bool:
        """Whether the worker serves, according to its last report."""
        return self._life is not None and self._life.is_up

    @property
    def reasons(self) -> list[str]:
        """Why the worker is not ready."""
        if self._life is None:
            return ["it has ended and is being restarted"]
        if self._life.silence.seconds >= UNHEARD_SECONDS and self._life.is_up:
            return ["its event loop hangs"]
        return list(self._life.reasons)

    @property
    def degraded(self) -> list[str]:
        """What the worker reports about the health of topics and the group."""
        return list(self._life.degraded) if self._life else []

    @property
    def drain(self) -> int:
        """The number of the last order to drain, or to end a drain, that the process has carried out; 0 for none."""
        return self._life.drain if self._life else 0

    @property
    def subscribers(self) -> int:
        """How many subscribers the worker reported last."""
        return self._life.subscribers if self._life else 0

    async def wait_heard(self) -> None:
        """Wait for the next report. *Cancellation*: safe."""
        await self._heard.wait()

    def statistics(self) -> MemberStatistics:
        """A snapshot."""
        silent_seconds = self._life.silence.seconds if self._life else 0.0
        return MemberStatistics(
            self._life.process.pid if self._life else None, self.is_up, self._restarts, silent_seconds, self._sent_on
        )

    async def run(self, up: Callable[[], None], ended: Callable[["Member"], None]) -> None:
        """Start the process, and restart it whenever it ends, until it ends after `stop`.

        *Cancellation*: kills the process.

        Args:
            up: Called at the first report of each process.
            ended: Called when a process has ended.
        """
        restarts = Restarts()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            while not self._is_stopping():
                began = trio.current_time()
                try:
                    process, channel, orders = await self._start()
                except (OSError, RuntimeError) as error:
                    # No descriptors, memory, processes or threads are left: the others serve, and later this may
                    # succeed.
                    log.error("worker cannot be started", worker=self.name, reason=str(error))  # noqa: TRY400
                    self.exit_code, self.has_served = None, False
                else:
                    await self._live(process, channel, orders, up)
                ended(self)
                if self._is_stopping():
                    break
                pause = restarts.pause_seconds(trio.current_time() - began)
                log.error("worker ended", worker=self.name, reason=describe(self.exit_code), pause_seconds=pause)
                self._restarts += 1
                with trio.move_on_after(pause):
                    await self._stopping.wait()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Let the process drain and end; a second call makes it end immediately."""
        self._stopping.set()
        self._end_listening()
        if self._life is not None:
            with suppress(OSError):  # it has ended, or has not started to read
                os.write(_stdin(self._life.process).fileno(), STOP)
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process."""
        self._signal(signal.SIGKILL)

    def reload(self, settings: Settings) -> None:
        """Let the process reload what may change at run time, with these settings; at the latest once it serves."""
        if self._life is not None:
            self._life.channel.post({"settings": encode_settings(settings)})

    def inspect(self) -> None:
        """Let the process write its report to the log."""
        if self._life is not None:
            self._life.channel.post({"inspect": True})

    def order_drain(self, number: int, seconds: float | None) -> None:
        """Order a drain within some seconds, or with None the end of a drain; `drain` shows when it is carried out."""
        if self._life is not None:
            self._life.channel.post({"drain": number, "seconds": seconds})

    def send_on(self, number: int) -> None:
        """Order the process to send this many of its subscribers on to other workers."""
        if self._life is not None and self._life.channel.post({"send_on": number}):
            self._sent_on += number

    def take_load(self) -> Load | None:
        """Return the worker's load since the last call; None if it has not reported since, is not ready, or stops."""
        late_seconds = self._life.take_late_seconds() if self._life else None
        if late_seconds is None or self.reasons or self._is_stopping():
            return None
        return Load(late_seconds, self.subscribers)

    async def ask(self, what: str, **question: Any) -> bytes | None:
        """Ask for ``status``, ``metrics`` and so on; returns None if the process does not answer.

        *Cancellation*: safe.
        """
        return await self._life.ask(what, question) if self._life is not None and self._life.is_up else None

    async def _live(self, process: trio.Process, channel: Channel, orders: Orders, up: Callable[[], None]) -> None:
        """Run one process to its end."""
        self._life = life = Life(process, channel)
        log.info("worker started", worker=self.name, pid=process.pid)
        if self.settings != orders.settings:  # `reload` was called before there was a process
            self.reload(self.settings)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_give, process, orders)
                nursery.start_soon(life.channel.run)
                nursery.start_soon(self._hear, life, up)
                if self._is_stopping():  # `stop` was called before there was a process
                    process.kill()
                self.exit_code = await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._life = None
            self.has_served = life.is_up
            if life.is_up:  # processes that end before their first report do not bring the worker back
                self._away.heard()
            life.close()
            process.kill()
            # Close it first: a process that hangs in the kernel may not be reaped in time, and our end would stay open.
            _stdin(process).close()
            with trio.move_on_after(END_SECONDS, shield=True):
                await process.wait()

    async def _start(self) -> tuple[trio.Process, Channel, Orders]:
        """Start a process; returns it, our end of its channel, and its orders.

        Raises:
            OSError, RuntimeError: it cannot be started now.
        """
        ours, theirs = socket.socketpair()
        sockets = tuple(sock.fileno() for sock in self._sockets)
        orders = Orders(self.name, self.settings, sockets, theirs.fileno(), is_embedded=self._look_up is not None)
        with theirs:
            try:
                process = await self._open((*sockets, theirs.fileno()))
            except BaseException:
                ours.close()
                raise
        return process, Channel(ours), orders

    async def _open(self, descriptors: Sequence[int]) -> trio.Process:
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-c", START_CODE, f"worker-{self.name}", "\n".join(sys.path)],
            stdin=subprocess.PIPE,
            pass_fds=descriptors,
            # Ctrl-C is for the parent alone. In a session, niceness would not count either (sched(7), "autogroup").
            process_group=0,
            env={name: value for name, value in os.environ.items() if name not in _MANAGERS_VARIABLES},
        )

    async def _hear(self, life: Life, up: Callable[[], None]) -> None:
        while (received := await life.channel.receive()) is not None:
            message, payload = received
            if "alive" in message:
                self._note_life(life, message, up)
            elif "answer" in message:
                life.answered(message["answer"], payload)
            elif "lookup" in message and self._look_up is not None:
                partitions = [(str(topic), int(partition)) for topic, partition in message["partitions"]]
                found = self._look_up(partitions, message["since_ms"])
                life.channel.post({"lookup": message["lookup"], "found": found})

    def _note_life(self, life: Life, message: Mapping[str, Any], up: Callable[[], None]) -> None:
        life.silence.heard()
        life.reasons, life.degraded = message["reasons"], message["degraded"]
        life.drain, life.subscribers = message["drain"], message["subscribers"]
        life.heard_late(message["late_seconds"])
        self.has_been_ready |= message["has_been_ready"]
        if not self._is_listening and not self._is_stopping():
            self._is_listening = True
            begin_listening(self._sockets)
        if not life.is_up:
            life.is_up = self.has_been_up = True
            self.keeps_port = False
            log.info("worker up", worker=self.name, pid=life.process.pid)
            up()
        self._heard.set()
        self._heard = trio.Event()

    async def _look(self) -> None:
        """Stop a silent worker from listening, and kill it if it stays silent."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            life = self._life
            # Until any worker serves, connections wait for the first that does, so no other service takes the port.
            if not (self.is_up or self.keeps_port) and self._away.look() >= AWAY_SECONDS:
                self._end_listening()
            if life is not None:
                silent_seconds = life.silence.look()
                if life.is_up and silent_seconds >= UNHEARD_SECONDS:
                    self._end_listening()
                if silent_seconds >= (SILENT_SECONDS if life.is_up else START_SECONDS):
                    log.error("worker hangs, killing it", worker=self.name, silent_seconds=silent_seconds)
                    life.process.kill()

    def _end_listening(self) -> None:
        if self._is_listening:
            self._is_listening = False
            end_listening(self._sockets)

    def _signal(self, number: int) -> None:
        if self._life is not None:
            self._life.process.send_signal(number)


async def _give(process: trio.Process, orders: Orders) -> None:
    with suppress(trio.BrokenResourceError):  # it has ended already
        await _stdin(process).send_all(orders.encode())


def _stdin(process: trio.Process) -> trio.lowlevel.FdStream:
    assert isinstance(process.stdin, trio.lowlevel.FdStream)  # noqa: S101 - it is a pipe
    return process.stdin


def describe(exit_code: int | None) -> str:
    """How a process has ended, in words."""
    if exit_code is None:
        return "it was not started"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"signal {-exit_code}"
