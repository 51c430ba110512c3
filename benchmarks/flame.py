"""``nox -s flame``: a flame graph of a service under load."""

import re
import subprocess
import time
from pathlib import Path

import click

from benchmarks.harness import Feeder, Load
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster

SECONDS = 10
SAMPLES_PER_SECOND = 400


@click.command(context_settings={"show_default": True})
@click.option("--protocol", type=click.Choice(["sse", "websocket"]), default="sse")
@click.option("--subscribers", type=click.IntRange(1, 10_000), default=1000)
@click.option("--per-second", type=click.IntRange(1), default=500, help="Records per second.")
@click.option("--at-once", type=click.IntRange(1), default=10, help="Records that are produced at once.")
@click.option("--picture", type=click.Path(path_type=Path), default=Path("docs/pictures/flame.svg"))
def main(protocol: str, subscribers: int, per_second: int, at_once: int, picture: Path) -> None:
    """Sample the threads of a service under load for ten seconds."""
    if at_once > per_second:
        raise click.UsageError("less than one production a second: there would be little to see")
    with KafkaCluster(1) as cluster, Load() as load:
        topic = cluster.create_topic("flame", 1)
        service = Dispatcher.start(cluster.bootstrap_servers, topic)
        try:
            load.open("all", subscribers, service.address, service.requests[protocol])
            with Feeder(cluster.bootstrap_servers, topic, per_second=per_second, burst=at_once):
                time.sleep(2)
                sampling = f"--pid {service.pids[0]} --duration {SECONDS} --rate {SAMPLES_PER_SECOND} --threads".split()
                command = ["py-spy", "record", *sampling, "--output", str(picture)]
                subprocess.run(command, check=True)  # noqa: S603 - a tool of this environment
        finally:
            service.end()
    load_title = f"{subscribers:,} subscribers ({protocol}), {per_second:,} records per second, {at_once} at once"
    picture.write_text(retitled(picture.read_text(), load_title))


def retitled(svg: str, title: str) -> str:
    """Return a flame graph with another title: py-spy's is its own command line, with the paths of this machine."""
    return re.sub(r'(?<=<text id="title")([^>]*>)[^<]*', lambda found: found[1] + title, svg, count=1)


if __name__ == "__main__":
    main()
