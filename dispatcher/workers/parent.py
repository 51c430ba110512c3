"""The parent of several workers: starts and stops them together, and serves operators.

::

    run_workers()
      root nursery             a crash of our own code ends the parent, and with it every worker
      ├─ Member.run            one for each worker: starts its process, listens to it, restarts it
      ├─ Server.serve          `operations_bind`: the answers of all workers in one
      ├─ balance               lets a worker that is late send subscribers on
      ├─ WorkersStreams.run    passes administrators' orders also to processes that start later
      ├─ Authentication.run    with `[auth]`: keys for the tokens of administrators
      └─ signals               SIGTERM and SIGINT stop, SIGHUP and SIGUSR1 are passed on

A worker is a whole replica with its own consumer. All workers share the port, whose sockets the parent keeps open
(`sockets`), and no worker outlives the parent (`orders`).
"""

import os
import signal
from collections.abc import Callable
from functools import partial

import structlog
import trio

from dispatcher.auth_settings import AuthSettings
from dispatcher.errors import DispatcherError, SettingsError
from dispatcher.kafka.properties import check_properties
from dispatcher.settings import Settings
from dispatcher.supervisor import Reload, reload_each, reload_on_hangup
from dispatcher.telemetry.inspection import inspect
from dispatcher.telemetry.systemd import Systemd
from dispatcher.web.admin import Admin
from dispatcher.web.admin_access import AdminAccess
from dispatcher.web.app import create_operations_app
from dispatcher.web.authentication import FIXED, open_authentication
from dispatcher.web.server import Server
from dispatcher.web.sockets import tls_context
from dispatcher.workers.admin import WorkersStreams
from dispatcher.workers.balance import SAMPLE_SECONDS, Balance
from dispatcher.workers.member import LookUp, Member, MemberStatistics, describe
from dispatcher.workers.pages import WorkersStatus
from dispatcher.workers.plan import Machine, memory_problem, number_of_workers, settings_of
from dispatcher.workers.sockets import open_sockets

log = structlog.get_logger(__name__)

MARGIN_SECONDS = 1.0
"""How much longer than `shutdown_seconds`, after which a worker ends itself, the parent waits before it kills the
worker."""

KILLED_AT_START = 3
"""How often a worker that was killed (SIGKILL) is started again while none has been up: if memory is too small for any,
every start ends like this."""

Addresses = list[tuple[str, int]]


async def run_workers(
    settings: Settings,
    machine: Machine,
    *,
    read_settings: Callable[[], Settings] | None = None,
    hangup_stops: bool = False,
    look_up: LookUp | None = None,
    on_started: Callable[[Addresses, Addresses], object] = lambda *_: None,
) -> int:
    """Run workers until SIGTERM or SIGINT.

    *Cancellation*: kills the workers.

    Args:
        settings: The settings of all workers.
        machine: What the operating system grants.
        read_settings: Reads the settings again on SIGHUP, because grants may have changed.
        hangup_stops: See `supervise`.
        look_up: Finds offsets by time for the workers if the broker runs in this process.
        on_started: Called once every worker serves, with the addresses of `bind` and of `operations_bind`.

    Returns:
        The exit code: 0 if every worker has stopped cleanly.

    Raises:
        SettingsError: the settings are refused, or need more memory than the machine grants; nothing has started.
        OSError: an address cannot be listened on; nothing has started.
        BaseExceptionGroup: our own code crashed.
    """
    workers = number_of_workers(settings, machine)
    check_properties(settings)
    tls_context(settings)
    AdminAccess(settings, open_authentication(settings))
    if problem := memory_problem(settings, workers, machine):
        raise SettingsError([problem])
    sockets = open_sockets(*settings.bind_address, workers, settings.stall_timeout_seconds)
    try:
        members = [
            Member(str(number), settings_of(settings, number, workers), group, look_up)
            for number, group in enumerate(sockets, 1)
        ]
        addresses = [sock.getsockname()[:2] for sock in sockets[0]]
        parent = _Parent(settings, members, addresses, read_settings)
        return await parent.run(on_started, hangup_stops=hangup_stops)
    finally:
        for sock in (sock for group in sockets for sock in group):
            sock.close()


