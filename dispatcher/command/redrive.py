"""``dispatcher redrive``: writes records from dead-letter topics back to their own topics."""

import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dispatcher.command.interrupts import EXIT_SIGNALLED, signals_ask_to_stop
from dispatcher.command.safe_text import clean
from dispatcher.errors import KafkaClientError
from dispatcher.sansio.redrive import Wanted
from dispatcher.settings import Settings

_DURATION = re.compile(r"-(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

EXIT_FAILED = 1


class Moment(click.ParamType[float]):
    """A time, in ISO 8601 with a time zone, or a duration before now."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Milliseconds since the epoch."""
        text = str(value)
        if match := _DURATION.fullmatch(text):
            return (time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.fail(f"{text!r} is not a time: use one such as 2026-01-31T12:00:00Z, or -2h", param, ctx)
        return moment.timestamp() * 1000


def redrive(settings: Settings, wanted: Wanted, *, dry_run: bool, limit: int | None, rate: float) -> None:
    """Redrive, show the progress and the result, and exit with 1 if it failed, or as a signal wants it.

    *Thread*: the main one, for the signals. They take effect between two transactions.
    """
    from dispatcher.kafka.properties import admin_properties, replay_properties  # noqa: PLC0415 - `tail` does without
    from dispatcher.kafka.redriving import Redriving, Report  # noqa: PLC0415 - librdkafka
    from dispatcher.sansio.dead_letters import dead_letter_topic  # noqa: PLC0415 - the same

    console = Console(stderr=True)
    report = Report()
    failed: KafkaClientError | None = None
    properties = admin_properties(replay_properties(settings))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    topics: dict[str, list[str]] = {}
    for topic in settings.topics:
        topics.setdefault(dead_letter_topic(settings.dead_letter_topic, topic), []).append(topic)
    with (
        signals_ask_to_stop() as stop,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        for letters, names in topics.items():
            left = None if limit is None else limit - sum(report.redriven.values())
            if left == 0 or stop.is_asked():
                break
            try:
                run = Redriving(properties, f"{settings.group_id}.redrive", letters, is_dry=dry_run)
                task = progress.add_task(letters, total=run.open(names))
                advance: Callable[[int], None] = lambda number, task=task: progress.advance(task, number)  # type: ignore[misc] # noqa: E731
                run.run(
                    wanted,
                    report,
                    limit=left,
                    rate=0 if dry_run else rate,
                    advance=advance,
                    is_stopped=stop.is_asked,
                )
                run.close()
            except KafkaClientError as error:
                failed = error
                break
    table = table_of(report.redriven, report.left, dry_run=dry_run)
    if table.row_count or not stop.is_asked():
        console.print(table if table.row_count else "No letters are left to redrive.")
    if failed is not None:
        console.print(f"[bold red]failed:[/] {escape(clean(str(failed)))}")
        console.print("Everything counted as redriven is in its topic. Run the command again: it continues.")
        sys.exit(EXIT_FAILED)
    if stop.signal is not None:
        console.print(f"{signal.Signals(stop.signal).name}: stopped. Run the command again: it continues.")
        sys.exit(EXIT_SIGNALLED + stop.signal)


def table_of(redriven: Counter[tuple[str, str]], left: Counter[tuple[str, str]], *, dry_run: bool) -> Table:
    """The result, by topic and reason. Both are read from the letters, so whoever may write letters can choose them."""
    table = Table("topic", "reason", "would be redriven" if dry_run else "redriven", "left", box=None)
    for key in sorted(redriven | left):
        topic, reason = (escape(clean(text)) for text in key)
        table.add_row(topic, reason, str(redriven[key]), str(left[key]))
    return table
