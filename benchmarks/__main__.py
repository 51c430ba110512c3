"""``python -m benchmarks``: run benchmarks on a real Kafka, print a table for each, and keep the measurements."""

import json
import os
import platform
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import confluent_kafka
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

import dispatcher
from benchmarks import (
    acks,
    attacks,
    ceiling,
    compression,
    connect,
    fan_out,
    filters,
    following,
    idle,
    ingest,
    isolation,
    items,
    keyed,
    latency,
    laws,
    leaderless,
    machine,
    page,
    parked,
    peers,
    rebalance,
    reconnect,
    schemas,
    stages,
    traces,
    yesterday,
)
from benchmarks.tables import amount
from testbed.broker.jars import kafka_version

BENCHMARKS = {
    "acks": acks,
    "attacks": attacks,
    "ceiling": ceiling,
    "compression": compression,
    "connect": connect,
    "fan-out": fan_out,
    "filters": filters,
    "following": following,
    "items": items,
    "keyed": keyed,
    "parked": parked,
    "growth": laws,
    "latency": latency,
    "idle": idle,
    "ingest": ingest,
    "isolation": isolation,
    "leaderless": leaderless,
    "machine": machine,
    "reconnect": reconnect,
    "schemas": schemas,
    "stages": stages,
    "traces": traces,
    "yesterday": yesterday,
    "rebalance": rebalance,
    "page": page,
    "peers": peers,
}
WHEN_ASKED_FOR = {"items", "machine", "peers"}
"""These build other projects' services first, so they run only by name, or with ``--peers``."""
NOT_QUICK = {
    "attacks",
    "compression",
    "connect",
    "growth",
    "keyed",
    "parked",
    "stages",
    "traces",
    "yesterday",
    "rebalance",
    "page",
}
"""These take a minute and more even when quick, so a quick run of all, which takes less than three, leaves them out."""
RESULTS = Path("build/benchmarks")
DOCS = Path("docs")


def environment() -> Mapping[str, object]:
    """Return the conditions on which the figures depend."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kafka": kafka_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "packages": {
            "dispatcher": dispatcher.__version__,
            **{name: version(name) for name in ("trio", "confluent-kafka", "hypercorn")},
        },
    }


def write_into(path: Path, name: str, text: str, picture: Path) -> None:
    """Replace the text between a benchmark's two marks in a page, if it has them, and the picture, if it is shown."""
    begin, end = f"<!-- {name}: written by nox -s bench -->", f"<!-- {name}: end -->"
    whole = path.read_text()
    path.write_text(
        re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", f"{begin}\n\n{text}\n\n{end}", whole, flags=re.DOTALL)
    )
    if f"pictures/{picture.name}" in whole:
        shutil.copy(picture, path.parent / "pictures")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a page."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(name: str, series: Mapping[str, Mapping[str, float]], folder: Path) -> Path:
    """Draw one picture with bars, at most three units in a row; figures with the same unit are compared."""
    columns = 2 if len(series) == 4 else min(len(series), 3)
    rows = -(-len(series) // columns)
    height = max(3.2, 1.0 + 0.28 * max(map(len, series.values())))
    figure, every = plt.subplots(rows, columns, figsize=(5 * columns, height * rows), squeeze=False)
    for axes, (unit, bars) in zip(every.flat, series.items(), strict=False):
        axes.barh(list(bars), list(bars.values()), color="#2f6f9f")
        axes.invert_yaxis()
        axes.set_xlabel(textwrap.fill(unit, 46))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _place: amount(value))
        axes.spines[["top", "right"]].set_visible(False)
        for place, value in enumerate(bars.values()):
            axes.text(value, place, f" {amount(value)}", va="center", fontsize=8)
        axes.margins(x=0.18)
    for axes in every.flat[len(series) :]:
        axes.set_visible(False)
    figure.suptitle(name)
    figure.tight_layout()
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="Few and short: to see that it works, not for figures.")
@click.option("--write", is_flag=True, help="Write the tables into docs/ as well.")
@click.option("--peers", "with_peers", is_flag=True, help="Peers too, which are built first.")
def main(names: Sequence[str], *, quick: bool, write: bool, with_peers: bool) -> None:
    """Run the benchmarks NAMES, or all but peers. Figures go to build/benchmarks/ as JSON.

    Without names, a quick run takes less than three minutes: it leaves out benchmarks that take long even when quick.
    """
    if quick and write:
        raise click.UsageError("figures of a quick run are none for docs/: --quick or --write")
    console = Console(log_path=False)
    left_out = WHEN_ASKED_FOR | NOT_QUICK if quick else WHEN_ASKED_FOR
    asked = [*(names or (name for name in BENCHMARKS if name not in left_out))]
    if with_peers and "peers" not in asked:
        asked.append("peers")
    for name in asked:
        benchmark = BENCHMARKS[name]
        with console.status(name) as status:

            def tell(text: str) -> None:
                console.log(text)
                status.update(text)

            rows = benchmark.run(quick=quick, tell=tell)
        around = environment()
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(
            json.dumps({"environment": around, "quick": quick, "rows": rows}, indent=1)
        )
        shown = [benchmark.cells(row) for row in rows]
        table = Table(*benchmark.COLUMNS, title=name)
        for cells in shown:
            table.add_row(*cells)
        console.print(table)
        picture = draw(name, benchmark.series(rows), RESULTS)
        if write:
            made = ", ".join(f"{key} {around[key]}" for key in ("date", "cores", "python", "kafka", "librdkafka"))
            write_into(DOCS / f"{benchmark.PAGE}.md", name, f"{markdown(benchmark.COLUMNS, shown)}\n\n{made}.", picture)


if __name__ == "__main__":
    main()
