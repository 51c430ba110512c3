"""A run as a picture: who sent which partition when, what happened, and where records were repeated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tests.chaos.run import Outcome
from tests.chaos.schedule import ASIDE, OF_BROKERS, OF_SUBSCRIBERS, Kind

BIN_SECONDS = 0.25


def draw(outcome: Outcome, path: Path) -> None:
    """Write the picture; the ending of the path says in which format."""
    slots = sorted({life.slot for life in outcome.lives})
    colours = {slot: f"C{n}" for n, slot in enumerate(slots)}  # matplotlib's own order of colours
    partitions = sorted({partition for _, _, partition, _ in outcome.receipts})
    lanes = [*(f"partition {partition}" for partition in partitions), *slots, "brokers", "subscribers", "aside"]
    rows = {lane: len(lanes) - n for n, lane in enumerate(lanes)}

    figure = Figure(figsize=(14, 0.45 * len(lanes) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    for (row, slot), spans in _spans(outcome, rows, slots).items():
        axes.broken_barh(spans, (row - 0.35, 0.7), facecolors=colours[slot], linewidths=0)
    for life in outcome.lives:
        end = life.ended or outcome.ended
        axes.barh(
            rows[life.slot], end - life.began, left=life.began - outcome.began, height=0.5, color=colours[life.slot]
        )
    for one in outcome.happened:
        kind, x = one.event.kind, one.began - outcome.began
        length = max((one.ended or outcome.ended) - one.began, 0.3)
        if kind in OF_BROKERS:
            lane, text = "brokers", f"kill {one.event.target}"
        elif kind in ASIDE:
            lane, text = "aside", str(kind)
        elif kind in OF_SUBSCRIBERS:
            lane, text = "subscribers", kind.removeprefix("subscriber ")
        else:
            lane, text = slots[min(one.event.target, len(slots) - 1)], str(kind)
        if lane in {"brokers", "subscribers", "aside"} or kind is Kind.SUSPEND:
            axes.barh(rows[lane], length, left=x, height=0.5, color="0.75", hatch="//", edgecolor="white")
        axes.annotate(text, (x, rows[lane] + 0.28), fontsize=7, va="bottom")
    for repeat in outcome.report.repeats:
        axes.plot(repeat.at - outcome.began, rows[f"partition {repeat.partition}"], "kx", markersize=5)

    axes.set_xlim(0, outcome.ended - outcome.began)
    axes.set_ylim(0.3, len(lanes) + 0.8)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set_xlabel("seconds")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    report = outcome.report
    axes.set_title(
        f"seed {outcome.seed}, {outcome.protocol}: {report.produced:,} records, {len(report.lost)} lost, "
        f"{len(report.repeats)} repeated (x), {len(report.ahead)} commits ahead",
        loc="left",
    )
    axes.legend(
        handles=[Patch(color=colours[slot], label=slot) for slot in slots],
        ncols=len(slots),
        loc="upper right",
        bbox_to_anchor=(1, 1.09),
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _spans(
    outcome: Outcome, rows: Mapping[str, int], slots: Sequence[str]
) -> Mapping[tuple[int, str], Sequence[tuple[float, float]]]:
    """Yield when records of each partition arrived in each replica's row, as (begin, length)."""
    bins: dict[tuple[int, str], set[int]] = {}
    for at, process, partition, _ in outcome.receipts:
        name = process.partition("/")[0]
        # A worker's name is that of its replica, and a number.
        key = rows[f"partition {partition}"], name if name in slots else name.rpartition("-")[0]
        bins.setdefault(key, set()).add(int((at - outcome.began) / BIN_SECONDS))
    spans: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for key, numbers in bins.items():
        for number in sorted(numbers):
            runs = spans.setdefault(key, [])
            if number - 1 in numbers:
                runs[-1] = runs[-1][0], runs[-1][1] + BIN_SECONDS
            else:
                runs.append((number * BIN_SECONDS, BIN_SECONDS))
    return spans
