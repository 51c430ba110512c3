"""``nox -s flame``: where the time goes, as a flame graph of a service under load, in ``docs/pictures/flame.svg``."""

import subprocess
import time
from pathlib import Path

import click

from benchmarks.harness import Feeder, Load
from benchmarks.targets import Dispatcher
from tests.broker.cluster import KafkaCluster

PICTURE = Path("docs/pictures/flame.svg")
SUBSCRIBERS, BURST, BURSTS_PER_SECOND = 1000, 10, 50
SECONDS = 10
SAMPLES_PER_SECOND = 400


@click.command()
@click.option("--protocol", type=click.Choice(["sse", "websocket"]), default="sse", show_default=True)
def main(protocol: str) -> None:
    """Sample the threads of a service that hands 500 records a second to a thousand subscribers."""
    with KafkaCluster(1) as cluster, Load() as load:
        topic = cluster.create_topic("flame", 1)
        service = Dispatcher.start(cluster.bootstrap_servers, topic)
        try:
            load.open("all", SUBSCRIBERS, service.address, service.requests[protocol])
            with Feeder(cluster.bootstrap_servers, topic, per_second=BURST * BURSTS_PER_SECOND, burst=BURST):
                time.sleep(2)
                sampling = f"--duration {SECONDS} --rate {SAMPLES_PER_SECOND} --threads --output {PICTURE}".split()
                command = ["py-spy", "record", "--pid", str(service.pids[0]), *sampling]
                subprocess.run(command, check=True)  # noqa: S603 - a tool of this environment
        finally:
            service.end()


if __name__ == "__main__":
    main()
