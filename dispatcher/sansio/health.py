"""The health of the replica: events go in; the state, the last error and log lines come out.

Rules of this module:

* Three facts decide the state of a group member: whether a broker is reachable, whether the group is rebalancing, and
  whether anything is assigned. A replica that has left the group on purpose is in standby, as long as a broker is
  reachable. `EFFECTS` says what each event does to the facts, and `STATES` what follows from them for a member.
* librdkafka repeats an error as long as its cause lasts. The log gets one line per error until all is well again.
* An error that has not recurred for `ERROR_FORGOTTEN_SECONDS` is over, and so is every error once a broker is reachable
  again or something is assigned.
* "All brokers are down" says less than the error before it, which names the address at fault, and so replaces none.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Literal, NamedTuple, Protocol

ERROR_FORGOTTEN_SECONDS = 30.0
"""An error that has not recurred for this long is over: librdkafka repeats a lasting one with each metadata refresh,
every 10 s."""


_BROKER = re.compile(r"(?:GroupCoordinator: )?(?:\w+://)?(?P<address>[^\s/]+:\d+)(?:/(?P<id>\w+))?: ")
"""How librdkafka's messages about a broker begin: ``kafka-1:9092/1: Failed to resolve ...``."""


def why_unreachable(bootstrap_servers: str, last_error: str | None) -> str:
    """Say at which address no broker is reachable; it may be an address that a reachable broker advertises.

    Args:
        bootstrap_servers: Comma-separated addresses.
        last_error: librdkafka's last error, if there was one.
    """
    why = f" ({last_error})" if last_error else ""
    named = _BROKER.match(last_error or "")
    if named is None or named["id"] == "bootstrap" or named["address"] in bootstrap_servers.split(","):
        return f"no Kafka broker is reachable at {bootstrap_servers}{why}"
    return (
        f"no Kafka broker is reachable at {named['address']}, as a broker of {bootstrap_servers} advertises itself{why}"
    )


class ReplicaState(StrEnum):
    """What the replica as a whole is doing, as subscribers see it."""

    STREAMING = "streaming"
    REBALANCING = "rebalancing"
    WAITING = "waiting"
    """In the group, but no partition of the stream's topics is assigned."""
    BROKER_DOWN = "broker-down"
    STANDBY = "standby"
    """Deliberately not in the group; the first subscriber that counts makes it join (`idle_leave_seconds`)."""


class Event(Enum):
    """What happened."""

    BROKER_UP = "a broker is connected"
    BROKERS_DOWN = "no broker is connected"
    JOINED = "the member has its assignment"
    ASSIGNED = "partitions were assigned"
    REVOKED = "partitions were revoked, or lost"
    LEFT = "the consumer is being closed"
    LEFT_IDLE = "the consumer is being closed because nobody takes anything"
    REJOINING = "another consumer is being made after that"


class _Facts(NamedTuple):
    reachable: bool = False
    rebalancing: bool = False
    standby: bool = False


EFFECTS: Mapping[Event, Mapping[str, bool]] = {
    Event.BROKER_UP: {"reachable": True},
    Event.BROKERS_DOWN: {"reachable": False},
    Event.JOINED: {"rebalancing": False},
    # Only a broker can assign; the statistics say the same a second later.
    Event.ASSIGNED: {"reachable": True, "rebalancing": False},
    Event.REVOKED: {"rebalancing": True},
    Event.LEFT: {"reachable": False, "standby": False},
    Event.LEFT_IDLE: {"standby": True},
    Event.REJOINING: {"standby": False, "rebalancing": True},
}
"""What each event does to the facts; facts that it does not name stay as they are."""

STATES: Mapping[tuple[bool, bool, bool], ReplicaState] = {
    # Whether a broker is reachable; whether the group is rebalancing; whether anything is assigned.
    (False, False, False): ReplicaState.BROKER_DOWN,
    (False, False, True): ReplicaState.BROKER_DOWN,
    (False, True, False): ReplicaState.BROKER_DOWN,
    (False, True, True): ReplicaState.BROKER_DOWN,
    (True, True, False): ReplicaState.REBALANCING,
    (True, True, True): ReplicaState.REBALANCING,
    (True, False, False): ReplicaState.WAITING,
    (True, False, True): ReplicaState.STREAMING,
}


