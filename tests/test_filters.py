"""Filters with a real Kafka: each stream has what it asked for, and the commits reach the end of the log."""

import signal
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import trio

from testbed.clients import open_sse
from testbed.producing import produce_numbered
from testbed.replicas import Replica
from tests.conftest import Kafka

PARTITIONS = 3
RECORDS = 3000
ROUND_KEYS = 1000
"""The key of record n is ``key-`` and n modulo this."""


def is_wanted_by_prefix(number: int) -> bool:
    """Whether ``key_prefix=key-12`` wants a record."""
    return f"key-{number % ROUND_KEYS}".startswith("key-12")


async def read(
    replica: Replica, query: str, expected: int, headers: dict[str, str] | None = None
) -> tuple[list[int], str]:
    """This many values, and the last id."""
    found: list[int] = []
    last_id = ""
    async with open_sse(replica, query, headers) as stream:
        while len(found) < expected:
            event = await stream.next_event()
            assert event is not None
            if event.type == "message":
                found.append(int(event.data))
                last_id = event.id
    return found, last_id


async def test_streams_have_what_they_want_and_commits_reach_the_end(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """By key and key prefix; one leaves and resumes after its records are committed."""
    topic = kafka.create_topic(PARTITIONS)
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_until_ready()
    one_key = "?filter=" + quote('{"in":{"key":["key-7","key-900"]}}')
    found: dict[str, tuple[list[int], str]] = {}
    async with trio.open_nursery() as nursery:

        async def follow(name: str, query: str, expected: int) -> None:
            found[name] = await read(replica, query, expected)

        keys = [n for n in range(RECORDS) if n % ROUND_KEYS in {7, 900}]
        prefixed = [n for n in range(RECORDS) if is_wanted_by_prefix(n)]
        # Longer than the first round, so that they stay.
        more = [n for n in range(RECORDS, 2 * RECORDS) if is_wanted_by_prefix(n)]
        nursery.start_soon(follow, "keys", one_key, len(keys))
        nursery.start_soon(follow, "prefix", "?key_prefix=key-12", len(prefixed) + len(more))
        await trio.to_thread.run_sync(replica.wait_for, "both", lambda status: status["subscribers"]["live"] == 2)
        write = produce_numbered
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
        await trio.to_thread.run_sync(
            replica.wait_for,
            "all of it, committed",
            lambda status: len(status["partitions"]) == PARTITIONS and all(p["lag"] == 0 for p in status["partitions"]),
        )
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 0, RECORDS)
    assert sorted(found["keys"][0]) == keys
    assert sorted(found["prefix"][0]) == [*prefixed, *more]
    await trio.to_thread.run_sync(
        replica.wait_for,
        "all records, and most of them unwanted",
        lambda status: (
            status["records"]["published"] == 2 * RECORDS
            and status["records"]["unmatched"].get(topic, 0) >= RECORDS - len(keys) - len(prefixed)
        ),
    )
    metrics = await trio.to_thread.run_sync(replica.get, "/metrics")
    assert f'dispatcher_unmatched_records_total{{topic="{topic}"}}' in metrics.text
    again = [n for n in range(RECORDS, 2 * RECORDS) if n % ROUND_KEYS in {7, 900}]
    values, _ = await read(replica, one_key, len(again), {"Last-Event-ID": found["keys"][1]})
    assert sorted(values) == again, "from Kafka, though the others had them settled"


