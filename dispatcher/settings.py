"""Every knob of the dispatcher, with its unit, its default, and why it has that default.

`dispatcher.configuration` reads them from flags, environment and file; ``docs/settings.md`` is made from this class.
"""

import re
import socket
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

MIB = 1024 * 1024
KIB = 1024

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_SECRET = re.compile(r"password|secret|\.pem$|\.jaas\.|oauthbearer\.config|credential")

OWNED_KAFKA_PROPERTIES = {
    "bootstrap.servers": "set bootstrap_servers instead",
    "metadata.broker.list": "set bootstrap_servers instead",
    "group.id": "set group_id instead",
    "client.id": "set client_id instead",
    "enable.auto.commit": "the dispatcher commits, and only what was dispatched; see commit_interval_seconds",
    "auto.commit.interval.ms": "the dispatcher commits, and only what was dispatched; see commit_interval_seconds",
    "enable.auto.offset.store": "the dispatcher commits explicit offsets, and only what was dispatched",
    "enable.partition.eof": "the dispatcher reads the end of a partition from the statistics",
    "statistics.interval.ms": "lag and the state of brokers come from the statistics, once a second",
    "rebalance_cb": "callbacks are the dispatcher's",
    "error_cb": "callbacks are the dispatcher's",
    "stats_cb": "callbacks are the dispatcher's",
    "on_commit": "callbacks are the dispatcher's",
    "throttle_cb": "callbacks are the dispatcher's",
    "logger": "logs are the dispatcher's; see log_level and log_format",
}
"""librdkafka properties that the dispatcher's guarantees stand on, and what to do instead of setting them."""

CLASSIC_KAFKA_PROPERTIES = {
    "partition.assignment.strategy": "group.remote.assignor",
    "session.timeout.ms": "the broker's group.consumer.session.timeout.ms",
    "heartbeat.interval.ms": "the broker's group.consumer.heartbeat.interval.ms",
}
"""Properties of the classic group protocol, and what stands in for them with ``group.protocol=consumer``."""