class Log(Protocol):
    """The kind of logger that lines are written to, such as structlog's."""

    def info(self, event: str, **fields: object) -> object:
        """Log that something is as it should be."""

    def warning(self, event: str, **fields: object) -> object:
        """Log something that somebody should look at."""


class LogLine(NamedTuple):
    """A line for the log."""

    level: Literal["info", "warning"]
    event: str
    fields: Mapping[str, object] = {}

    def write(self, log: Log, **details: object) -> None:
        """Write the line to a log, with further details."""
        (log.warning if self.level == "warning" else log.info)(self.event, **self.fields, **details)


@dataclass(frozen=True, slots=True)
class HealthStatistics:
    """A snapshot of the health."""

    broker_reachable: bool
    rebalancing: bool
    last_error: str | None
    """The client's last error; None while all is well."""


class Health:
    """Follows the replica's state. Times are seconds on any clock that only moves forward."""

    def __init__(self) -> None:
        self._facts = _Facts()
        self._last_error: str | None = None
        self._last_error_at = -math.inf
        self._logged: set[str] = set()
        """Errors that were logged since all was last well."""
        self._paused_for_nobody = False

    def state(self, *, has_partitions: bool) -> ReplicaState:
        """Return the replica's state."""
        reachable, rebalancing, standby = self._facts
        if standby and reachable:
            return ReplicaState.STANDBY
        return STATES[reachable, rebalancing, has_partitions]

    @property
    def broker_reachable(self) -> bool:
        """Whether a broker is connected."""
        return self._facts.reachable

    @property
    def is_standby(self) -> bool:
        """Whether the group was left on purpose."""
        return self._facts.standby

    @property
    def last_error(self) -> str | None:
        """The client's last error; None while all is well."""
        return self._last_error

    def happened(self, event: Event) -> None:
        """Note an event."""
        self._facts = self._facts._replace(**EFFECTS[event])
        if event is Event.ASSIGNED:
            self._all_is_well()

    def reported(self, *, brokers_up: int, joined: bool, now: float) -> LogLine | None:
        """Note the consumer's statistics; returns a line when a broker is reachable again."""
        if joined:
            self.happened(Event.JOINED)
            if now >= self._last_error_at + ERROR_FORGOTTEN_SECONDS:
                self._all_is_well()
        was_reachable = self._facts.reachable
        self.happened(Event.BROKER_UP if brokers_up else Event.BROKERS_DOWN)
        if was_reachable or not brokers_up:
            return None
        self._all_is_well()
        return LogLine("info", "broker reachable")

    def failed(self, name: str, reason: str, now: float) -> LogLine | None:
        """Note an error that the client reported and survived; returns a line the first time.

        Args:
            name: librdkafka's name of the error.
            reason: librdkafka's own words. Text from ``(after`` on is a duration, which differs with each repetition.
            now: The time.
        """
        if name == "_ALL_BROKERS_DOWN":
            self.happened(Event.BROKERS_DOWN)
        elif not name.startswith("_"):
            # Names without an underscore are errors of Kafka's protocol, so a broker has answered and is reachable.
            self.happened(Event.BROKER_UP)
        is_forgotten = now >= self._last_error_at + ERROR_FORGOTTEN_SECONDS
        if name != "_ALL_BROKERS_DOWN" or self._last_error is None or is_forgotten:
            self._last_error, self._last_error_at = reason, now
        lasting = reason.partition(" (after ")[0]
        if lasting in self._logged:
            return None
        self._logged.add(lasting)
        return LogLine("warning", "kafka client error", {"error": name, "reason": reason})

    def fetching(self, *, paused: bool, subscribers: int) -> LogLine | None:
        """Note whether something is paused; returns a line when pausing for lack of subscribers begins or ends."""
        for_nobody = paused and not subscribers
        if for_nobody == self._paused_for_nobody:
            return None
        self._paused_for_nobody = for_nobody
        if for_nobody:
            return LogLine("warning", "fetching paused: no subscribers")
        return LogLine("info", "fetching resumed")

    @property
    def paused_for_nobody(self) -> bool:
        """Whether fetching is paused because nobody takes the waiting records."""
        return self._paused_for_nobody

    def statistics(self) -> HealthStatistics:
        """A snapshot of the health."""
        return HealthStatistics(self._facts.reachable, self._facts.rebalancing, self._last_error)

    def _all_is_well(self) -> None:
        self._last_error = None
        self._logged.clear()
