"""Every knob of the dispatcher, with its unit, its default, and why it has that default.

`command.configuration` reads them from flags, environment and file; ``docs/settings.md`` is made from this class.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from dispatcher.authorities import ANY, is_loopback, read_authority, read_origin

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
_UNITS = ((GIB, " GiB"), (MIB, " MiB"), (KIB, " KiB"))

HIDDEN = "********"
"""What is shown instead of a secret."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_ADDRESS = re.compile(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")
_SECRET = re.compile(
    r"password|passphrase|secret|credential|private.key|ssl.key$|.pem$|.jaas.|oauthbearer.config", re.IGNORECASE
)

OWNED_KAFKA_PROPERTIES = {
    "bootstrap.servers": "set bootstrap_servers instead",
    "metadata.broker.list": "set bootstrap_servers instead",
    "group.id": "set group_id instead",
    "client.id": "set client_id instead",
    "group.instance.id": "set group_instance_id instead",
    "enable.partition.eof": "the dispatcher needs it: offsets without a record are committed by it",
    "statistics.interval.ms": "lag and the state of brokers come from the statistics, once a second",
    "logger": "logs are the dispatcher's; see log_level and log_format",
    **dict.fromkeys(
        (
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.commit",
            "enable.auto.offset.store",
            "offset.store.method",
        ),
        "the dispatcher commits, and only what was dispatched; see commit_interval_seconds",
    ),
    **dict.fromkeys(
        ("error_cb", "log_cb", "oauth_cb", "offset_commit_cb", "on_commit", "rebalance_cb", "stats_cb", "throttle_cb"),
        "callbacks are the dispatcher's",
    ),
}
"""librdkafka properties that the dispatcher's guarantees stand on, and what to do instead of setting them."""

CLASSIC_KAFKA_PROPERTIES = {
    "partition.assignment.strategy": "group.remote.assignor",
    "session.timeout.ms": "the broker's group.consumer.session.timeout.ms",
    "heartbeat.interval.ms": "the broker's group.consumer.heartbeat.interval.ms",
}
"""Properties of the classic group protocol, and what stands in for them with ``group.protocol=consumer``."""


@dataclass(frozen=True, slots=True)
class WrongValue:
    """One thing that a check of several values found."""

    key: str
    value: object
    remedy: str
    """What would be right."""
    beside: str | None = None
    """The setting that it does not fit to; None when the value is wrong whatever the others are."""


class WrongValuesError(ValueError):
    """Several wrong values found by one check."""

    def __init__(self, values: list[WrongValue]) -> None:
        self.values = values
        super().__init__("; ".join(f"{value.key}: {value.remedy}" for value in values))


def is_secret(key: str) -> bool:
    """Whether the value of a librdkafka property, or of something like it, must never be shown."""
    return _SECRET.search(key) is not None


def hide_secrets(kafka: Mapping[str, Any]) -> dict[str, Any]:
    """The ``[kafka]`` table as it may be shown."""
    return {key: HIDDEN if is_secret(key) else value for key, value in kafka.items()}


def display(value: object) -> str:
    """A setting's value as people write it, without loss."""
    if isinstance(value, ByteSize):
        size, unit = next((unit for unit in _UNITS if value >= unit[0] and value % unit[0] == 0), (1, ""))
        return f"{value // size}{unit}"
    if isinstance(value, Mapping):
        return "a table"  # what is in it may be secret
    if isinstance(value, (tuple, list)):
        return ",".join(map(display, value))
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")


