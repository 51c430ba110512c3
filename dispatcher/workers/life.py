"""One process of a worker as the parent sees it: its reports, and the questions that it has not answered yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from dispatcher.workers.channel import Channel
from dispatcher.workers.plan import Silence

LOOK_SECONDS = 0.5
"""The time between two checks of a worker."""


@dataclass(slots=True)
class Life:
    """What one process has reported. *Thread*: Trio's."""

    process: trio.Process
    channel: Channel
    reasons: Sequence[str] = ("it has not started yet",)
    degraded: Sequence[str] = ()
    is_up: bool = False
    drain: int = 0
    """The number of the last order to drain, or to end a drain, that the process has carried out."""
    subscribers: int = 0
    late_seconds: float | None = None
    """How late the process was, at worst, in its reports since `take_late_seconds`; None if there was none."""
    silence: Silence = field(default_factory=lambda: Silence(LOOK_SECONDS))
    _asked: int = 0
    _answers: dict[int, trio.MemorySendChannel[bytes]] = field(default_factory=dict)
    """Where to deliver answers that somebody waits for, by the number of the question."""

    async def ask(self, what: str, question: Mapping[str, Any]) -> bytes | None:
        """Ask the process something; returns None if it does not answer. *Cancellation*: safe."""
        self._asked += 1
        number = self._asked
        send, receive = trio.open_memory_channel[bytes](1)
        self._answers[number] = send
        try:
            if not self.channel.post({**question, "ask": number, "what": what}):
                return None
            return await receive.receive() or None
        except trio.EndOfChannel:
            return None
        finally:
            self._answers.pop(number, None)
            send.close()
            receive.close()

    def heard_late(self, seconds: float) -> None:
        """Note how late the process was, as it reports."""
        self.late_seconds = max(self.late_seconds or 0.0, seconds)

    def take_late_seconds(self) -> float | None:
        """Return `late_seconds`, which begins again."""
        taken, self.late_seconds = self.late_seconds, None
        return taken

    def answered(self, number: int, payload: bytes) -> None:
        """Deliver an answer, unless nobody waits for it any longer."""
        if (waiting := self._answers.pop(number, None)) is not None:
            waiting.send_nowait(payload)

    def close(self) -> None:
        """Stop waiting for answers: the process has ended."""
        for waiting in self._answers.values():
            waiting.close()
        self.channel.close()
