"""Notifies systemd (sd_notify(3)): ready, alive, stopping. Without ``NOTIFY_SOCKET`` nothing is sent.

Rules of this module:

* *Ready* means that the replica listens. It does not wait for Kafka: a unit that is started while the brokers are away
  has started, and ``/readyz`` says what is missing.
* *Alive* is sent from the loop, so a loop that hangs is noticed, and systemd restarts the process.
* A notification that cannot be sent is no reason to end: systemd then sees a start or a watchdog that timed out.
"""

import os
import socket
from collections.abc import Mapping

import structlog
import trio

log = structlog.get_logger(__name__)

MICROSECONDS = 1_000_000


class Systemd:
    """The service manager, if it has started this process.

    *Thread*: any.

    Args:
        environment: Such as `os.environ`.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self.watchdog_seconds = _watchdog_seconds(environment) if path else None
        """Within this time the process has to show that it is alive; None: there is no watchdog."""

    def ready(self) -> None:
        """The replica listens."""
        self._notify("READY=1")

    def stopping(self) -> None:
        """The replica has begun to stop."""
        self._notify("STOPPING=1")

    async def watch(self) -> None:
        """Show that the loop is alive, twice per `watchdog_seconds`, until cancelled. *Cancellation*: safe."""
        while self.watchdog_seconds is not None:
            self._notify("WATCHDOG=1")
            await trio.sleep(self.watchdog_seconds / 2)

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notifier:
                notifier.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("systemd could not be notified", state=state, error=str(error))


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """``WATCHDOG_USEC``, unless ``WATCHDOG_PID`` names another process (sd_watchdog_enabled(3))."""
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid != str(os.getpid()):
        return None
    return int(microseconds) / MICROSECONDS