class WrongValuesError(ValueError):
    """Several wrong values found by one check.

    Args:
        problems: (key, value or None for the setting's own, what would be right).
    """

    def __init__(self, problems: list[tuple[str, object, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{key}: {remedy}" for key, _, remedy in problems))


def is_secret(key: str) -> bool:
    """Whether the value of a librdkafka property must never be shown."""
    return _SECRET.search(key) is not None


class Settings(BaseSettings):
    """The dispatcher's settings; made from keyword arguments alone, checked, and frozen."""

    model_config = SettingsConfigDict(env_prefix="DISPATCHER_", env_nested_delimiter="__", extra="forbid", frozen=True)

    bootstrap_servers: str = Field(
        "127.0.0.1:9092",
        min_length=1,
        description="Kafka brokers to begin with, `host:port`, comma-separated.",
    )
    topics: Annotated[tuple[str, ...], NoDecode] = Field(
        ("ofa_assets",), min_length=1, description="Topics to dispatch, comma-separated. Names, no patterns."
    )
    group_id: str = Field(
        "dispatcher",
        min_length=1,
        description="Consumer group that all replicas share: each record goes to one.",
    )
    client_id: str = Field(
        default_factory=lambda: f"dispatcher-{socket.gethostname()}",
        min_length=1,
        description="Name of this replica, in Kafka and to subscribers. Different for each replica.",
    )
    bind: str = Field(
        "127.0.0.1:8000",
        description="Where HTTP is served, `host:port`; port 0 takes any free one. "
        "Loopback by default: who may read the records is decided in front of the dispatcher.",
    )
    commit_interval_seconds: float = Field(
        0.2, gt=0, le=60, description="Least time between two commits; what a crash repeats, at most."
    )
    history_bytes: ByteSize = Field(
        ByteSize(64 * MIB),
        ge=1,
        description="Records kept in memory, undispatched ones and recent ones for slow subscribers.",
    )
    pause_above_bytes: ByteSize = Field(
        ByteSize(32 * MIB), ge=1, description="Undispatched bytes above which fetching is paused."
    )
    resume_below_bytes: ByteSize = Field(
        ByteSize(16 * MIB),
        ge=1,
        description="Undispatched bytes below which fetching goes on. Half of `pause_above_bytes`, because each "
        "pause throws prefetched records away.",
    )
    subscriber_buffer_bytes: ByteSize = Field(
        ByteSize(1 * MIB),
        ge=1,
        description="Bytes that may wait for one live subscriber; a fuller one catches up from the history.",
    )
    write_bytes: ByteSize = Field(
        ByteSize(256 * KIB),
        ge=1,
        description="Bytes joined into one write; what waits while it is under way joins the next.",
    )
    batch_bytes: ByteSize = Field(
        ByteSize(256 * KIB),
        ge=1,
        description="A poll's records of one partition are cut into batches of this size.",
    )
    poll_records: int = Field(500, ge=1, le=100_000, description="Most records taken from the consumer in one poll.")
    socket_unsent_bytes: ByteSize = Field(
        ByteSize(128 * KIB),
        ge=1,
        description="Bytes that the kernel may hold unsent for one subscriber (TCP_NOTSENT_LOWAT). What the kernel "
        "holds counts as dispatched, so it is kept small.",
    )
    stall_timeout_seconds: float = Field(
        30, gt=0, description="A connection that takes no byte, or answers no ping, for this long is closed."
    )
    heartbeat_seconds: float = Field(
        15, gt=0, description="Time between signs of life on a quiet stream. Proxies cut silent connections."
    )
    drain_seconds: float = Field(
        0.2, ge=0, description="How long a revoked partition waits for writes under way before it is let go."
    )
    shutdown_seconds: float = Field(
        10, gt=0, description="Time from SIGTERM to the end of the process, whatever clients and brokers do."
    )
    max_subscribers: int = Field(10_000, ge=1, description="Subscribers on this replica; more are sent elsewhere.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="`console` for people, `json` for machines; `auto` tells by whether stderr is a terminal.",
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Any librdkafka property, as `[kafka]` in the file, `DISPATCHER_KAFKA__SECURITY_PROTOCOL` in the "
        "environment, or `-X security.protocol=ssl`. Those that the dispatcher owns are refused.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read behind the caller's back; `configuration.load` asks each source itself."""
        return (init_settings,)

    @property
    def bind_address(self) -> tuple[str, int]:
        """`bind` as host and port."""
        host, _, port = self.bind.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def __repr_args__(self) -> Any:
        """Secrets stay out of logs and tracebacks."""
        for name, value in super().__repr_args__():
            yield name, hide_secrets(value) if name == "kafka" else value

    @field_validator("topics", mode="before")
    @classmethod
    def _split_topics(cls, value: object) -> object:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("topics")
    @classmethod
    def _check_topics(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics:
            if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
                raise ValueError(f"{topic!r} is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -")
        if len(set(topics)) < len(topics):
            raise ValueError("name each topic once")
        return topics

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, bind: str) -> str:
        host, colon, port = bind.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("use host:port, such as 0.0.0.0:8000 or [::1]:8000")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError("put an IPv6 address in brackets, such as [::1]:8000")
        return bind

    @field_validator("bootstrap_servers")
    @classmethod
    def _check_bootstrap_servers(cls, servers: str) -> str:
        for server in servers.split(","):
            host, colon, port = server.strip().rpartition(":")
            if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{server.strip()!r} is not host:port, such as kafka-1:9092,kafka-2:9092")
        return servers

    @field_validator("kafka")
    @classmethod
    def _check_kafka(cls, kafka: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        problems: list[tuple[str, object, str]] = [
            (f"kafka.{key}", kafka[key], f"leave it out: {why}")
            for key, why in OWNED_KAFKA_PROPERTIES.items()
            if key in kafka
        ]
        if kafka.get("group.protocol") == "consumer":
            problems += [
                (
                    f"kafka.{key}",
                    kafka[key],
                    f"leave it out: with group.protocol=consumer (KIP-848) it is {instead}",
                )
                for key, instead in CLASSIC_KAFKA_PROPERTIES.items()
                if key in kafka
            ]
        if problems:
            raise WrongValuesError(problems)
        return kafka

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problems: list[tuple[str, object, str]] = []
        if self.pause_above_bytes > self.history_bytes:
            problems.append(
                (
                    "pause_above_bytes",
                    int(self.pause_above_bytes),
                    f"at most history_bytes ({int(self.history_bytes)})",
                )
            )
        if self.resume_below_bytes > self.pause_above_bytes:
            problems.append(
                (
                    "resume_below_bytes",
                    int(self.resume_below_bytes),
                    f"at most pause_above_bytes ({int(self.pause_above_bytes)})",
                )
            )
        if self.drain_seconds >= self.shutdown_seconds:
            problems.append(
                (
                    "drain_seconds",
                    self.drain_seconds,
                    f"less than shutdown_seconds ({self.shutdown_seconds:g})",
                )
            )
        if problems:
            raise WrongValuesError(problems)
        return self


def hide_secrets(kafka: dict[str, Any]) -> dict[str, Any]:
    """The ``[kafka]`` table as it may be shown."""
    return {key: "********" if is_secret(key) else value for key, value in kafka.items()}
