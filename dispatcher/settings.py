"""Every setting of the dispatcher, with its unit, its default and a description.

`command.configuration` reads them from flags, environment and file; ``docs/settings.md`` is made from this class.
"""

import socket
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ByteSize, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dispatcher.ack_settings import AckSettings
from dispatcher.auth_settings import AuthSettings
from dispatcher.edge_settings import EdgeSettings
from dispatcher.errors import WrongValue, WrongValuesError
from dispatcher.letter_settings import LetterSettings
from dispatcher.schema_settings import SECRETS, SchemaSettings
from dispatcher.setting_kafka import HIDDEN, KafkaTable, hide_secrets
from dispatcher.setting_values import (
    GIB,
    KIB,
    MIB,
    Address,
    Brokers,
    FilePath,
    Hosts,
    Origins,
    Seconds,
    Size,
    Topics,
    display,
    is_content,
    is_loopback_address,
    split_address,
)
from dispatcher.topic_settings import TopicSettings
from dispatcher.worker_settings import WorkerSettings, worker_misfits


def _default_idle_leave(values: dict[str, Any]) -> float:
    """With streams of the whole topic any replica can own all of it; a static member would keep its partitions."""
    return 30.0 if values.get("default_scope") == "topic" and not values.get("group_instance_id") else 0.0


