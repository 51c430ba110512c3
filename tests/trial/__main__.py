"""``python -m tests.trial``: long trials on a real Kafka, with a verdict each."""

import sys
from collections.abc import Iterable
from functools import partial

import click
import trio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from testbed.broker.cluster import KafkaCluster
from tests.trial import cuts as cuts_trial
from tests.trial import leaving as leaving_trial
from tests.trial import letters as letters_trial
from tests.trial import standby as standby_trial
from tests.trial import whole_topic as whole_topic_trial
from tests.trial.ledger import Row
from tests.web.test_bad_input import ENDINGS

console = Console(log_path=False)


def tell(text: str) -> None:
    """A line for people."""
    console.log(text)


def judge(title: str, rows: Iterable[Row], evidence: Iterable[str] = ()) -> None:
    """Print a verdict; exit code 1 if something is not as it should be."""
    table = Table("what", "found", "", title=title)
    rows = list(rows)
    for name, value, good in rows:
        table.add_row(name, value, "ok" if good else "[bold red]WRONG[/]")
    console.print(table)
    for words in evidence:
        console.print(f"[red]{escape(words)}[/]", highlight=False)
    sys.exit(not all(good for _, _, good in rows))


@click.group()
def main() -> None:
    """Trials that take minutes: exit code 1 if a promise was not kept."""


@main.command()
@click.option("--minutes", default=5.0, show_default=True, type=click.FloatRange(0.5))
@click.option("--rate", default=500.0, show_default=True, type=click.FloatRange(1), help="Records a second.")
@click.option("--protocol", default="classic", show_default=True, type=click.Choice([*whole_topic_trial.PROPERTIES]))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
def whole_topic(minutes: float, rate: float, protocol: str, seed: int) -> None:
    """A plain EventSource in Chromium with ?scope=topic loses nothing, whatever fails."""
    with KafkaCluster(3) as cluster:
        trial = whole_topic_trial.Trial(cluster, protocol, seed, tell)
        trio.run(trial.run, minutes * 60, rate)
    judge(f"whole topic, {protocol}, seed {seed}", trial.rows(), trial.ledger.evidence())


@main.command()
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1), help="Times that all clients leave.")
@click.option("--idle-seconds", default=5.0, show_default=True, type=click.FloatRange(1))
def standby(rounds: int, idle_seconds: float) -> None:
    """Partitions follow subscribers: a lone client's replica owns everything, and no group is ever empty."""
    with KafkaCluster(3) as cluster:
        rows = trio.run(standby_trial.run, cluster, rounds, idle_seconds, tell)
    judge(f"standby, idle_leave_seconds={idle_seconds:g}", rows)


@main.command()
@click.option("--protocol", default="classic", show_default=True, type=click.Choice([*letters_trial.PROPERTIES]))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--share", default=1.0, show_default=True, type=click.FloatRange(0.01, 1), help="Of the points to try.")
@click.option("--skip", default=0.0, show_default=True, type=click.FloatRange(0, 0.99), help="Share tried before.")
@click.option("--randoms", default=30, show_default=True, type=click.IntRange(0), help="Kills at random moments, each.")
def letters(protocol: str, seed: int, share: float, skip: float, randoms: int) -> None:
    """Kill -9 at every point of a letter's way and a commit's: each record is delivered or a letter, never neither."""
    with KafkaCluster(1, letters_trial.BROKER) as cluster:
        trial = partial(letters_trial.run, cluster, protocol, tell, seed=seed, skip=skip, share=share, randoms=randoms)
        rows, evidence = trio.run(trial)
    judge(f"dead letters under kill -9, {protocol}, seed {seed}", rows, evidence)


@main.command()
@click.option("--minutes", default=1.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--rate", default=500.0, show_default=True, type=click.FloatRange(1), help="Records a second.")
def observers(minutes: float, rate: float) -> None:
    """Observers alone, on each of three replicas: the group commits nothing."""
    with KafkaCluster(3) as cluster:
        rows = trio.run(standby_trial.observe, cluster, minutes * 60, rate, tell)
    judge("observers alone", rows)


@main.command()
@click.option("--number", default=1000, show_default=True, type=click.IntRange(1), help="Clients that end in each way.")
@click.option("--rate", default=200.0, show_default=True, type=click.FloatRange(1), help="Records a second.")
@click.option("--ending", "endings", multiple=True, type=click.Choice([*ENDINGS]), help="Only these ways.")
def leaving(number: int, rate: float, endings: tuple[str, ...]) -> None:
    """Clients end in every way: nothing is left of them, others miss nothing, and nothing is dispatched to nobody."""
    with KafkaCluster(1) as cluster:
        clients = dict.fromkeys(endings or ENDINGS, number)
        rows = trio.run(leaving_trial.run, cluster, clients, rate, tell)
    judge("clients that leave", rows)


@main.command()
@click.option("--bytes", "most", default=700, show_default=True, type=click.IntRange(1), help="That follow a state.")
@click.option("--step", default=1, show_default=True, type=click.IntRange(1), help="Bytes from one cut to the next.")
def cuts(most: int, step: int) -> None:
    """Chromium, npm eventsource, httpx-sse and Go, cut at any byte: ids of 6 and of 300 partitions."""
    with KafkaCluster(1) as cluster:
        rows = trio.run(cuts_trial.run, cluster, most, tell, step)
    judge("cut at any byte", rows)


if __name__ == "__main__":
    main()