async def test_parked_records_stop_nobody_and_come_whole_to_whoever_wants_them(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """Commits wait at the first parked record, and then reach the end."""
    topic = kafka.create_topic(PARTITIONS)
    settings = {"topic_tables": f'{{"{topic}":{{"unmatched":"park"}}}}', "history_bytes": "64KiB"}
    small = {"pause_above_bytes": "32KiB", "resume_below_bytes": "16KiB"}
    replica = replicas(kafka.bootstrap_servers, topic, settings=settings | small)
    replica.wait_until_ready()
    mine = [n for n in range(RECORDS) if is_wanted_by_prefix(n)]
    others = [n for n in range(RECORDS) if not is_wanted_by_prefix(n)]
    found: list[int] = []
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            found.extend((await read(replica, "?key_prefix=key-12", len(mine) + 1))[0])

        nursery.start_soon(follow)
        await trio.to_thread.run_sync(replica.wait_for, "one", lambda status: status["subscribers"]["live"] == 1)
        write = produce_numbered
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
        status = await trio.to_thread.run_sync(
            replica.wait_for,
            "all others",
            lambda status: (
                status["records"]["parked"].get(topic) == len(others)
                and not any(p["waiting_records"] or p["paused"] for p in status["partitions"])
            ),
        )
        assert [p["parked"]["first_offset"] == p["dispatched"] for p in status["partitions"]] == [True] * PARTITIONS
        assert not any(p["parked"]["full"] for p in status["partitions"])
        assert {name for p in status["partitions"] for name in p["parked"]["reasons"]} == {"unmatched"}
        metrics = await trio.to_thread.run_sync(replica.get, "/metrics")
        assert f'dispatcher_parked_records_total{{topic="{topic}"}} {len(others)}.0' in metrics.text
        rest = "?filter=" + quote('{"not":{"prefix":{"key":"key-12"}}}')
        values, _ = await read(replica, rest, len(others))
        assert sorted(values) == others
        await trio.to_thread.run_sync(
            replica.wait_for, "all of it, committed", lambda status: all(p["lag"] == 0 for p in status["partitions"])
        )
        # One more for the one that has been there all the time.
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, 1, PARTITIONS, 0, RECORDS + 120)
    assert sorted(found) == [*mine, RECORDS + 120]


async def test_a_wrong_filter_dispatches_nothing(kafka: Kafka, replicas: Callable[..., Replica]) -> None:
    """The response is 400 with the place."""
    topic = kafka.create_topic(1)
    await trio.to_thread.run_sync(produce_numbered, kafka.bootstrap_servers, topic, 10, 1)
    replica = replicas(kafka.bootstrap_servers, topic)
    replica.wait_until_ready()
    response = await trio.to_thread.run_sync(replica.get, "/events?field=tenant")
    assert response.status_code == 400
    assert response.json()["detail"].startswith("field[0]: 'tenant' is not POINTER:VALUE")
    status = await trio.to_thread.run_sync(replica.status)
    assert (status["records"]["dispatched"], status["records"]["unmatched"]) == (0, {})


async def test_streams_of_the_whole_topic_have_what_they_want_whoever_owns_what(
    kafka: Kafka, replicas: Callable[..., Replica]
) -> None:
    """From two replicas or the last one, each record arrives once, and commits reach the end."""
    topic = kafka.create_topic(PARTITIONS)
    both = [replicas(kafka.bootstrap_servers, topic, client_id=name) for name in ("one", "two")]
    for replica in both:
        await trio.to_thread.run_sync(
            replica.wait_for, "its share", lambda status: 0 < len(status["partitions"]) < PARTITIONS
        )
    wanted = [n for n in range(RECORDS) if is_wanted_by_prefix(n)]
    more = [n for n in range(RECORDS, 2 * RECORDS) if is_wanted_by_prefix(n)]
    query = "?scope=topic&key_prefix=key-12"
    found: dict[str, list[int]] = {}
    write = produce_numbered

    def all_committed(status: dict[str, Any]) -> bool:
        return bool(status["partitions"]) and all(p["lag"] == 0 for p in status["partitions"])

    async with trio.open_nursery() as nursery:

        async def follow(replica: Replica, expected: int) -> None:
            found[replica.client_id] = (await read(replica, query, expected))[0]
            has_left.set()

        has_left = trio.Event()
        nursery.start_soon(follow, both[0], len(wanted) + len(more) + 1)
        nursery.start_soon(follow, both[1], len(wanted))
        for replica in both:
            await trio.to_thread.run_sync(replica.wait_for, "one", lambda status: status["subscribers"]["live"] == 1)
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS)
        await has_left.wait()
        both[1].process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, RECORDS, PARTITIONS, 0, RECORDS)
        await trio.to_thread.run_sync(
            both[0].wait_for,
            "all of the rest, committed",
            lambda status: len(status["partitions"]) == PARTITIONS and all_committed(status),
        )
        # One more for the one that has been there all the time.
        await trio.to_thread.run_sync(write, kafka.bootstrap_servers, topic, 1, PARTITIONS, 0, 2 * RECORDS + 120)
    assert sorted(found["two"]) == wanted
    assert sorted(found["one"]) == [*wanted, *more, 2 * RECORDS + 120]
