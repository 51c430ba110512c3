"""The nursery tree: start order, signals, drain, stop order.

docs/architecture.md draws the tree. Below its root are the servers for clients and operators, the tasks for signals,
and the pipeline. A crash of our own code in any of them ends the process with exit 1, and the orchestrator restarts it.
The server listens before the poller joins the group.

The order of a stop: not ready; take nothing more from Kafka; say goodbye to every subscriber when its write is
done; commit; leave the group; close the server. A timer outside Trio ends the process when `shutdown_seconds` have
passed, whatever a client or a broker does.
"""

import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import structlog
import trio

from dispatcher.crashes import log_crash
from dispatcher.errors import DispatcherError
from dispatcher.hub.goodbyes import restart
from dispatcher.hub.hub import Hub
from dispatcher.hub.spreading import spread_subscribers
from dispatcher.invariants import invariants
from dispatcher.kafka.properties import check_properties
from dispatcher.kafka.replay import Replays
from dispatcher.kafka.spacing import WORKERS_SHARE
from dispatcher.kafka.threads import check_threads
from dispatcher.pipeline import Pipeline
from dispatcher.process import LastResort, tune_process
from dispatcher.settings import Settings
from dispatcher.telemetry.inspection import inspect_on_signal
from dispatcher.telemetry.snapshot import AccessStatistics
from dispatcher.telemetry.status import ReplicaStatus
from dispatcher.telemetry.systemd import Systemd
from dispatcher.telemetry.tracing import run_tracing
from dispatcher.web.admin import Admin
from dispatcher.web.admin_access import AdminAccess
from dispatcher.web.admin_streams import OwnStreams
from dispatcher.web.app import create_app, create_operations_app
from dispatcher.web.authentication import open_authentication
from dispatcher.web.draining import Drain
from dispatcher.web.limits import Limits
from dispatcher.web.operations import Operations
from dispatcher.web.refusals import Refusals
from dispatcher.web.server import Server
from dispatcher.web.visits import Visits

log = structlog.get_logger(__name__)

Reload = Callable[[], Awaitable[None]]
"""Reloads changed files on SIGHUP; raises, and changes nothing, if they cannot be read."""


class Parent(Protocol):
    """The process that started this one as one of several (`workers`)."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The listening sockets."""

    async def serve(self, operations: Operations, streams: OwnStreams, hub: Hub, reload: Reload) -> None:
        """Show the parent that the loop runs, and serve its requests, until cancelled.

        Args:
            operations: What the replica reports about itself.
            streams: What administrators see and change.
            hub: Says how late it is, and sends subscribers on.
            reload: Does what SIGHUP does.
        """


SUBSCRIBERS_SHARE = 0.3
"""The share of `shutdown_seconds` that subscribers have to finish writes and receive their goodbye."""

INSPECTED_SUBSCRIBERS = 20
"""The number of random subscribers whose statistics SIGUSR1 writes."""

CONNECTIONS_SHARE = 0.1
"""The share for connections to end after that."""


