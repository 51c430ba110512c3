"""Plays histories to clients, on the server of the cases: ``/SEED/RUN/events`` and ``/SEED/RUN/ws``."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from dispatcher.sansio.position import parse_position
from tests.client_cases.server import CaseServer, Run, serving
from tests.client_histories.history import History

PATIENT_SECONDS = 3600.0
"""Clients wait this long for an answer, and between heartbeats: a machine that stands still loses no connection."""


class HistoryServer(CaseServer):
    """All runs of all histories, on one port."""

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[tuple[str, str], History] = {}
        """By seed and run."""

    def has_case(self, name: str) -> bool:
        """Every number is a history."""
        return name.isdigit()

    def case_of(self, name: str, word: str, last_event_id: str | None) -> tuple[dict[str, Any], Run, str]:
        """The connection that comes now, as a case of its own."""
        history = self.histories.setdefault((name, word), History(int(name)))
        connection = history.connect(parse_position(last_event_id) if last_event_id else {})
        cut = "" if connection.cut_after is None else f"-cut{connection.cut_after}"
        case = {"heartbeat_seconds": PATIENT_SECONDS, "connections": [{"steps": connection.steps}]}
        return case, Run(), word + cut


def history_server() -> AbstractAsyncContextManager[HistoryServer]:
    """A server of all histories for the ``async with`` block."""
    return serving(HistoryServer())
