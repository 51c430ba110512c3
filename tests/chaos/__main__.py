"""``python -m tests.chaos``: a seeded chaos run on a real 3-node Kafka, with a table and a picture at the end."""

import sys
import time
from functools import partial
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from testbed.broker.cluster import KafkaCluster
from testbed.patience import VARIABLE
from tests.audit.auditor import table
from tests.chaos.beside import EXPLAINED as EXPLAINED_BESIDE
from tests.chaos.beside import Name
from tests.chaos.run import PROPERTIES, RATE, RESETS, YIELDING, Outcome, run_chaos
from tests.chaos.schedule import EXPLAINED, Kind
from tests.chaos.timeline import draw

RESULTS = Path("build/chaos")
MOST_WORDS = 60
"""At most this much of the evidence is shown."""
READERS = 200
READERS_BESIDE_WORKERS = 120
"""With two workers each there are twice as many replicas. With 200 readers the auditor read 8 s late on two cores: what
waits in its sockets is gone when a worker is killed, and it counts that as lost. With 120 it read 1 s late."""

KINDS = click.Choice([kind.option for kind in Kind])
HELP = f"""Kill, stop, suspend and restart replicas, brokers and subscribers by a seeded schedule, and audit what comes.

The same seed and kinds give the same schedule. Exit code 1: a guarantee was broken, or a planned change repeated a
record. Deadlines are stretched by the environment variable {VARIABLE} (3), for slow machines.

\b
What happens, by name for --only and --without:
""" + "\n".join(f"  {kind.option:12} {EXPLAINED[kind]}" for kind in Kind)
HELP += """

\b
What runs beside, on topics of its own, by name for --beside:
""" + "\n".join(f"  {name:12} {EXPLAINED_BESIDE[name]}" for name in Name)


def show(outcome: Outcome, console: Console) -> None:
    """Print the auditor's table, where repeats come from, and how planned stops ended."""
    console.print(table(outcome, f"seed {outcome.seed}, {outcome.protocol} protocol"))
    causes = Table(title="Repeated, by what it comes from", show_header=False)
    for kind in sorted({str(one.event.kind) for one in outcome.happened} | set(outcome.repeats)):
        times = sum(str(one.event.kind) == kind for one in outcome.happened)
        causes.add_row(f"{kind} ({times} times)", f"{outcome.repeats[kind]:,}")
    console.print(causes)
    for stops, codes in (
        ("Planned stops", outcome.exit_codes),
        ("Planned stops while a broker was away", outcome.exit_codes_without_a_broker),
    ):
        console.print(
            f"{stops}: " + (", ".join(f"{number} with {code}" for code, number in sorted(codes.items())) or "none")
        )
    for words in list(outcome.evidence)[:MOST_WORDS]:
        console.print(f"[red]{escape(words)}[/]", highlight=False)


def chosen_kinds(only: tuple[str, ...], without: tuple[str, ...]) -> frozenset[Kind]:
    """What may happen; everything but what is left out."""
    return frozenset(kind for kind in Kind if kind.option not in without and (not only or kind.option in only))


@click.command(help=HELP)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of the first run.")
@click.option("--minutes", default=3.0, show_default=True, type=click.FloatRange(0.5), help="Length of each run.")
@click.option(
    "--runs", default=1, show_default=True, type=click.IntRange(1), help="Number of seeds to run, one after another."
)
@click.option(
    "--protocol",
    type=click.Choice([*PROPERTIES, "by-seed"]),
    default="by-seed",
    show_default=True,
    help="Group protocol; by seed: even ones classic, odd ones consumer (KIP-848).",
)
@click.option(
    "--readers",
    show_default=f"{READERS}; {READERS_BESIDE_WORKERS} with more than one worker",
    type=click.IntRange(0),
    help="They come and go; 0: none.",
)
@click.option(
    "--rate",
    default=RATE,
    show_default=True,
    type=click.FloatRange(1),
    help="Records a second; with readers in a topic of theirs, and at most the default in the auditor's.",
)
@click.option(
    "--reset",
    type=click.Choice([*RESETS, "by-seed"]),
    default="by-seed",
    show_default=True,
    help="auto.offset.reset of the replicas, on which no promise depends; by seed: two seeds earliest, two latest.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 8),
    help="Processes of each of the three replicas; with more than one, single ones are killed and suspended as well.",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Choice([*map(str, Name), "nothing"]),
    metavar="NAME",
    help="Let only this run beside; repeatable; nothing: none of it. Everything by default.",
)
@click.option("--only", multiple=True, type=KINDS, metavar="KIND", help="Let only this happen; repeatable.")
@click.option("--without", multiple=True, type=KINDS, metavar="KIND", help="Do not let this happen; repeatable.")
def main(  # noqa: PLR0917 - click passes names
    seed: int,
    minutes: float,
    runs: int,
    protocol: str,
    readers: int | None,
    rate: float,
    reset: str,
    workers: int,
    beside: tuple[str, ...],
    only: tuple[str, ...],
    without: tuple[str, ...],
) -> None:
    """See `HELP`."""
    if readers is None:
        readers = READERS if workers == 1 else READERS_BESIDE_WORKERS
    kinds = chosen_kinds(only, without)
    names = frozenset(name for name in Name if not beside or name in beside)
    again = (
        "".join(f" --beside {name}" for name in beside)
        + "".join(f" --only {name}" for name in only)
        + "".join(f" --without {name}" for name in without)
    )
    console = Console(log_path=False)
    bad = []
    for number in range(seed, seed + runs):
        chosen = ("classic", "consumer")[number % 2] if protocol == "by-seed" else protocol
        begin = RESETS[number // 2 % 2] if reset == "by-seed" else reset
        with (
            KafkaCluster(3, command=YIELDING) as cluster,
            Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress,
        ):
            task = progress.add_task(f"seed {number}, {chosen}", total=minutes * 60)

            def tell(text: str) -> None:
                console.log(text)

            def advance(seconds: float) -> None:
                progress.advance(task, seconds)  # noqa: B023 - called within this turn of the loop

            results = RESULTS / f"seed-{number}-{chosen}"
            began, used = time.monotonic(), time.process_time()
            arguments = (cluster, number, minutes * 60, chosen, tell, advance, results, readers, rate, kinds, begin)
            outcome = trio.run(partial(run_chaos, beside=names, workers=workers), *arguments)
            used_cores = (time.process_time() - used) / (time.monotonic() - began)
        show(outcome, console)
        console.print(f"Readers and auditor took {used_cores:.2f} cores.")
        (results / "evidence.txt").write_text("".join(f"{words}\n" for words in outcome.evidence))
        draw(outcome, results / "timeline.svg")
        console.print(f"Timeline, logs and all evidence: {results}")
        if not outcome.good:
            bad.append(number)
            console.print(
                f"[bold red]Seed {number} failed.[/] Again: nox -s chaos -- --seed {number} --minutes {minutes:g} "
                f"--workers {workers} --readers {readers} --rate {rate:g} --protocol {chosen} --reset {begin}{again}"
            )
    console.print(f"{runs - len(bad)} of {runs} seeds kept every guarantee.")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
