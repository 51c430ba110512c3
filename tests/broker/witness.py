"""Kafka's own tools, as the independent witness of what a group has committed."""

import subprocess
from typing import NamedTuple

from tests.broker.jars import java


class GroupOffset(NamedTuple):
    """One line of ``kafka-consumer-groups --describe``."""

    topic: str
    partition: int
    current_offset: int | None
    """None: nothing was ever committed."""
    log_end_offset: int | None
    lag: int | None
    consumer_id: str | None
    client_id: str | None


def group_offsets(bootstrap_servers: str, group: str) -> dict[tuple[str, int], GroupOffset]:
    """What ``kafka-consumer-groups --describe --offsets`` says of a group, by topic and partition."""
    output = _consumer_groups(bootstrap_servers, "--describe", "--offsets", "--group", group)
    rows = {}
    columns: list[str] = []
    for line in output.splitlines():
        words = line.split()
        if words[:1] == ["GROUP"]:
            columns = words
        elif columns and len(words) >= len(columns):
            cells = dict(zip(columns, words, strict=False))
            row = GroupOffset(
                topic=cells["TOPIC"],
                partition=int(cells["PARTITION"]),
                current_offset=_number(cells["CURRENT-OFFSET"]),
                log_end_offset=_number(cells["LOG-END-OFFSET"]),
                lag=_number(cells["LAG"]),
                consumer_id=_text(cells["CONSUMER-ID"]),
                client_id=_text(cells["CLIENT-ID"]),
            )
            rows[row.topic, row.partition] = row
    return rows


def topic_list(bootstrap_servers: str) -> list[str]:
    """What ``kafka-topics --list`` says."""
    return _run(java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", bootstrap_servers, "--list")).split()


def _consumer_groups(bootstrap_servers: str, *arguments: str) -> str:
    main = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    return _run(java(main, "--bootstrap-server", bootstrap_servers, *arguments))


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if result.returncode:
        raise RuntimeError(f"{command[-6:]} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def _number(cell: str) -> int | None:
    return None if cell == "-" else int(cell)


def _text(cell: str) -> str | None:
    return None if cell == "-" else cell
