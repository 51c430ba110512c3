"""``python -m tests.fuzz``: fuzz a replica for some minutes, seed after seed."""

import sys
import time

import click

from tests.fuzz.run import fuzz
from tests.fuzz.schemas import fuzz_schemas


@click.command()
@click.option("--minutes", type=float, default=2.0, show_default=True)
@click.option("--only", type=click.Choice(["requests", "schemas"]), default=None, help="One of the two; both in turns.")
@click.option("--seed", type=int, default=None, help="The first seed; the clock's by default.")
def main(minutes: float, seed: int | None, only: str | None) -> None:
    """Send nonsense to a replica, and to the decoders of records, and say what it broke."""
    deadline = time.monotonic() + minutes * 60
    number = int(time.time()) if seed is None else seed
    while (left := deadline - time.monotonic()) > 0:
        failures = []
        if only != "schemas":
            failures += fuzz(number, min(30.0, left), click.echo)
        if only != "requests":
            failures += fuzz_schemas(number, click.echo)
        if failures:
            click.echo(f"seed {number} broke it:\n" + "\n".join(failures))
            sys.exit(1)
        number += 1


if __name__ == "__main__":
    main()
