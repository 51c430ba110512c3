"""Consumers for replays that nobody uses: what their clients have to say is taken, and the threads were tried."""

import os
import subprocess
import sys
import threading

import pytest
import trio

from dispatcher.kafka import replay
from dispatcher.kafka.properties import LIBRDKAFKA_LOG
from dispatcher.kafka.reader import Reader
from dispatcher.kafka.replay import Replays
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from testbed.patience import seconds

DEAD: dict[str, str | int | float | bool] = {
    "bootstrap.servers": "127.0.0.1:9",
    "group.id": "replays",
    "reconnect.backoff.ms": 10,
    "reconnect.backoff.max.ms": 20,
    "debug": "broker",
}
"""Nobody listens there, and librdkafka has a lot to say about it."""


async def test_idle_consumers_queue_no_log_lines_while_a_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are polled every second, so that nothing piles up until the next read."""
    monkeypatch.setattr(replay, "SERVE_SECONDS", 0.05)
    lines: list[str] = []
    enough = trio.Event()
    token = trio.lowlevel.current_trio_token()

    class Served:
        def handle(self, record: object) -> bool:
            lines.append(str(record))
            if len(lines) == 500:
                token.run_sync_soon(enough.set)
            return False

    served = Served()
    monkeypatch.setattr(LIBRDKAFKA_LOG, "filters", [served.handle])
    monkeypatch.setattr(LIBRDKAFKA_LOG, "level", 1)
    replays = Replays(DEAD, concurrency=2, batch_bytes=1000)
    replays.open()
    with trio.fail_after(seconds(60)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replays.run)
            await enough.wait()
            nursery.cancel_scope.cancel()
        await replays.close()


async def test_a_consumer_that_is_taken_meanwhile_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was idle when the round began, and is in use when its turn comes."""
    rests, is_taken = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    rest = replay._rest

    def rest_slowly(reader: Reader) -> None:
        token.run_sync_soon(rests.set)
        is_taken.wait()
        rest(reader)

    monkeypatch.setattr(replay, "SERVE_SECONDS", 0)
    monkeypatch.setattr(replay, "_rest", rest_slowly)
    quiet = {name: value for name, value in DEAD.items() if name != "debug"}
    replays = Replays(quiet, concurrency=2, batch_bytes=1000)
    replays.open()
    with trio.fail_after(seconds(60)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replays.run)
            await rests.wait()
            async with trio.open_nursery() as reading:
                reading.start_soon(replays.read, {TopicPartition("assets", 0): Range(0, 10)}, 1000, "client")
                (free,) = replays._idle
                while not free.is_positioned:  # noqa: ASYNC110 - a thread's
                    await trio.sleep(0.001)
                is_taken.set()
            nursery.cancel_scope.cancel()
        await replays.close()


async def test_a_thread_that_cannot_be_started_is_one_clients_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later, when there may be threads again, the client asks again; the process goes on."""

    async def fail(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    replays, one = Replays(DEAD, concurrency=1, batch_bytes=1000), TopicPartition("assets", 0)
    monkeypatch.setattr(trio.to_thread, "run_sync", fail)
    assert await replays.read({one: Range(0, 10)}, 1000, "client") == replay.NOTHING
    assert await replays.bounds([one]) == {}
    assert replays.statistics().running == 0


NO_CONSUMER = """
import sys
from confluent_kafka import KafkaError, KafkaException
from dispatcher.kafka import reader

made = []
make = reader.Consumer

def make_all_but_the_last(*arguments, **keywords):
    made.append(arguments)
    if len(made) == 3:
        raise KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE, "no threads left"))
    return make(*arguments, **keywords)

reader.Consumer = make_all_but_the_last
sys.argv = ["dispatcher", "serve", "--bind=127.0.0.1:0", "--bootstrap-servers=127.0.0.1:9", "--replay-concurrency=3"]
from dispatcher.command.main import main
main()
"""


def test_every_consumer_for_replays_is_made_at_the_start() -> None:
    """One that cannot be made is an error of the start, with a reason, and not of the first client that needs it."""
    result = subprocess.run(
        [sys.executable, "-c", NO_CONSUMER], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1, result.stderr
    assert "the consumers for replays cannot be created: no threads left" in result.stderr


COUNTED = """
import os
from confluent_kafka import Consumer, Producer
from dispatcher.kafka.beginnings import Beginnings
from dispatcher.kafka.properties import LIBRDKAFKA_LOG, consumer_properties, replay_properties
from dispatcher.kafka.replay import Replays
from dispatcher.kafka.threads import WORKERS, threads_of
from dispatcher.sansio.ranges import Range
from dispatcher.sansio.records import TopicPartition
from dispatcher.sansio.topic_memory import TopicMemory
from dispatcher.settings import Settings

def count():
    return len(os.listdir("/proc/self/task"))

cluster = Producer({"test.mock.num.brokers": 3, "log_level": 3})
cluster.list_topics("ofa_assets", timeout=10)
servers = ",".join(f"{node.host}:{node.port}" for node in cluster.list_topics(timeout=10).brokers.values())
one = TopicPartition("ofa_assets", 0)
before = count()
settings = Settings(client_id="replica", bootstrap_servers=servers, kafka={"group.protocol": "consumer"})
replays = Replays(replay_properties(settings), concurrency=settings.replay_concurrency, batch_bytes=1000)
replays.open()
for reader in replays._idle:
    reader.read({one: Range(0, 1)}, 10, lambda seconds: seconds < 0.3)
replays.leaders.bounds([one])
replays.leaders.committed([one])
consumer = Consumer(consumer_properties(settings), logger=LIBRDKAFKA_LOG)
consumer.subscribe(["ofa_assets"])
consumer.poll(1)
beginnings = [Beginnings(consumer_properties(settings), ["ofa_assets"], TopicMemory()) for _ in range(2)]
for asking in beginnings:
    asking.assigned([one])
    asking.wait(3)
print(threads_of(settings) - WORKERS - (count() - before), flush=True)
os._exit(0)
"""
"""Every client that a replica has, in use; prints how many threads were counted on beyond those that there are."""


def test_threads_are_counted_for_every_client() -> None:
    """If too few were counted, librdkafka would abort the process later."""
    result = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, timeout=60, check=True)
    assert 0 <= int(result.stdout) <= 8


LIMITED = """
import resource
{import_first}
resource.setrlimit(resource.{limit}, ({value}, {value}))
import sys
sys.argv = ["dispatcher", "serve", "--bind=127.0.0.1:0", "--bootstrap-servers=127.0.0.1:9", "--log-format=json"]
from dispatcher.command.main import main
main()
"""


@pytest.mark.parametrize("mebibytes", [500, 700, 1000])
def test_too_little_address_space_is_an_error_of_the_start(mebibytes: int) -> None:
    """It has a reason, and is no abort when a client first asks for a replay."""
    code = LIMITED.format(import_first="", limit="RLIMIT_AS", value=mebibytes << 20)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "cannot start" in result.stderr
    assert "ulimit -v" in result.stderr


def test_too_few_threads_are_an_error_of_the_start() -> None:
    """The limit is per user, and root has none, so the test's process becomes nobody."""
    become = "import os\nimport dispatcher.command.main, dispatcher.supervisor\nos.setresuid(61234, 61234, 61234)"
    code = LIMITED.format(import_first=become, limit="RLIMIT_NPROC", value=10)
    if os.getuid():
        pytest.skip("only root can become a user with no other process")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1, result.stderr
    assert "cannot start" in result.stderr
    assert "replay_concurrency" in result.stderr