async def supervise(
    settings: Settings,
    make_replays: Callable[..., Replays] = Replays,
    *,
    read_settings: Callable[[], Settings] | None = None,
    hangup_stops: bool = False,
    parent: Parent | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run one replica until SIGTERM or SIGINT; started when it listens.

    *Cancellation*: commits what was dispatched, leaves the group, closes every connection.

    Args:
        settings: The dispatcher's settings.
        make_replays: See `Pipeline`.
        read_settings: Reads the settings again on SIGHUP, for their grants.
        hangup_stops: Whether SIGHUP stops the process, even without a terminal, instead of reloading files.
        parent: Has this process as one of its workers, and answers operators for all of them.
        task_status: See `trio.Nursery.start`.

    Raises:
        SettingsError: librdkafka refuses its properties, or the file with the issuer's keys has none; nothing has
            started.
        ResourcesError: there are too few threads, or too little memory, for the Kafka clients; nothing has started.
        OSError: the address cannot be bound; nothing has joined the group.
        BaseExceptionGroup: our own code crashed; what was dispatched is committed.
    """
    check_threads(settings)
    check_properties(settings)
    authentication = open_authentication(settings, read_settings)
    admin_access = AdminAccess(settings, authentication)
    tune_process()
    pipeline = Pipeline(settings, make_replays, spacing=0.0 if parent is None else WORKERS_SHARE)
    pipeline.open_replays()
    limits = Limits(settings)
    visits, refusals = Visits(writes_log=settings.access_log), Refusals()
    drain = Drain(pipeline.hub, partial(os.kill, os.getpid(), signal.SIGTERM))
    streams = OwnStreams(visits, drain)
    operations = ReplicaStatus(
        settings,
        pipeline,
        lambda: AccessStatistics(
            server.connections,
            server.statistics(),
            limits.statistics(),
            dict(refusals.counts),
            {str(ending): number for ending, number in visits.endings.items()},
            visits.left_out,
            None if authentication is None else authentication.statistics(),
        ),
        lambda: drain.is_on,
    )
    app = create_app(
        pipeline.hub,
        settings,
        operations,
        limits,
        authentication,
        visits=visits,
        is_draining=lambda: drain.is_on,
        refusals=refusals,
    )
    server = Server(
        app,
        settings,
        lambda: pipeline.hub.subscribers,
        direct=app.direct,
        gives_way=pipeline.hub.catch_up_pace,
        sockets=parent.sockets if parent else (),
    )
    for_operators = Server(
        create_operations_app(settings, operations, Admin(streams, admin_access)), settings, for_operators=True
    )
    last_resort, systemd = LastResort(settings.shutdown_seconds), Systemd()
    try:
        async with trio.open_nursery() as root:
            for run in (
                last_resort.watch,
                visits.run,
                drain.run,
                partial(run_tracing, settings, pipeline.hub.times),
                partial(spread_subscribers, pipeline.hub, settings.spread_seconds, lambda: pipeline.health().joined),
            ):
                root.start_soon(log_crash, run, name=run)
            roots = {"pipeline": pipeline, "server": server, "limits": limits, "invariants": invariants}
            await root.start(inspect_on_signal, roots, lambda: _sample(pipeline))
            # Before anything listens: whoever learns that the replica is up may stop it.
            await root.start(_stop_on_signal, pipeline, settings, last_resort, systemd, root.cancel_scope)
            reloads: list[Reload] = [server.reload_certificate]
            if settings.admin_token_file:
                reloads.append(admin_access.reload_admin_token)
            if authentication is not None:
                reloads.append(authentication.reload)
            reload = partial(reload_each, reloads)
            await root.start(partial(reload_on_hangup, reload, hangup_stops=hangup_stops))
            if settings.operations_bind and parent is None:
                await root.start(log_crash, for_operators.serve, name=for_operators.serve)
            if authentication is not None:
                root.start_soon(log_crash, authentication.run, name=authentication.run)
            await root.start(log_crash, server.serve, name=server.serve)
            _warn_of_any_host(settings)
            if parent is not None:
                run = partial(parent.serve, operations, streams, pipeline.hub, reload)
                root.start_soon(log_crash, run, name=parent.serve)
            root.start_soon(log_crash, systemd.watch, name=systemd.watch)
            systemd.ready()
            task_status.started(server)
            await pipeline.run()
            await server.stop(settings.shutdown_seconds * CONNECTIONS_SHARE)
            await for_operators.stop(0)
            root.cancel_scope.cancel()
    finally:
        last_resort.disarm()
    log.info("stopped")


def _warn_of_any_host(settings: Settings) -> None:
    """Warn once that DNS rebinding is possible: a foreign name can lead browsers to this address."""
    if not (settings.is_bound_to_loopback or settings.allowed_hosts or settings.auth_issuer):
        log.warning(
            "any Host is accepted: set allowed_hosts to the names that clients use",
            bind=settings.bind,
            reason="a web page elsewhere can point its own name at this address (DNS rebinding)",
        )


def _sample(pipeline: Pipeline) -> Mapping[str, object]:
    chosen = pipeline.hub.sample_subscribers(min(INSPECTED_SUBSCRIBERS, pipeline.hub.subscribers))
    return {f"subscriber {subscriber.number}": subscriber.statistics() for subscriber in chosen} | {
        "trio": str(trio.lowlevel.current_statistics())
    }


async def _stop_on_signal(
    pipeline: Pipeline,
    settings: Settings,
    last_resort: LastResort,
    systemd: Systemd,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals, last_resort.armed_by_signals():
        task_status.started()
        number = await anext(signals)
        log.info("stopping", signal=signal.Signals(number).name, shutdown_seconds=settings.shutdown_seconds)
        systemd.stopping()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop, pipeline, settings)
            await anext(signals)
            log.warning("stopping immediately")
            everything.cancel()


async def _stop(pipeline: Pipeline, settings: Settings) -> None:
    pipeline.stop_fetching()
    pipeline.hub.say_goodbye(restart)
    with trio.move_on_after(settings.shutdown_seconds * SUBSCRIBERS_SHARE):
        await pipeline.hub.wait_no_subscribers()
    pipeline.stop()


async def reload_on_hangup(
    reload: Reload, *, hangup_stops: bool, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """On SIGHUP reload certificates and everything else that can change; stop if it was a closed terminal.

    Shells send it to the programs in a terminal that is closed, operators to daemons whose files have changed.
    """
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            if hangup_stops or _has_terminal():
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                await reload()


async def reload_each(reloads: Sequence[Reload]) -> None:
    """Reload several things; one that cannot be read stays as it was, and is logged."""
    for reload in reloads:
        try:
            await reload()
        except Exception as error:  # noqa: BLE001
            # The previous ones stay: a mistake in a file must not end the streams.
            reason = str(error) if isinstance(error, DispatcherError | OSError) else type(error).__name__
            log.error("reload failed", what=reload.__name__, reason=reason)  # noqa: TRY400 - that says it all
        else:
            log.info("reloaded", what=reload.__name__)


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal (POSIX, "controlling terminal")."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
