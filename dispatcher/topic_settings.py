"""The settings of single topics: in a file ``[topics.NAME]``, elsewhere `topic_tables` as JSON.

A capability that is set by topic adds a field to `TopicTable`, with its description: the reference lists the fields.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import NoDecode

from dispatcher.errors import WrongValue, WrongValuesError

Encoding = Literal["auto", "text", "base64"]

FIELD = "topic_tables"
"""The setting, which a file has as the table ``[topics]``."""


class TopicTable(BaseModel, frozen=True, extra="forbid"):
    """The settings of one topic."""

    decode: Literal["asked", "none", "json", "avro-json"] = Field(
        default="asked",
        description="`json`: keys and values in Confluent's wire format are decoded with the schemas of "
        "`schema_registry_url` and sent as JSON; `avro-json`: Avro is sent in its own JSON, with the types of unions. "
        "`asked`: as `json`, for subscribers that ask with `decode=json`; `none`: for nobody. See docs/schemas.md.",
    )
    int64: Literal["number", "string"] = Field(
        default="number",
        description="With `decode`: integers beyond 2^53, which JavaScript rounds, as JSON numbers or as strings.",
    )
    encoding: Encoding = Field(
        default="auto",
        description="How values that are not decoded are written: `auto` as text if the bytes are UTF-8, and otherwise "
        "in base64; `text` always as text, with U+FFFD for what is not UTF-8; `base64` always in base64.",
    )
    key_encoding: Encoding = Field(default="auto", description="The same for keys.")
    unmatched: Literal["settle", "park"] = Field(
        default="settle",
        description="What happens to records that no present subscriber's filter wants: `settle` commits them, `park` "
        "leaves them in Kafka until a subscriber that wants them connects. See docs/filters.md.",
    )
    commit_on: Literal["written", "acked"] = Field(
        default="written",
        description="Which records may be committed: those that a subscriber's socket took, or those that a client "
        "with `ack=client` acknowledged, in which case subscribers without it only observe. See docs/delivery.md.",
    )
    undelivered_deadline_seconds: float = Field(
        default=0,
        ge=0,
        le=3_153_600_000,
        allow_inf_nan=False,
        description="Age, by its timestamp, that a record may reach without a subscriber taking it. 0: no deadline.",
    )
    on_deadline: Literal["log", "skip", "dead-letter"] = Field(
        default="log",
        description="What happens to records past their deadline: `log` reports them, and they keep waiting; `skip` "
        "commits past them; `dead-letter` writes them to `dead_letter_topic` first. See docs/delivery.md.",
    )


DEFAULT_TABLE = TopicTable()


class TopicSettings(BaseModel):
    """The settings by topic."""

    topic_tables: Annotated[dict[str, TopicTable], NoDecode] = Field(
        default_factory=dict,
        description="Settings of single topics, as `[topics.NAME]` in a file (which then need not set `topics` as "
        'well), otherwise as JSON: `{"orders": {"decode": "json"}}`. A topic\'s table may have '
        + "; ".join(f"`{name}` ({field.description})" for name, field in TopicTable.model_fields.items()),
    )

    def table(self, topic: str) -> TopicTable:
        """The settings of a topic."""
        return self.topic_tables.get(topic, DEFAULT_TABLE)

    @property
    def acked_topics(self) -> frozenset[str]:
        """Topics whose records are committed only once they are acknowledged."""
        return frozenset(topic for topic, table in self.topic_tables.items() if table.commit_on == "acked")

    @property
    def encodings(self) -> Mapping[str, tuple[Encoding, Encoding]]:
        """How keys and values are written, for topics where that is set."""
        encodings = {topic: (table.key_encoding, table.encoding) for topic, table in self.topic_tables.items()}
        return {topic: both for topic, both in encodings.items() if both != ("auto", "auto")}

    @property
    def put_aside_topics(self) -> frozenset[str]:
        """Topics whose records are skipped or dead-lettered when their deadline passes."""
        return frozenset(topic for topic, table in self.topic_tables.items() if table.on_deadline != "log")

    def decodable(self, topics: Collection[str]) -> Mapping[str, str]:
        """Those of these topics that a registry lets us decode: into what, or ``asked``."""
        return {topic: self.table(topic).decode for topic in topics if self.table(topic).decode != "none"}

    @property
    def decoded_topics(self) -> Mapping[str, str]:
        """The topics whose records are decoded for everybody, and into what."""
        decoded = ("json", "avro-json")
        return {topic: table.decode for topic, table in self.topic_tables.items() if table.decode in decoded}

    def topic_misfits(self, topics: Collection[str]) -> list[WrongValue]:
        """Tables of topics that are not served."""
        return [
            WrongValue(f"{FIELD}[{topic}]", "a table", "name the topic in topics as well", "topics")
            for topic in self.topic_tables
            if topic not in topics
        ] + [
            WrongValue(f"{FIELD}[{topic}].on_deadline", table.on_deadline, "set undelivered_deadline_seconds as well")
            for topic, table in self.topic_tables.items()
            if table.on_deadline != "log" and not table.undelivered_deadline_seconds
        ]

    @field_validator(FIELD, mode="before")
    @classmethod
    def _read_topic_tables(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = orjson.loads(value) if value else {}
            except orjson.JSONDecodeError as error:
                raise ValueError(f"is not JSON ({error})") from None
        if not isinstance(value, Mapping):
            raise ValueError("use tables by topic, [topics.NAME]")  # noqa: TRY004 - pydantic's way to an answer
        wrong: list[WrongValue] = []
        tables = {str(topic): _read_table(str(topic), table, wrong) for topic, table in value.items()}
        if wrong:
            raise WrongValuesError(wrong)
        return tables


def _read_table(topic: str, table: object, wrong: list[WrongValue]) -> TopicTable | None:
    """Read one topic's table; its faults are added to the list."""
    if isinstance(table, TopicTable):
        return table
    place = f"{FIELD}[{topic}]"
    if not isinstance(table, Mapping):
        wrong.append(WrongValue(place, table, f"use a table, [topics.{topic}]"))
        return None
    try:
        return TopicTable(**table)
    except ValidationError as error:
        for item in error.errors():
            name = ".".join(map(str, item["loc"]))
            wrong.append(WrongValue(f"{place}.{name}", item["input"], _remedy(item)))
        return None


def _remedy(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return f"no such setting of a topic; use {', '.join(TopicTable.model_fields)}"
    message: str = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]