class _Parent:
    """Runs the workers and serves operators.

    Args:
        settings: The settings of all workers.
        members: The workers.
        addresses: Where the workers listen.
        read_settings: See `run_workers`.
    """

    def __init__(
        self,
        settings: Settings,
        members: list[Member],
        addresses: Addresses,
        read_settings: Callable[[], Settings] | None,
    ) -> None:
        self._settings = settings
        self._members = members
        self._addresses = addresses
        self._read_settings = read_settings or (lambda: settings)
        self._status = WorkersStatus(settings, members)
        self._authentication = open_authentication(settings, lambda: self._settings)
        self._access = AdminAccess(settings, self._authentication)
        self._streams = WorkersStreams(members, partial(os.kill, os.getpid(), signal.SIGTERM))
        self._all_up = trio.Event()
        self._stopping = trio.Event()
        self._ended = 0
        self._exit_code = 0

    def statistics(self) -> dict[str, MemberStatistics]:
        """Return a snapshot of each worker."""
        return {member.name: member.statistics() for member in self._members}

    async def run(self, on_started: Callable[[Addresses, Addresses], object], *, hangup_stops: bool) -> int:
        """See `run_workers`."""
        admin = Admin(self._streams, self._access)
        app = create_operations_app(self._settings, self._status, admin)
        server = Server(app, self._settings, for_operators=True)
        systemd = Systemd()
        async with trio.open_nursery() as root:
            # Before anything listens: whoever sees that the parent is there may signal it.
            await root.start(self._take_stop_signals, systemd)
            await root.start(self._take_reports)
            await root.start(partial(reload_on_hangup, self._reload, hangup_stops=hangup_stops))
            await root.start(server.serve)
            root.start_soon(systemd.watch)
            root.start_soon(self._streams.run)
            root.start_soon(self._balance)
            if self._authentication is not None:
                root.start_soon(self._authentication.run)
            root.start_soon(self._say_started, on_started, server, systemd)
            await self._run_members()
            await server.stop(0)
            root.cancel_scope.cancel()
        log.info("stopped")
        return self._exit_code

    async def _run_members(self) -> None:
        """Run every worker until all have ended after a stop; kill workers that take too long."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._limit_stop, nursery.cancel_scope)
            async with trio.open_nursery() as running:
                for member in self._members:
                    running.start_soon(member.run, self._up, self._note_end)
            nursery.cancel_scope.cancel()

    async def _limit_stop(self, everything: trio.CancelScope) -> None:
        await self._stopping.wait()
        await trio.sleep(self._settings.shutdown_seconds + MARGIN_SECONDS)
        log.error("stopping took too long, killing workers; uncommitted records will be delivered again")
        self._exit_code = self._exit_code or 1
        everything.cancel()

    async def _balance(self) -> None:
        """Sample the workers, and let one that is late send subscribers on; `spread_seconds = 0` turns this off."""
        members = {member.name: member for member in self._members}
        balance = Balance(self._settings.spread_seconds)
        while self._settings.spread_seconds:
            await trio.sleep(SAMPLE_SECONDS)
            order = balance.observe({name: member.take_load() for name, member in members.items()})
            if order is not None:
                members[order.worker].send_on(order.number)

    def _up(self) -> None:
        for member in self._members:
            member.keeps_port = False
        if all(member.has_been_up for member in self._members):
            self._all_up.set()

    def _note_end(self, member: Member) -> None:
        code = member.exit_code
        if self._stopping.is_set():
            # A worker that was stopped before it served had nothing to finish.
            if code not in {None, 0, -signal.SIGTERM, -signal.SIGKILL} or (code != 0 and member.has_served):
                log.error("worker did not stop cleanly", worker=member.name, reason=describe(code))
                self._exit_code = self._exit_code or 1
        elif not any(one.has_been_up for one in self._members) and (
            code != -signal.SIGKILL or member.statistics().restarts >= KILLED_AT_START
        ):
            # No worker could start: trying again would not help.
            log.error("worker could not start", worker=member.name, reason=describe(code))
            self._exit_code = code if code and code > 0 else 1
            self._stop()

    def _stop(self) -> None:
        self._status.is_stopping = True
        self._stopping.set()
        for member in self._members:
            member.stop()

    async def _say_started(
        self, on_started: Callable[[Addresses, Addresses], object], server: Server, systemd: Systemd
    ) -> None:
        await self._all_up.wait()
        log.info("all workers are up", workers=len(self._members))
        systemd.ready()
        on_started(self._addresses, server.addresses)

    async def _take_stop_signals(
        self, systemd: Systemd, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if self._stopping.is_set():
                    log.warning("stopping immediately")
                else:
                    log.info(
                        "stopping",
                        signal=signal.Signals(number).name,
                        shutdown_seconds=self._settings.shutdown_seconds,
                    )
                    systemd.stopping()
                self._stop()

    async def _take_reports(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            task_status.started()
            async for _ in signals:
                for member in self._members:
                    member.inspect()
                await inspect({"workers": self})

    async def _reload(self) -> None:
        """Read the settings again, and let every worker reload with the result."""
        given: Settings | None = None
        try:
            given = await trio.to_thread.run_sync(self._read_settings)
        except (DispatcherError, OSError) as error:
            # Certificates and keys are reloaded nevertheless.
            log.error("reload failed", what="settings", reason=str(error))  # noqa: TRY400 - that says it all
        kept = self._settings
        if given is not None and all(getattr(given, name) == getattr(kept, name) for name in FIXED):
            # Processes that start from now on get the settings that the others have reloaded.
            kept = kept.model_copy(update={name: getattr(given, name) for name in AuthSettings.model_fields})
        self._settings = kept
        for number, member in enumerate(self._members, 1):
            member.settings = settings_of(kept, number, len(self._members))
            member.reload(settings_of(given or kept, number, len(self._members)))
        reloads: list[Reload] = [self._access.reload_admin_token] if kept.admin_token_file else []
        if self._authentication is not None:
            reloads.append(self._authentication.reload)
        await reload_each(reloads)