class _CoreSettings(BaseSettings):
    """All settings except those in separate files."""

    model_config = SettingsConfigDict(
        env_prefix="DISPATCHER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may hold secrets
    )

    bootstrap_servers: Brokers = Field(
        default="127.0.0.1:9092", description="Kafka brokers to contact first, as `host:port`, comma-separated."
    )
    topics: Topics = Field(
        default=("ofa_assets",), description="Topics to dispatch, comma-separated. Names, not patterns."
    )
    group_id: str = Field(
        default="dispatcher",
        min_length=1,
        description="Consumer group that all replicas share. Kafka gives each partition to one of them.",
    )
    client_id: str = Field(
        default_factory=lambda: f"dispatcher-{socket.gethostname()}",
        pattern=r'^[^"\\\x00-\x1f]+$',  # librdkafka writes it into its statistics verbatim
        description="Name of this replica, for Kafka and for subscribers. Must be unique among replicas.",
    )
    group_instance_id: str = Field(
        default="",
        pattern=r"^[a-zA-Z0-9._-]{0,249}$",
        description="Makes the replica a static member of the group (KIP-345): a restart within the session timeout "
        "moves no partition. Must be unique among replicas and stay the same across restarts, as a Swarm slot does: "
        "`replica-{{.Task.Slot}}`. Do not combine it with start-first updates. Empty: not static.",
    )
    bind: Address = Field(
        default="127.0.0.1:8000",
        description="Address to serve HTTP on, as `host:port`; port 0 takes any free port. "
        "Loopback by default, because by default nobody is authenticated.",
    )
    allowed_origins: Origins = Field(
        default=(),
        description="Origins of other sites whose pages may read streams, comma-separated, each as "
        "`https://host[:port]` without a path. `null`, `file://` and the like must be named exactly. `*`: every http "
        "and https origin, without credentials. The dispatcher's own origin needs no entry. See docs/security.md.",
    )
    allowed_hosts: Hosts = Field(
        default=(),
        description="Names by which clients reach the dispatcher, comma-separated, without ports: a request for "
        "another name gets 421, which prevents DNS rebinding. Loopback names, addresses and the hosts of "
        "`allowed_origins` always pass. Empty: no other name if `bind` is loopback, otherwise every "
        "name. `*`: every name.",
    )
    tls_certificate: FilePath = Field(
        default="",
        description="PEM file with the certificate and its chain, to serve HTTPS and WSS instead of HTTP and WS. "
        "Terminating TLS here costs more per subscriber than in a proxy in front. Empty: no TLS.",
    )
    tls_key: FilePath = Field(
        default="", description="PEM file with the certificate's key. Empty: the key is in the certificate's file."
    )
    commit_interval_seconds: Seconds = Field(
        default=0.2,
        gt=0,
        le=60,
        description="Minimum time between commits. A crash repeats at most what was dispatched in this time.",
    )
    history_bytes: Size = Field(
        default=ByteSize(64 * MIB),
        description="Memory for records: those not dispatched yet, and recent ones for slow subscribers.",
    )
    pause_above_bytes: Size = Field(
        default=ByteSize(32 * MIB),
        description="Undispatched bytes above which fetching is paused. At most `history_bytes`.",
    )
    resume_below_bytes: Size = Field(
        default=ByteSize(16 * MIB),
        description="Undispatched bytes below which fetching resumes. By default half of `pause_above_bytes`, because "
        "each pause discards prefetched records.",
    )
    subscriber_buffer_bytes: Size = Field(
        default=ByteSize(1 * MIB),
        description="Bytes that may queue for one live subscriber; above that it catches up from the history.",
    )
    write_bytes: Size = Field(
        default=ByteSize(256 * KIB),
        description="Largest write to a socket; whatever queues up meanwhile goes out with the next one.",
    )
    batch_bytes: Size = Field(
        default=ByteSize(256 * KIB),
        description="Approximate size of the batches into which one poll's records of a partition are split.",
    )
    poll_records: int = Field(
        default=1000, ge=1, le=100_000, description="Maximum number of records per poll; fewer with many filters."
    )
    socket_unsent_bytes: Size = Field(
        default=ByteSize(128 * KIB),
        le=GIB,
        description="Bytes that the kernel may hold unsent for one subscriber (TCP_NOTSENT_LOWAT). Kept small, because "
        "what the kernel holds counts as dispatched.",
    )
    stall_timeout_seconds: Seconds = Field(
        default=30,
        gt=0,
        description="A connection with unsent bytes is closed if its peer acknowledges none for this long. WebSocket "
        "clients must also answer each ping within this time plus one heartbeat.",
    )
    heartbeat_seconds: Seconds = Field(
        default=15,
        gt=0,
        description="Time between heartbeats on a quiet stream, because proxies cut silent connections.",
    )
    drain_seconds: Seconds = Field(
        default=0.2,
        description="How long a revoked partition is held while writes already started finish. "
        "Less than `shutdown_seconds`.",
    )
    shutdown_seconds: Seconds = Field(
        default=10, gt=0, description="Maximum time from SIGTERM to exit, whatever clients and brokers do."
    )
    spread_seconds: Seconds = Field(
        default=5,
        description="After a replica joins, each of the others says `goodbye`, spread over this time, to the "
        "subscribers that exceed its share of the partitions. A replica without any partition of a subscriber's "
        "topics does the same, unless the subscriber observes or reads the whole topic. So does a worker that is late "
        "while the others are not. 0 turns this off: subscribers stay until they leave.",
    )
    default_scope: Literal["replica", "topic"] = Field(
        default="replica",
        description="What streams without `scope` get: the partitions of the replica that they reach, or every "
        "partition of their topics.",
    )
    follow_linger_seconds: Seconds = Field(
        default=30,
        description="How long partitions of other replicas are followed after the last subscriber of the whole topic "
        "has left.",
    )
    idle_leave_seconds: Seconds = Field(
        default_factory=_default_idle_leave,
        description="A replica without a subscriber that counts leaves the group after about this time, and joins "
        "again with the first one that stays for a second, so partitions follow subscribers; observers do not count. "
        "One replica always stays. 0: no replica leaves. Cannot be combined with `group_instance_id`.",
    )
    client_rack: str = Field(
        default="",
        pattern=r"^[^\x00-\x1f]*$",
        description="Where this replica is, as the brokers' `broker.rack` names it: partitions that other replicas own "
        "are read from brokers in the same rack, if there are any (KIP-392). The replica's own partitions are read "
        "from their leaders. Empty: all are read from the leaders.",
    )
    max_subscribers: int = Field(
        default=10_000,
        ge=1,
        description="Maximum number of subscribers on this replica; others are refused and retry elsewhere.",
    )
    max_feeds: int = Field(
        default=1000,
        ge=1,
        description="Maximum number of distinct feeds that cost work for every record: combinations of format and "
        "topics (except all topics), and filters that compare no key, header or field exactly, nor the beginning of a "
        "key. A stream that needs one more gets 4429. One address or subject never gets the last tenth of them.",
    )
    max_parked_ranges: int = Field(
        default=10_000,
        ge=2,
        description="Maximum number of ranges of records per partition that wait in Kafka because no present "
        "subscriber wants them, or may have them (docs/filters.md). Where they and other records alternate, 1,024 "
        "offsets count as one. Beyond this number, records wait in memory, until fetching of their partition pauses.",
    )
    replay_concurrency: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Maximum number of chunks replayed from Kafka at the same time, for subscribers that need records "
        "older than those in memory; the others wait in line. Each has its own consumer.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Minimum level to log.")
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="`console` for people, `json` for machines; `auto` picks console if stderr is a terminal.",
    )
    kafka: KafkaTable = Field(
        default_factory=dict,
        description="Any librdkafka property, as `[kafka]` in the file, `DISPATCHER_KAFKA__SECURITY_PROTOCOL` in the "
        "environment, or `-X security.protocol=ssl`. Those that the dispatcher owns are refused. "
        "`auto.offset.reset` says where the group starts on a topic for which it has committed nothing: `earliest` "
        "(the default), `latest`, or `error` (its partitions wait until an offset is committed). It decides nothing "
        "else: the start is committed at once, a partition added later starts at its first record, and after records "
        "have expired, reading continues with the oldest one left.",
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
        """Read nothing but the arguments; `configuration.load` asks each source itself."""
        return (init_settings,)

    @property
    def bind_address(self) -> tuple[str, int]:
        """`bind` as host and port."""
        return split_address(self.bind)

    @property
    def is_bound_to_loopback(self) -> bool:
        """Whether `bind` is an address or a name of this machine alone."""
        return is_loopback_address(self.bind)

    @property
    def operations_address(self) -> tuple[str, int] | None:
        """`operations_bind` as host and port; None if it is not set."""
        bind: str = getattr(self, "operations_bind", "")
        return split_address(bind) if bind else None

    def __repr_args__(self) -> Any:
        """Keep secrets out of logs and tracebacks."""
        for name, value in super().__repr_args__():
            is_hidden = (value and name in SECRETS) or is_content(display(value))
            yield name, hide_secrets(value) if name == "kafka" else HIDDEN if is_hidden else value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true and false are not valid here")
        return value

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
        if self.operations_address == self.bind_address and self.bind_address[1]:
            bind = getattr(self, "operations_bind", "")
            wrong.append(WrongValue("operations_bind", bind, "use a different port from that of bind", "bind"))
        if (admin := getattr(self, "admin_token_file", "")) and not self.operations_address:
            remedy = "set operations_bind as well: /admin is on that port only"
            wrong.append(WrongValue("admin_token_file", admin, remedy, "operations_bind"))
        if self.idle_leave_seconds and self.group_instance_id:
            remedy = "use 0 with group_instance_id: a static member that leaves keeps its partitions for its session"
            wrong.append(WrongValue("idle_leave_seconds", self.idle_leave_seconds, remedy, "group_instance_id"))
        if self.drain_seconds >= self.shutdown_seconds:
            wrong.append(too_much("drain_seconds", "shutdown_seconds", "less than"))
        wrong += self.misfits()
        if wrong:
            raise WrongValuesError(wrong)
        return self

    def misfits(self) -> list[WrongValue]:
        """Values that do not fit each other, as a table of settings knows them (`AuthSettings.misfits`)."""
        return []


class Settings(
    AckSettings,
    AuthSettings,
    WorkerSettings,
    EdgeSettings,
    SchemaSettings,
    TopicSettings,
    LetterSettings,
    _CoreSettings,
):
    """The dispatcher's settings; made from keyword arguments alone, checked, and frozen."""

    def misfits(self) -> list[WrongValue]:
        """Values in the tables that do not fit together."""
        workers = worker_misfits(
            self.workers,
            default_scope=self.default_scope,
            operations_bind=self.operations_bind,
            group_instance_id=self.group_instance_id,
        )
        wrong = [*super().misfits(), *self.topic_misfits(self.topics), *workers]
        wrong += self.schema_misfits(self.decoded_topics)
        if self.acked_topics and self.ack_drain_seconds >= self.shutdown_seconds:
            remedy = f"less than shutdown_seconds ({display(self.shutdown_seconds)})"
            wrong.append(WrongValue("ack_drain_seconds", self.ack_drain_seconds, remedy, "shutdown_seconds"))
        lettered = [topic for topic, table in self.topic_tables.items() if table.on_deadline == "dead-letter"]
        return [*wrong, *self.letter_misfits(lettered), *self._idle_misfits()]

    @property
    def decodable_topics(self) -> Mapping[str, str]:
        """Topics that subscribers can have as JSON: how the settings say, or ``asked``: if they ask for it."""
        return self.decodable(self.topics) if self.schema_registry_url else {}

    def _idle_misfits(self) -> list[WrongValue]:
        """Deadlines need a replica that stays in the group."""
        if self.idle_leave_seconds and any(table.undelivered_deadline_seconds for table in self.topic_tables.values()):
            remedy = "use 0 with undelivered_deadline_seconds: a replica that has left the group sees no deadline pass"
            return [WrongValue("idle_leave_seconds", self.idle_leave_seconds, remedy, "topic_tables")]
        return []
