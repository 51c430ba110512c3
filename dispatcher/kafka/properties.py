"""librdkafka's configuration: what the dispatcher owns, what it prefers, and what users pass through."""

import logging
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException

from dispatcher.errors import SettingsError, SettingsProblem
from dispatcher.setting_kafka import HIDDEN, hide_secrets
from dispatcher.setting_values import is_content
from dispatcher.settings import Settings

LIBRDKAFKA_LOG = logging.getLogger("librdkafka")
# librdkafka repeats itself many times per second while a broker is unreachable; the error callback logs that once.
LIBRDKAFKA_LOG.addFilter(lambda line: not line.getMessage().startswith(("FAIL ", "ERROR ")))

OWNED: Mapping[str, str | int | bool] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Reports when the end of a log is reached: only control records and aborted ones can follow the last record.
    "enable.partition.eof": True,
    # Lag, broker states and group state are read from the statistics: look-ups in the poll loop would block it.
    "statistics.interval.ms": 1000,
}
"""Properties that users cannot set (`settings` refuses them by name): the guarantees depend on them."""

PREFERRED: Mapping[str, str | int | bool] = {
    # A new group begins with existing records: "latest" would lose those written before the first replica started. The
    # poller gives librdkafka "error": `sansio.beginnings` decides where to begin, and what a reset skips.
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    # Members learn of a rebalance from the answer to a heartbeat, so this interval is the largest part of a planned
    # hand-over; docs/rebalance.md has the figures and trade-offs.
    "heartbeat.interval.ms": 200,
    "session.timeout.ms": 10_000,
    # Prefetched records use memory outside our bounds; 8 MiB keep a fast subscriber fed.
    "queued.max.messages.kbytes": 8192,
    "queued.min.messages": 5000,
    # How long a fetcher pauses after a full queue. The queue is small, so the poller drains it in a few milliseconds:
    # with the default of 1,000 ms, and even with 50, it would wait for the fetcher.
    "fetch.queue.backoff.ms": 2,
    "fetch.wait.max.ms": 100,
    "fetch.max.bytes": 8 * 1024 * 1024,
    "reconnect.backoff.max.ms": 2000,
    # A topic that is created after the start is found within this time. After a start without a broker,
    # reconnect.backoff decides when to try again.
    "topic.metadata.refresh.interval.ms": 10_000,
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,
}
"""Defaults that a ``[kafka]`` table can override."""

CLASSIC_ONLY = frozenset({"partition.assignment.strategy", "heartbeat.interval.ms", "session.timeout.ms"})
"""Preferred properties that librdkafka refuses with ``group.protocol=consumer`` (KIP-848)."""


GROUP_ONLY = CLASSIC_ONLY | {
    "group.protocol",
    "group.remote.assignor",
    "group.instance.id",
    "max.poll.interval.ms",
    "statistics.interval.ms",
}
"""Properties that mean nothing to a client outside a group."""


CONSUMER_PREFIXES = (
    "auto.",
    "check.crcs",
    "coordinator.query.",
    "enable.auto.",
    "enable.partition.eof",
    "fetch.",
    "group.id",
    "isolation.level",
    "max.partition.fetch.",
    "queued.",
)
"""Prefixes of properties that librdkafka warns about in a client that consumes nothing."""


_UNKNOWN = "No such configuration property"


def unknown_properties(kafka: Mapping[str, object]) -> set[str]:
    """Properties that librdkafka does not know; finding out starts nothing."""
    unknown = set()
    for key, value in kafka.items():
        try:
            # The second property is always refused, so no client is created.
            Consumer({"group.id": "-", key: value, "no.such.property": ""})
        except (KafkaException, TypeError, ValueError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else ""
            if reason.startswith(_UNKNOWN) and f'"{key}"' in reason:
                unknown.add(key)
    return unknown


def consumer_properties(settings: Settings) -> dict[str, str | int | float | bool]:
    """The configuration of the group consumer."""
    preferred = dict(PREFERRED)
    if settings.kafka.get("group.protocol") == "consumer":
        for name in CLASSIC_ONLY:
            del preferred[name]
    static = {"group.instance.id": settings.group_instance_id} if settings.group_instance_id else {}
    return {
        **preferred,
        **settings.kafka,
        **OWNED,
        **static,
        "bootstrap.servers": settings.bootstrap_servers,
        "group.id": settings.group_id,
        "client.id": settings.client_id,
    }


def replay_properties(settings: Settings) -> dict[str, str | int | float | bool]:
    """The configuration of a consumer for replays: it connects like the group's consumer, but joins no group."""
    properties = consumer_properties(settings)
    for name in GROUP_ONLY:
        properties.pop(name, None)
    return properties


def admin_properties(properties: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    """The configuration of the client that asks about topics and offsets: it connects like the group's consumer."""
    return {
        name: value
        for name, value in properties.items()
        if name not in GROUP_ONLY and not name.startswith(CONSUMER_PREFIXES)
    }


def check_properties(settings: Settings) -> None:
    """Let librdkafka read its configuration, so that a refusal is reported before anything starts.

    Raises:
        SettingsError: it refuses a property, with librdkafka's own reason.
    """
    try:
        Consumer(consumer_properties(settings), logger=LIBRDKAFKA_LOG).close()
    except KafkaException as error:
        reason = error.args[0].str()
        key = next((key for key in settings.kafka if f'"{key}"' in reason), "")
        shown = hide_secrets(settings.kafka)[key] if key else "as configured"
        if reason.startswith(_UNKNOWN):
            shown = HIDDEN  # a misspelled property may be a misspelled password
        if is_content(reason):
            reason = "librdkafka refuses a value with the content of a file"  # which its reason would quote
        raise SettingsError([SettingsProblem(f"kafka.{key}" if key else "kafka", str(shown), reason)]) from error
