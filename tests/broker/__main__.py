"""``python -m tests.broker``: a real Kafka for hand use, until Ctrl-C."""

import signal

import click

from tests.broker.cluster import KafkaCluster


@click.command()
@click.option("--nodes", type=click.Choice(["1", "3"]), default="1", show_default=True, help="Number of nodes.")
@click.option(
    "--topic", "topics", multiple=True, default=["ofa_assets:6"], show_default=True, help="NAME:PARTITIONS to create."
)
def main(nodes: str, topics: tuple[str, ...]) -> None:
    """Start Apache Kafka on free loopback ports with temporary data, and stop it on Ctrl-C."""
    stops = {signal.SIGINT, signal.SIGTERM}
    with KafkaCluster(int(nodes)) as cluster:
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        for topic in topics:
            name, _, partitions = topic.partition(":")
            cluster.create_topic(name, int(partitions or 1))
        click.echo(f"{cluster.description}; topics {', '.join(topics)}")
        click.echo(f"KAFKA_BOOTSTRAP_SERVERS={cluster.bootstrap_servers}")
        click.echo(f"dispatcher serve --bootstrap-servers {cluster.bootstrap_servers}")
        click.echo("Ctrl-C stops it.")
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
