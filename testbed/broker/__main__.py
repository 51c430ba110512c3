"""``python -m testbed.broker``: a real Kafka for hand use, until Ctrl-C."""

import contextlib
import signal
import threading

import click

from testbed.broker.apicurio import Apicurio, missing_registry_tools
from testbed.broker.cluster import KafkaCluster
from testbed.broker.jars import missing_tools


def _name_and_partitions(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    topics = {}
    for value in values:
        name, _, partitions = value.partition(":")
        if not name or not partitions.isdecimal() or not int(partitions):
            raise click.BadParameter(f"{value!r} is not NAME:PARTITIONS, as in ofa_assets:6")
        topics[name] = int(partitions)
    return topics


@click.command()
@click.option("--nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Number of nodes.")
@click.option(
    "--topic",
    "topics",
    metavar="NAME:PARTITIONS",
    multiple=True,
    default=["ofa_assets:6"],
    show_default=True,
    callback=_name_and_partitions,
    help="A topic to create; repeatable.",
)
@click.option("--registry", is_flag=True, help="Start a schema registry (Apicurio) beside it.")
def main(nodes: str, topics: dict[str, int], *, registry: bool) -> None:
    """Start Apache Kafka on free loopback ports with temporary data, and stop it on Ctrl-C."""
    if missing := missing_tools() or (registry and missing_registry_tools()):
        raise click.ClickException(f"a real broker needs {' and '.join(missing)}, which this machine does not have")
    # Both also where a shell started us in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), KafkaCluster(int(nodes)) as cluster, contextlib.ExitStack() as beside:
        for name, partitions in topics.items():
            cluster.create_topic(name, partitions)
        click.echo(f"{cluster.description}, at {cluster.bootstrap_servers}")
        click.echo(f"Topics: {', '.join(f'{name} ({partitions})' for name, partitions in topics.items())}")
        click.echo(f"KAFKA_BOOTSTRAP_SERVERS={cluster.bootstrap_servers}")
        more = ""
        if registry:
            apicurio = beside.enter_context(Apicurio())
            click.echo(f"{apicurio.description}, at {apicurio.url}")
            click.echo(f"SCHEMA_REGISTRY_URL={apicurio.url}")
            more = f" --schema-registry-url {apicurio.url}"
        click.echo(f"dispatcher serve --bootstrap-servers {cluster.bootstrap_servers}{more}")
        click.echo("Ctrl-C stops it.")
        threading.Event().wait()


if __name__ == "__main__":
    main()
