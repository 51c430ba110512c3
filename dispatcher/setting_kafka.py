"""The ``[kafka]`` table: librdkafka properties that users may not set, and those whose values are never shown."""

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from dispatcher.errors import WrongValue, WrongValuesError
from dispatcher.setting_values import check_path, is_content

HIDDEN = "********"
"""What is shown instead of a secret."""

_SECRET = re.compile(
    r"password|passphrase|secret|credential|private.key|ssl.key$|.pem$|.jaas.|oauthbearer.config", re.IGNORECASE
)

_PATH = re.compile(r"\.{1,2}|(?:/|\./|\.\./|~/)[^\n]*")
"""Text that is certainly a path; a secret in the place of a path does not begin like this."""

_SECRET_WORDS = ("password", "passwd", "passphrase", "secret", "credential")

OWNED_KAFKA_PROPERTIES = {
    "bootstrap.servers": "set bootstrap_servers instead",
    "metadata.broker.list": "set bootstrap_servers instead",
    "group.id": "set group_id instead",
    "client.id": "set client_id instead",
    "group.instance.id": "set group_instance_id instead",
    "enable.partition.eof": "the dispatcher needs it to commit past offsets that hold no record",
    "statistics.interval.ms": "lag and broker states are read from the statistics, once per second",
    "logger": "the dispatcher does its own logging; see log_level and log_format",
    **dict.fromkeys(
        (
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "offset.store.method",
        ),
        "the dispatcher commits by itself, and only what was dispatched; see commit_interval_seconds",
    ),
    **dict.fromkeys(
        ("error_cb", "log_cb", "oauth_cb", "offset_commit_cb", "on_commit", "rebalance_cb", "stats_cb", "throttle_cb"),
        "the dispatcher sets its own callbacks",
    ),
}
"""librdkafka properties that the dispatcher's guarantees depend on, and what to do instead of setting them."""

CLASSIC_KAFKA_PROPERTIES = {
    "partition.assignment.strategy": "group.remote.assignor",
    "session.timeout.ms": "the broker's group.consumer.session.timeout.ms",
    "heartbeat.interval.ms": "the broker's group.consumer.heartbeat.interval.ms",
}
"""Properties of the classic group protocol, and what replaces them with ``group.protocol=consumer``."""


def is_path_property(key: str) -> bool:
    """Whether the value of a librdkafka property is the path of a file or folder."""
    return key.endswith((".location", ".file")) or key == "sasl.kerberos.keytab"


def is_secret(key: str) -> bool:
    """Whether the value of a librdkafka property, or of a similar key, must never be shown, misspelled or not."""
    if _SECRET.search(key) is not None:
        return True
    words = re.split(r"[^a-z]+", key.lower())
    return any(difflib.get_close_matches(word, _SECRET_WORDS, n=1, cutoff=0.75) for word in words if len(word) > 3)


def shown_path(path: str) -> str:
    """A path as it may be shown: a secret in its place is hidden."""
    return path if _PATH.fullmatch(path) else HIDDEN


def hide_secrets(kafka: Mapping[str, Any]) -> dict[str, Any]:
    """The ``[kafka]`` table as it may be shown."""
    return {key: HIDDEN if is_secret(key) or is_content(value) else value for key, value in kafka.items()}


def _check(kafka: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    refused = {key: f"leave it out: {why}" for key, why in OWNED_KAFKA_PROPERTIES.items()}
    if "group.protocol" in kafka:
        # librdkafka ignores the case of the value, so code that reads this table must not depend on it either.
        kafka = {**kafka, "group.protocol": str(kafka["group.protocol"]).lower()}
        if kafka["group.protocol"] == "consumer":
            refused |= {
                key: f"leave it out: with group.protocol=consumer (KIP-848) it is {instead}"
                for key, instead in CLASSIC_KAFKA_PROPERTIES.items()
            }
    wrong = [WrongValue(f"kafka.{key}", value, refused[key]) for key, value in kafka.items() if key in refused]
    for key in filter(is_path_property, kafka):
        try:
            check_path(str(kafka[key]))
        except ValueError as error:
            wrong.append(WrongValue(f"kafka.{key}", HIDDEN, str(error)))
    if wrong:
        raise WrongValuesError(wrong)
    return kafka


KafkaTable = Annotated[dict[str, str | int | float | bool], AfterValidator(_check)]
"""librdkafka properties, by name."""
