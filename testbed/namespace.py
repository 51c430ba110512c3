"""A network namespace with two ways to it: one for subscribers, and one to the brokers, which can be cut.

::

    this namespace                           its own
      10.77.N.1  ── subscribers ──────────── 10.77.N.2    a replica listens here
      10.77.N.5  ── brokers, can be cut ──── 10.77.N.6    and reaches 10.77.N.9 this way
      10.77.N.9  brokers listen here

It needs root and iproute2.
"""

import os
import random
import shutil
import subprocess
from types import TracebackType
from typing import Self


def why_not() -> str | None:
    """Why there can be no namespace on this machine; None when there can."""
    if os.geteuid():
        return "a network namespace needs root"
    if shutil.which("ip") is None:
        return "a network namespace needs iproute2"
    probe = f"probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode:
        return "this machine lets nobody make a network namespace"
    _ip("netns", "del", probe)
    return None


class Namespace:
    """A namespace for the body of the ``with`` block."""

    def __init__(self) -> None:
        number = random.randrange(256)  # noqa: S311 - one that nobody else here has at the moment
        self._name = f"replica-{os.getpid()}-{number}"
        self._subscribers, self._brokers = f"sub{number}", f"bro{number}"
        self._net = f"10.77.{number}"

    @property
    def replica_host(self) -> str:
        """Where a replica in the namespace listens."""
        return f"{self._net}.2"

    @property
    def broker_host(self) -> str:
        """Where brokers outside listen."""
        return f"{self._net}.9"

    @property
    def command(self) -> tuple[str, ...]:
        """What a command begins with that is to run inside."""
        return "ip", "netns", "exec", self._name

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            for device, ours, theirs in ((self._subscribers, 1, 2), (self._brokers, 5, 6)):
                _ip("link", "add", device, "type", "veth", "peer", "name", "to-" + device, "netns", self._name)
                _ip("addr", "add", f"{self._net}.{ours}/30", "dev", device)
                _ip("link", "set", device, "up")
                _ip("-n", self._name, "addr", "add", f"{self._net}.{theirs}/30", "dev", "to-" + device)
                _ip("-n", self._name, "link", "set", "to-" + device, "up")
            _ip("-n", self._name, "link", "set", "lo", "up")
            _ip("addr", "add", f"{self.broker_host}/32", "dev", self._subscribers)
            _ip("-n", self._name, "route", "add", self.broker_host, "via", f"{self._net}.5")
            # While the way is cut, answers of the brokers go nowhere, not to the default gateway.
            _ip("route", "add", "blackhole", f"{self._net}.4/30", "metric", "9999")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        subprocess.run(["ip", "route", "del", "blackhole", f"{self._net}.4/30"], check=False, capture_output=True)
        for device in (self._subscribers, self._brokers):
            subprocess.run(["ip", "link", "del", device], check=False, capture_output=True)
        _ip("netns", "del", self._name)

    def cut(self) -> None:
        """Let nothing through to the brokers or back; nobody is notified."""
        _ip("link", "set", self._brokers, "down")

    def cut_subscribers(self) -> None:
        """Let nothing through to the subscribers or back, for good; nobody is notified."""
        _ip("link", "set", self._subscribers, "down")

    def heal(self) -> None:
        """Let everything through again."""
        _ip("link", "set", self._brokers, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
