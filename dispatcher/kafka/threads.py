"""Checks whether the operating system grants the threads that the Kafka clients need.

librdkafka aborts the process, or hangs, if a thread cannot be created (2.16: ``failed to create broker thread``, with
`ulimit -u` or `ulimit -v`). Python raises instead, so Python tries first.
"""

import threading

from dispatcher.errors import ResourcesError
from dispatcher.settings import Settings

OTHER_CLIENTS = 7
"""Clients besides those that replay: the group's, the follower's, the one for look-ups, the one that asks where
partitions begin, its replacement while it ends, and two that ask for committed offsets."""

CLIENT_THREADS = 3
"""Threads of a client besides one for each broker (measured: main, coordinator, internal)."""

BROKERS = 3
"""Number of brokers to assume if fewer are configured: the others are discovered later."""

WORKERS = 8
"""Our worker threads: the poller, chunks, look-ups, requests for committed offsets."""


def threads_of(settings: Settings) -> int:
    """Maximum number of threads, the Kafka clients' and ours, unless the cluster has more brokers than assumed."""
    brokers = max(BROKERS, settings.bootstrap_servers.count(",") + 1)
    return (settings.replay_concurrency + OTHER_CLIENTS) * (CLIENT_THREADS + brokers) + WORKERS


def check_threads(settings: Settings) -> None:
    """Start as many threads at once as the Kafka clients and we will need, then end them.

    Each allocates memory, as librdkafka's do: with `ulimit -v` the C library's arenas (64 MiB of address space
    per thread) need more room than the stacks. They are kept for later threads.

    Raises:
        ResourcesError: they cannot be started.
    """
    number = threads_of(settings)
    end = threading.Event()
    allocated: list[bytes] = []

    def stay() -> None:
        allocated.append(bytes(2048))
        end.wait()

    threads = [threading.Thread(target=stay, daemon=True) for _ in range(number)]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError) as error:
        raise ResourcesError(
            f"the Kafka clients need about {number} threads, but only {len(started)} can be started ({error}): "
            "raise the limit of processes (ulimit -u, a cgroup's pids.max) or of address space (ulimit -v), "
            f"or lower replay_concurrency ({settings.replay_concurrency})"
        ) from error
    finally:
        end.set()
        for thread in started:
            thread.join()
