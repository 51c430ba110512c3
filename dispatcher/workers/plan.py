"""Decisions about workers: how many to start, with which settings and how much memory, and when to restart one.

Pure: no I/O, no clock; `workers.machine` reads the machine, `workers.parent` acts.
"""

import math
from dataclasses import dataclass

from dispatcher.errors import SettingsProblem
from dispatcher.kafka.properties import PREFERRED
from dispatcher.setting_values import KIB, MIB
from dispatcher.settings import Settings

DIVIDED = (
    "max_subscribers",
    "max_connections",
    "max_subscribers_per_address",
    "max_subscribers_per_subject",
)
"""Limits that all workers share; 0, where it means no limit, stays 0."""

DIVIDED_RATES = ("connects_per_second_per_address", "connects_per_second_per_subject", "since_per_minute")

FEWEST_CONNECTIONS = 16
"""The lowest `max_connections` that the settings accept."""

PARENT_BYTES = 80 * MIB
PROCESS_BYTES = 100 * MIB
LIBRDKAFKA_BYTES = 9 * MIB
QUEUE_FACTOR = 1.4
FOLLOWER_BYTES = 28 * MIB
GROUP_OFFSETS_BYTES = 2 * MIB
SCHEMAS_BYTES = 64 * MIB
DEAD_LETTERS_BYTES = 20 * MIB
REPLAY_BYTES = 12 * MIB
COMPRESSED_BYTES = 8 * MIB
CONNECTION_BYTES = 64 * KIB
"""The README's formula, "Memory". Parked records are left out: their share depends on the number of partitions."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""A worker that lived this long is restarted at once when it ends."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the operating system grants."""

    affinity: int
    """Cores on which the process may run."""
    quota: float | None = None
    """Cores that the cgroup grants, None without a quota."""
    memory_bytes: int | None = None
    """Memory that the cgroup grants, None without a limit."""


def number_of_workers(settings: Settings, machine: Machine) -> int:
    """Return `workers`; ``auto`` means one for each whole core."""
    if isinstance(settings.workers, int):
        return settings.workers
    quota = machine.affinity if machine.quota is None else math.floor(machine.quota)
    return max(1, min(machine.affinity, quota))


def settings_of(settings: Settings, number: int, workers: int) -> Settings:
    """Return the settings of one worker: its own name, and its share of the limits, rounded up.

    Args:
        settings: The settings of all workers.
        number: The worker's number, from 1.
        workers: How many there are.
    """
    update: dict[str, object] = {"workers": 1, "client_id": f"{settings.client_id}-{number}"}
    if settings.group_instance_id:
        update["group_instance_id"] = f"{settings.group_instance_id}-{number}"
    for name in DIVIDED:
        update[name] = math.ceil(getattr(settings, name) / workers)
    update["max_connections"] = max(FEWEST_CONNECTIONS, math.ceil(settings.max_connections / workers))
    for name in DIVIDED_RATES:
        update[name] = getattr(settings, name) / workers
    return settings.model_copy(update=update)


def most_memory_bytes(settings: Settings) -> int:
    """Return the most memory that one process takes, by the README's formula.

    Args:
        settings: The settings of this process.
    """

    def property_of(name: str) -> int:
        value = settings.kafka.get(name, PREFERRED[name])
        # librdkafka refuses what is not a number.
        return int(value) if str(value).isdecimal() else 0

    return int(
        PROCESS_BYTES
        + settings.history_bytes
        + QUEUE_FACTOR * property_of("queued.max.messages.kbytes") * KIB
        + property_of("fetch.max.bytes")
        + LIBRDKAFKA_BYTES
        + FOLLOWER_BYTES
        + GROUP_OFFSETS_BYTES
        + (SCHEMAS_BYTES if settings.schema_registry_url else 0)
        + DEAD_LETTERS_BYTES
        + (COMPRESSED_BYTES if settings.compression == "on" else 0)
        + settings.replay_concurrency * REPLAY_BYTES
        + settings.max_subscribers * (settings.subscriber_buffer_bytes + settings.write_bytes + CONNECTION_BYTES)
    )


def memory_problem(settings: Settings, workers: int, machine: Machine) -> SettingsProblem | None:
    """Say why these workers do not fit into the cgroup's memory; None if they do."""
    need = PARENT_BYTES + workers * most_memory_bytes(settings_of(settings, 1, workers))
    if machine.memory_bytes is None or need <= machine.memory_bytes:
        return None
    return SettingsProblem(
        "workers",
        str(settings.workers),
        f"{workers} workers and their parent take up to {need / MIB:,.0f} MiB (README, Memory), and the cgroup allows "
        f"{machine.memory_bytes / MIB:,.0f} MiB: raise its limit, or lower workers, max_subscribers "
        f"({settings.max_subscribers:,}) or history_bytes",
    )


class Restarts:
    """Decides when a worker that ended is restarted: at once, then after pauses that double."""

    def __init__(self) -> None:
        self._next_seconds = 0.0

    def pause_seconds(self, lived_seconds: float) -> float:
        """Return how long to wait; a worker that lived for `STABLE_SECONDS` is restarted at once."""
        if lived_seconds >= STABLE_SECONDS:
            self._next_seconds = 0.0
        pause = self._next_seconds
        self._next_seconds = min(max(FIRST_PAUSE_SECONDS, 2 * pause), LONGEST_PAUSE_SECONDS)
        return pause


class Silence:
    """How long a worker's event loop has been silent, counted in the parent's checks.

    A clock would not do: after a suspend of the machine, or of the parent alone, every worker would seem to have been
    silent for all of that time.

    Args:
        look_seconds: The time between two checks.
    """

    def __init__(self, look_seconds: float) -> None:
        self._look_seconds = look_seconds
        self.seconds = 0.0

    def heard(self) -> None:
        """The worker has shown that its loop runs."""
        self.seconds = 0.0

    def look(self) -> float:
        """Note another check; returns for how long the worker has been silent."""
        self.seconds += self._look_seconds
        return self.seconds