Size = Annotated[ByteSize, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
"""At most a day: timers of the operating system cannot wait for ever."""


class Settings(BaseSettings):
    """The dispatcher's settings; made from keyword arguments alone, checked, and frozen."""

    model_config = SettingsConfigDict(
        env_prefix="DISPATCHER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may hold secrets
    )

    bootstrap_servers: str = Field(
        default="127.0.0.1:9092", description="Kafka brokers to begin with, `host:port`, comma-separated."
    )
    topics: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("ofa_assets",), description="Topics to dispatch, comma-separated. Names, no patterns."
    )
    group_id: str = Field(
        default="dispatcher",
        min_length=1,
        description="Consumer group that all replicas share: each record goes to one.",
    )
    client_id: str = Field(
        default_factory=lambda: f"dispatcher-{socket.gethostname()}",
        pattern=r'^[^"\\\x00-\x1f]+$',  # librdkafka writes it into its statistics as it is
        description="Name of this replica, in Kafka and to subscribers. Different for each replica.",
    )
    group_instance_id: str = Field(
        default="",
        pattern=r"^[a-zA-Z0-9._-]{0,249}$",
        description="Makes the replica a static member of the group (KIP-345): a restart within the session timeout "
        "moves no partition. Different for each replica and the same after a restart, as a Swarm slot is: "
        "`replica-{{.Task.Slot}}`. Never together with updates that start the new one first. Empty: not static.",
    )
    bind: str = Field(
        default="127.0.0.1:8000",
        description="Where HTTP is served, `host:port`; port 0 takes any free one. "
        "Loopback by default: who may read the records is decided in front of the dispatcher.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins of other sites whose pages may read streams, comma-separated, each as "
        "`https://host[:port]` without a path. `null`, `file://` and the like by exact name. `*`: every http and https "
        "origin, without credentials. Pages of the dispatcher's own origin need no entry. docs/security.md says more.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names by which clients reach the dispatcher, comma-separated, without ports: a request for "
        "another name gets 421, which stops DNS rebinding. Loopback names, addresses and the hosts of "
        "`allowed_origins` always pass. Empty: no other name where `bind` is loopback, every name elsewhere. "
        "`*`: every name.",
    )
    tls_certificate: str = Field(
        default="",
        description="PEM file with the certificate and its chain: HTTPS and WSS instead of HTTP and WS. It costs more "
        "for each subscriber than a proxy in front that does it for all. Empty: no TLS.",
    )
    tls_key: str = Field(default="", description="PEM file with the certificate's key; empty: it is in the same file.")
    commit_interval_seconds: Seconds = Field(
        default=0.2, gt=0, le=60, description="Least time between two commits; what a crash repeats, at most."
    )
    history_bytes: Size = Field(
        default=ByteSize(64 * MIB),
        description="Records kept in memory, undispatched ones and recent ones for slow subscribers.",
    )
    pause_above_bytes: Size = Field(
        default=ByteSize(32 * MIB),
        description="Undispatched bytes above which fetching is paused. At most `history_bytes`.",
    )
    resume_below_bytes: Size = Field(
        default=ByteSize(16 * MIB),
        description="Undispatched bytes below which fetching goes on. Half of `pause_above_bytes`, because each "
        "pause throws prefetched records away.",
    )
    subscriber_buffer_bytes: Size = Field(
        default=ByteSize(1 * MIB),
        description="Bytes that may wait for one live subscriber; a fuller one catches up from the history.",
    )
    write_bytes: Size = Field(
        default=ByteSize(256 * KIB),
        description="Most bytes handed to a socket in one write; what waits while it is under way joins the next.",
    )
    batch_bytes: Size = Field(
        default=ByteSize(256 * KIB),
        description="A poll's records of one partition are cut into batches of about this size.",
    )
    poll_records: int = Field(
        default=1000, ge=1, le=100_000, description="Most records taken from the consumer in one poll."
    )
    socket_unsent_bytes: Size = Field(
        default=ByteSize(128 * KIB),
        le=GIB,
        description="Bytes that the kernel may hold unsent for one subscriber (TCP_NOTSENT_LOWAT). What the kernel "
        "holds counts as dispatched, so it is kept small.",
    )
    stall_timeout_seconds: Seconds = Field(
        default=30,
        gt=0,
        description="A connection whose peer acknowledges no byte, while some wait, for this long is closed. "
        "WebSockets also have to answer a ping within this time and a heartbeat.",
    )
    heartbeat_seconds: Seconds = Field(
        default=15, gt=0, description="Time between signs of life on a quiet stream. Proxies cut silent connections."
    )
    drain_seconds: Seconds = Field(
        default=0.2,
        description="How long a revoked partition waits for writes under way before it is let go. "
        "Less than `shutdown_seconds`.",
    )
    shutdown_seconds: Seconds = Field(
        default=10, gt=0, description="Time from SIGTERM to the end of the process, whatever clients and brokers do."
    )
    spread_seconds: Seconds = Field(
        default=0,
        description="When a replica has come, the others tell `goodbye`, over this time, to as many of their "
        "subscribers as are too many for the partitions they have left. 0: none, all stay until they leave.",
    )
    max_subscribers: int = Field(
        default=10_000, ge=1, description="Subscribers on this replica; more are sent elsewhere."
    )
    replay_concurrency: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Most chunks that are read again from Kafka at a time, for subscribers behind what is in memory; "
        "others wait in line. Each has a consumer of its own.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="`console` for people, `json` for machines; `auto` tells by whether stderr is a terminal.",
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Any librdkafka property, as `[kafka]` in the file, `DISPATCHER_KAFKA__SECURITY_PROTOCOL` in the "
        "environment, or `-X security.protocol=ssl`. Those that the dispatcher owns are refused. "
        "`auto.offset.reset` says where the group begins with a topic of which it has committed nothing: `earliest` "
        "(the default), `latest`, or `error` (its partitions wait until an offset is committed). It decides nothing "
        "else: where the group began is committed at once, a partition that is added later begins at its start, and "
        "after records have expired, reading goes on with the oldest one that is left.",
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
        return _split_address(self.bind)

    @property
    def is_bound_to_loopback(self) -> bool:
        """Whether `bind` is an address or a name of this machine alone."""
        host, _port = self.bind_address
        authority = read_authority(f"[{host}]" if ":" in host else host)
        return authority is not None and is_loopback(authority.host)

    def __repr_args__(self) -> Any:
        """Secrets stay out of logs and tracebacks."""
        for name, value in super().__repr_args__():
            yield name, hide_secrets(value) if name == "kafka" else value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("true and false mean nothing here")  # noqa: TRY004 - what pydantic turns into an answer
        return value

    @field_validator("topics", mode="before")
    @classmethod
    def _split_topics(cls, value: object) -> object:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return () if value == "" else cls._split_topics(value)

    @field_validator("topics")
    @classmethod
    def _check_topics(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        if not topics:
            raise ValueError("name at least one topic")
        for topic in topics:
            if not _TOPIC.fullmatch(topic) or topic in {".", ".."}:
                raise ValueError(f"{topic!r} is not a topic name: use 1 to 249 of a-z A-Z 0-9 . _ -")
        if len(set(topics)) < len(topics):
            raise ValueError("name each topic once")
        return topics

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_read_allowed_origin(text) for text in origins))

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_read_allowed_host(text) for text in hosts))

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, bind: str) -> str:
        _split_address(bind)
        return bind

    @field_validator("bootstrap_servers")
    @classmethod
    def _check_bootstrap_servers(cls, text: str) -> str:
        servers = [server.strip() for server in text.split(",")]
        for server in servers:
            _host, port = _split_address(server)
            if port == 0:
                raise ValueError(f"{server!r} needs the port that the broker listens on, such as 9092")
        return ",".join(servers)

    @field_validator("kafka")
    @classmethod
    def _check_kafka(cls, kafka: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        refused = {key: f"leave it out: {why}" for key, why in OWNED_KAFKA_PROPERTIES.items()}
        if "group.protocol" in kafka:
            # librdkafka does not tell CONSUMER from consumer; those who ask this table must not either.
            kafka = {**kafka, "group.protocol": str(kafka["group.protocol"]).lower()}
            if kafka["group.protocol"] == "consumer":
                refused |= {
                    key: f"leave it out: with group.protocol=consumer (KIP-848) it is {instead}"
                    for key, instead in CLASSIC_KAFKA_PROPERTIES.items()
                }
        wrong = [WrongValue(f"kafka.{key}", value, refused[key]) for key, value in kafka.items() if key in refused]
        if wrong:
            raise WrongValuesError(wrong)
        return kafka

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        def too_much(name: str, limit: str, words: str) -> WrongValue:
            return WrongValue(name, getattr(self, name), f"{words} {limit} ({display(getattr(self, limit))})", limit)

        wrong = [
            too_much(name, limit, "at most")
            for name, limit in (
                ("pause_above_bytes", "history_bytes"),
                ("resume_below_bytes", "pause_above_bytes"),
                ("resume_below_bytes", "history_bytes"),
            )
            if getattr(self, name) > getattr(self, limit)
        ]
        if self.drain_seconds >= self.shutdown_seconds:
            wrong.append(too_much("drain_seconds", "shutdown_seconds", "less than"))
        if wrong:
            raise WrongValuesError(wrong)
        return self


def _read_allowed_origin(text: str) -> str:
    """One of `allowed_origins`, in the spelling in which it is compared."""
    if text == ANY:
        return text
    origin = read_origin(text)
    if origin is None or text.lower().startswith(("ws://", "wss://")):
        raise ValueError(
            f"{text!r} is not an origin: use https://host[:port] without a path, *, null, or another scheme's such as "
            "file:// or capacitor://localhost"
        )
    return origin.text


def _read_allowed_host(text: str) -> str:
    """One of `allowed_hosts`, in the spelling in which it is compared."""
    if text == ANY:
        return text
    authority = read_authority(text)
    if authority is None or ":" in text.rpartition("]")[2]:
        raise ValueError(
            f"{text!r} is not a host: use a name without scheme, port and path, such as stream.example.org"
        )
    return authority.host


def _split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port``, an IPv6 host without its brackets."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:8000, kafka-1:9092, or [::1]:8000")
    return match[1].strip("[]"), int(match[2])
