"""``python -m tests.audit``: audit replicas on a real Kafka, and print the report."""

import sys

import click
import trio
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from testbed.broker.cluster import KafkaCluster
from tests.audit.auditor import Auditor, table
from tests.audit.fleet import Fleet
from tests.audit.ledger import Report

TOPIC, GROUP = "ofa_assets", "dispatcher"


async def audit(  # noqa: PLR0917 - trio.run passes no keywords
    bootstrap_servers: str, partitions: int, replicas: int, rate: float, seconds: float, protocol: str
) -> Report:
    """Let replicas run undisturbed, and report."""
    auditor = Auditor(bootstrap_servers, TOPIC, GROUP, partitions, rate=rate)
    async with trio.open_nursery() as nursery:
        with Fleet(auditor, nursery, bootstrap_servers, TOPIC, GROUP, kafka={"group.protocol": protocol}) as fleet:
            for _ in range(replicas):
                await fleet.add()
            await fleet.wait_until_shared(partitions)
            nursery.start_soon(auditor.run)
            with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), transient=True) as progress:
                task = progress.add_task("auditing", total=seconds)
                while not progress.finished:
                    await trio.sleep(0.2)
                    progress.advance(task, 0.2)
            report = await auditor.settle()
            nursery.cancel_scope.cancel()
    return report


@click.command()
@click.option("--replicas", default=3, show_default=True, type=click.IntRange(1, 20))
@click.option("--partitions", default=6, show_default=True, type=click.IntRange(1, 100))
@click.option("--rate", default=500.0, show_default=True, help="Records a second.")
@click.option("--seconds", default=20.0, show_default=True, help="How long records are produced.")
@click.option("--protocol", type=click.Choice(["classic", "consumer"]), default="classic", show_default=True)
def main(replicas: int, partitions: int, rate: float, seconds: float, protocol: str) -> None:
    """Run replicas against a real 3-node Kafka, listen on each, compare commits with what came, and report.

    Exit code 1 when a guarantee was broken.
    """
    with KafkaCluster(3) as cluster:
        cluster.create_topic(TOPIC, partitions)
        report = trio.run(audit, cluster.bootstrap_servers, partitions, replicas, rate, seconds, protocol)
    Console().print(table(report, f"{replicas} replicas, {cluster.description}"))
    sys.exit(not report.clean)


if __name__ == "__main__":
    main()
