"""The panels of the dashboard, asked of the Prometheus that Grafana would ask, and drawn where there is no Grafana."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.swarm.stack import FOLDER, get

DASHBOARD = FOLDER / "monitoring/dashboard.json"
STEP_SECONDS = 2
UNITS = {"short": "", "ops": "/s", "bytes": "bytes", "s": "s", "percentunit": "cores"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: its name, and values over times."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, and what its queries gave."""

    title: str
    unit: str
    is_number: bool
    place: tuple[int, int, int, int]
    """x, y, width and height on the dashboard's grid of 24 columns."""
    lines: Sequence[Line]
    has_data: bool
    """All of its queries gave something."""


def read_panels(prometheus: str, began: float, ended: float) -> list[Panel]:
    """Ask each query of each panel.

    Args:
        prometheus: Address, without the port.
        began: Begin of the time that is shown, in seconds since the epoch.
        ended: End of it.
    """
    panels = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            continue
        answers = [list(_ask(prometheus, target, began, ended)) for target in panel["targets"]]
        grid = panel["gridPos"]
        panels.append(
            Panel(
                title=panel["title"],
                unit=UNITS[panel["fieldConfig"]["defaults"]["unit"]],
                is_number=panel["type"] == "stat",
                place=(grid["x"], grid["y"], grid["w"], grid["h"]),
                lines=[line for answer in answers for line in answer],
                has_data=all(answers),
            )
        )
    return panels


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Draw them where the dashboard has them, as a picture."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = max(y + height for _, y, _, height in (panel.place for panel in panels))
    figure = pyplot.figure(figsize=(16, rows * 0.42), dpi=80)
    began = min(time for panel in panels for line in panel.lines for time, _ in line.points)
    for panel in panels:
        x, y, width, height = panel.place
        axes = figure.add_axes(
            (x / 24 + 0.025, 1 - (y + height - 0.9) / rows, width / 24 - 0.035, (height - 1.8) / rows)
        )
        unit, scale = _readable(panel)
        axes.set_title(f"{panel.title}{f' ({unit})' if unit else ''}", fontsize=9, loc="left")
        if panel.is_number:
            axes.axis("off")
            text = f"{panel.lines[0].points[-1][1]:,.0f}" if panel.lines else "no data"
            axes.text(0.5, 0.4, text, fontsize=26, ha="center", va="center")
            continue
        # A trial's replicas are called slot/task; a slot has one colour.
        names: list[str] = []
        for line in panel.lines:
            name = line.name.partition("/")[0]
            label = f"_{name}" if name in names else name  # what begins so is not in the legend
            names += [] if name in names else [name]
            times = [(time - began) / 60 for time, _ in line.points]
            values = [value * scale for _, value in line.points]
            axes.plot(times, values, f"C{names.index(name)}", linewidth=1.2, label=label)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=6, loc="upper left")
    figure.savefig(path)
    pyplot.close(figure)


def _readable(panel: Panel) -> tuple[str, float]:
    """The unit that suits the numbers, and what they are multiplied with."""
    if panel.unit != "bytes":
        return panel.unit, 1.0
    most = max((value for line in panel.lines for _, value in line.points), default=0.0)
    return ("MiB", 2.0**-20) if most >= 2**20 else ("KiB", 2.0**-10)


def _ask(prometheus: str, target: Mapping[str, Any], began: float, ended: float) -> Iterator[Line]:
    asked = urlencode({"query": target["expr"], "start": began, "end": ended, "step": STEP_SECONDS})
    answer = json.loads(get(f"http://{prometheus}:9090/api/v1/query_range?{asked}"))
    for series in answer["data"]["result"]:
        name = target["legendFormat"]
        for label, text in series["metric"].items():
            name = name.replace(f"{{{{{label}}}}}", text)
        yield Line(name, [(float(time), float(value)) for time, value in series["values"]])
