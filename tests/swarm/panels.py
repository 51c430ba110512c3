"""The panels of the dashboard, asked of the Prometheus that Grafana would ask."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.swarm.stack import FOLDER, get

DASHBOARD: Mapping[str, Any] = json.loads((FOLDER / "monitoring/dashboard.json").read_text())
STEP_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, and what its queries gave."""

    number: int
    """Its id in the dashboard."""
    title: str
    answers: Mapping[str, Sequence[Mapping[str, Any]]]
    """By query, the series that Prometheus gave: labels (``metric``), and pairs of time and text (``values``)."""

    @property
    def has_data(self) -> bool:
        """Whether all of its queries gave something."""
        return all(self.answers.values())


def read_panels(prometheus: str, began: float, ended: float) -> list[Panel]:
    """Ask each query of each panel.

    Args:
        prometheus: Address and port.
        began: Begin of the time that is shown, in seconds since the epoch.
        ended: End of it.
    """
    return [
        Panel(
            number=panel["id"],
            title=panel["title"],
            answers={
                target["refId"]: list(_ask(prometheus, target["expr"], began, ended)) for target in panel["targets"]
            },
        )
        for panel in DASHBOARD["panels"]
        if panel["type"] != "row"
    ]


def _ask(prometheus: str, query: str, began: float, ended: float) -> Iterator[Mapping[str, Any]]:
    asked = urlencode({"query": query, "start": began, "end": ended, "step": STEP_SECONDS})
    answer = json.loads(get(f"http://{prometheus}/api/v1/query_range?{asked}"))
    # A trial's replicas are called slot/task, while those of the stack are called by their slot alone.
    slots: dict[str, dict[float, str]] = {}
    for series in answer["data"]["result"]:
        metric = {label: text.partition("/")[0] for label, text in series["metric"].items()}
        slots.setdefault(json.dumps(metric), {}).update(series["values"])
    for text, values in slots.items():
        yield {"metric": json.loads(text), "values": sorted(values.items())}
