"""``python -m tests.swarm``: the stack on a Docker Engine, scaled, updated, broken and drained under audit."""

import signal
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import click
import trio
from rich.console import Console

from testbed.broker.cluster import _free_ports
from tests.audit.auditor import table
from tests.swarm.engine import LABEL, Engine
from tests.swarm.images import build_dispatcher, prepare, remove
from tests.swarm.picture import CannotDrawError, draw
from tests.swarm.stack import Stack, free_variables
from tests.swarm.trial import Outcome, Trial


@click.command()
@click.option("--rate", default=200.0, show_default=True, type=click.FloatRange(1), help="Records a second.")
@click.option("--subscribers", default=60, show_default=True, type=click.IntRange(4), help="Through the edge.")
@click.option("--keep", is_flag=True, help="Wait for Ctrl-C before all is removed, to look around.")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="Draw the dashboard, with Grafana's libraries, into this file."
)
def main(rate: float, subscribers: int, keep: bool, picture: Path | None) -> None:
    """Deploy the stack on this machine, scale it, roll an update, roll back a broken one, kill a task, drain.

    Starts a Docker Engine where none runs, and makes the images where none can be pulled. Exit code 1: not all was as
    it should be. All that was made is removed, also after Ctrl-C.
    """
    console = Console(log_path=False)
    # As Ctrl-C: what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Engine(console.log) as engine:
        base, images = prepare(engine, console.log)
        console.log("building the dispatcher")
        first = build_dispatcher(engine, base, "0.1.0")
        size = engine.docker("image", "inspect", "--format", "{{.Size}}", first)
        base_size = engine.docker("image", "inspect", "--format", "{{.Size}}", base)
        console.log(f"image: {int(size) / 1e6:.0f} MB, of which {int(base_size) / 1e6:.0f} MB are {base}")
        variables = {
            **free_variables(_free_ports(5)),
            **images,
            "DISPATCHER_IMAGE": first,
            "DISPATCHER_REPLICAS": "2",
            "UPDATE_MONITOR": "10s",
            "KAFKA_HEAP_OPTS": "-Xms192m -Xmx256m",
            "GRAFANA_REPLICAS": "0" if images else "1",
        }
        stack = Stack(engine, f"trial-{uuid.uuid4().hex[:6]}", variables)
        configs: list[str] = []

        def make_config(text: str) -> str:
            configs.append(f"broken-{uuid.uuid4().hex[:6]}")
            engine.docker("config", "create", "--label", f"{LABEL}=1", configs[-1], "-", text=text)
            return configs[-1]

        trial = Trial(
            stack=stack,
            variables=variables,
            build=lambda version: build_dispatcher(engine, base, version),
            make_config=make_config,
            kill=lambda container: engine.docker("kill", "--signal", "KILL", container),
            drain=engine.drain if engine.is_ours else None,
            tell=console.log,
            rate=rate,
            subscribers=subscribers,
            keep=keep,
        )
        outcome: Outcome | None = None
        try:
            outcome = trio.run(_run_until_told, trial)
            console.print("stopping" if outcome is None else table(outcome, "Swarm"))
            if outcome is not None and picture is not None:
                try:
                    draw(outcome.panels, picture)
                except CannotDrawError as error:
                    console.print(f"no picture of the dashboard: {error}")
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            console.log("removing what was made")
            stack.remove()
            with suppress(RuntimeError):
                engine.docker("config", "rm", *configs)
            remove(engine)
    sys.exit(outcome is None or not outcome.good)


async def _run_until_told(trial: Trial) -> Outcome | None:
    """Run the trial; None when a signal came first."""
    outcome: Outcome | None = None
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            outcome = await trial.run()
            nursery.cancel_scope.cancel()
    return outcome


if __name__ == "__main__":
    main()
