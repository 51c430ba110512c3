"""Kafka's own tools, as the independent witness of what a group has committed."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from testbed.broker.jars import java
from testbed.patience import seconds

TOOL_SECONDS = 60.0
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"

Offsets = dict[tuple[str, int], "GroupOffset"]
"""By topic and partition."""


class GroupOffset(NamedTuple):
    """One line of ``kafka-consumer-groups --describe --offsets``."""

    topic: str
    partition: int
    current_offset: int | None
    """None: nothing was ever committed."""
    log_end_offset: int | None
    lag: int | None
    consumer_id: str | None
    """None: no member of the group has the partition."""
    host: str | None
    client_id: str | None


class GroupMember(NamedTuple):
    """One line of ``kafka-consumer-groups --describe --members``."""

    consumer_id: str
    host: str
    client_id: str
    partitions: int
    """How many it has."""


class GroupState(NamedTuple):
    """What ``kafka-consumer-groups --describe --state`` says of a group."""

    state: str
    """As Kafka writes it: ``Stable``, ``Empty``, ..."""
    members: int


class ToolError(RuntimeError):
    """A tool of Kafka failed; the message holds all that it printed."""


def group_offsets(bootstrap_servers: str, group: str, *, record: Path | None = None) -> Offsets:
    """What Kafka says that a group has committed; empty when there is no such group.

    Args:
        bootstrap_servers: The brokers.
        group: Its name.
        record: Where the tool writes an archive of its classes, if it is to (`testbed.broker.archives`).

    Raises:
        ToolError: the broker could not be asked.
    """
    rows = [
        GroupOffset(
            topic=cells["TOPIC"],
            partition=int(cells["PARTITION"]),
            current_offset=_number(cells["CURRENT-OFFSET"]),
            log_end_offset=_number(cells["LOG-END-OFFSET"]),
            lag=_number(cells["LAG"]),
            consumer_id=_text(cells["CONSUMER-ID"]),
            host=_text(cells["HOST"]),
            client_id=_text(cells["CLIENT-ID"]),
        )
        for cells in _table(_describe(bootstrap_servers, group, "--offsets", record))
    ]
    return {(row.topic, row.partition): row for row in rows}


def group_offsets_without_java(bootstrap_servers: str, group: str) -> Offsets:
    """The same, asked through librdkafka: no independent witness, and only partitions with a commit.

    Raises:
        ToolError: the broker could not be asked.
    """
    # Never subscribes, so it joins no group. An AdminClient would end this process if the coordinator died meanwhile.
    reader = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "log_level": 2})
    rows: Offsets = {}
    try:
        topics = reader.list_topics(timeout=TOOL_SECONDS).topics
        partitions = [
            TopicPartition(name, number)
            for name, topic in topics.items()
            if not name.startswith("__")
            for number in topic.partitions
        ]
        for committed in reader.committed(partitions, timeout=TOOL_SECONDS) if partitions else ():
            if committed.offset < 0:
                continue
            _, log_end = reader.get_watermark_offsets(committed, timeout=TOOL_SECONDS)
            key = (committed.topic, committed.partition)
            rows[key] = GroupOffset(*key, committed.offset, log_end, log_end - committed.offset, None, None, None)
    except KafkaException as error:
        raise ToolError(f"the offsets of group {group} could not be read: {error}") from error
    finally:
        reader.close()
    return rows


def group_members(bootstrap_servers: str, group: str) -> list[GroupMember]:
    """The members of a group; empty if there is no such group.

    Raises:
        ToolError: the broker could not be asked.
    """
    return [
        GroupMember(cells["CONSUMER-ID"], cells["HOST"], cells["CLIENT-ID"], int(cells["#PARTITIONS"]))
        for cells in _table(_describe(bootstrap_servers, group, "--members"))
    ]


def group_state(bootstrap_servers: str, group: str) -> GroupState | None:
    """The state of a group; None when there is no such group.

    Raises:
        ToolError: the broker could not be asked.
    """
    lines = _describe(bootstrap_servers, group, "--state").splitlines()
    # The first columns hold spaces, or nothing; the last two are words.
    for *_, state, members in (line.split() for line in lines if line.split()[:1] == [group]):
        return GroupState(state, int(members))
    return None


def topic_list(bootstrap_servers: str) -> list[str]:
    """What ``kafka-topics --list`` says."""
    return _run("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap_servers, "--list").split()


def delete_records(bootstrap_servers: str, before: Mapping[tuple[str, int], int]) -> None:
    """Let records expire now, as retention would: of each partition all before the offset.

    Raises:
        ToolError: the broker refused.
    """
    partitions = [{"topic": topic, "partition": number, "offset": offset} for (topic, number), offset in before.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"version": 1, "partitions": partitions}, file)
        file.flush()
        main = "org.apache.kafka.tools.DeleteRecordsCommand"
        _run(main, "--bootstrap-server", bootstrap_servers, "--offset-json-file", file.name)


def set_session_timeout(bootstrap_servers: str, group: str, seconds: float) -> None:
    """Let members of a group with the consumer protocol be silent for this long; the broker's own time is short.

    Raises:
        ToolError: the broker refused.
    """
    entity = ["--entity-type", "groups", "--entity-name", group]
    config = f"consumer.session.timeout.ms={seconds * 1000:.0f}"
    main = "kafka.admin.ConfigCommand"
    _run(main, "--bootstrap-server", bootstrap_servers, *entity, "--alter", "--add-config", config)


def _describe(bootstrap_servers: str, group: str, what: str, record: Path | None = None) -> str:
    arguments = ("--bootstrap-server", bootstrap_servers, "--describe", what, "--group", group)
    try:
        return _run(GROUPS, *arguments, record=record)
    except ToolError as error:
        if "GroupIdNotFoundException" in str(error):
            return ""
        raise


def _run(main: str, *arguments: str, record: Path | None = None) -> str:
    command = java(main, *arguments, record=record)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds(TOOL_SECONDS))
    # The exit code alone does not tell: most of the tools print an error and end with 0.
    if result.returncode or "error:" in result.stdout.lower():
        raise ToolError(f"{main} {' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def _table(output: str) -> list[dict[str, str]]:
    lines = [words for line in output.splitlines() if (words := line.split())]
    columns: list[str] = []
    rows = []
    for words in lines:
        if words[0] == "GROUP":
            columns = words
        elif columns:
            rows.append(dict(zip(columns, words, strict=True)))
    return rows


def _number(cell: str) -> int | None:
    return None if cell == "-" else int(cell)


def _text(cell: str) -> str | None:
    return None if cell == "-" else cell
