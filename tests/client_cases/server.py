"""Plays the table of cases: ``python -m tests.client_cases.server`` (README.md beside this file)."""

import json
import re
import socket
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import h11
import trio
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from dispatcher.sansio.encoding.messages import SUBPROTOCOL
from dispatcher.sansio.position import parse_position
from dispatcher.sansio.records import TopicPartition
from testbed.clients import first_pair
from tests.client_cases.encoding import payload
from tests.client_cases.table import cases, load

OPEN_TO_ALL = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Headers", "*"),
    ("Access-Control-Expose-Headers", "*"),
    ("Cache-Control", "no-store"),
]
_CUT = re.compile(r"-cut(\d+)$")


@dataclass
class Run:
    """The connections that came for one case."""

    connections: list[dict[str, Any]] = field(default_factory=list)
    ended_at: float | None = None
    """When the one before ended, on trio's clock."""
    played: int | None = None
    """The number in the table of what the last connection was sent."""
    unseen: dict[TopicPartition, set[int]] = field(default_factory=dict)
    """After a cut: what the client's position names if it has seen all that was sent before the cut."""

    def next_number(self, last_event_id: str | None) -> int:
        """Which connection of the table comes now.

        A cut may take with it what was sent just before: Chromium drops what the page has not read yet when a
        connection fails, and so does `fetch`. A dispatcher then sends again what the client's position does not
        name. So does this server, or the page would wait for records that never come.
        """
        if self.played is None:
            return 0
        seen = parse_position(last_event_id) if last_event_id else {}
        has_seen_all = all(seen.get(partition) in offsets for partition, offsets in self.unseen.items())
        return self.played + has_seen_all


class _EnoughError(Exception):
    """The connection is over, as the case has it."""


class CaseServer:
    """All runs of all cases, on one port."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: dict[tuple[str, str], Run] = defaultdict(Run)
        self._cases = cases()

    def has_case(self, name: str) -> bool:
        """Whether there is a case of this name."""
        return name in self._cases

    def case_of(self, name: str, word: str, last_event_id: str | None) -> tuple[dict[str, Any], Run, str]:
        """The case that a request is about, its run, and the word that says where its first connection is cut."""
        del last_event_id
        return self._cases[name], self.runs[name, word], word

    async def serve(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a free port until cancelled; started with its URL."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, listeners)
            task_status.started(self.url)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            await self._answer(stream)
        except* (_EnoughError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass
        # Not aclose: a cut in the middle is a FIN, and what the client still sends does not matter.
        stream.socket.close()

    async def _answer(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        head = b""
        while not isinstance(request := http.next_event(), h11.Request):
            data = bytes(await stream.receive_some(65536))
            if not data:
                return
            head += data
            http.receive_data(data)
        target = urlsplit(request.target.decode())
        parts = target.path.strip("/").split("/")
        if request.method == b"OPTIONS":
            await _respond(stream, 204, b"")
        elif parts == ["cases.json"]:
            await _respond(stream, 200, json.dumps(load()).encode(), [("Content-Type", "application/json")])
        elif len(parts) != 3 or not self.has_case(parts[0]):
            await _respond(stream, 404, b"no such case")
        elif parts[2] == "report":
            report = {"connections": self.runs[parts[0], parts[1]].connections}
            await _respond(stream, 200, json.dumps(report).encode(), [("Content-Type", "application/json")])
        else:
            query = {name: values[-1] for name, values in parse_qs(target.query).items()}
            headers = {name.decode(): value.decode() for name, value in request.headers}
            last_event_id = headers.get("last-event-id") or query.get("last_event_id")
            case, run, word = self.case_of(parts[0], parts[1], last_event_id)
            await _Play(stream, case, run, word, last_event_id).play(target.path, target.query, query, head)


_AnyServer = TypeVar("_AnyServer", bound=CaseServer)


class _Play:
    """One connection of a case."""

    def __init__(
        self, stream: trio.SocketStream, case: dict[str, Any], run: Run, word: str, last_event_id: str | None
    ) -> None:
        self._stream = stream
        self._case = case
        self._run = run
        self._last_event_id = last_event_id
        connections = case["connections"]
        number = run.next_number(last_event_id)
        self._is_repeated = number == run.played
        run.played, run.unseen = number, {}
        self._connection = connections[min(number, len(connections) - 1)]
        self._next = connections[min(number + 1, len(connections) - 1)]
        cut = _CUT.search(word)
        self._cut_after = int(cut[1]) if cut and number == 0 else None
        self._sent = 0
        self._has_ended = False
        self._ws: wsproto.WSConnection | None = None
        self._report: dict[str, Any] = {}

    async def play(self, path: str, query_text: str, query: dict[str, str], head: bytes) -> None:
        """Do what the case says."""
        waited = None if self._run.ended_at is None else (trio.current_time() - self._run.ended_at) * 1000
        self._report = {
            "last_event_id": self._last_event_id,
            "repeated": self._is_repeated,
            "since": query.get("since"),
            "at_ms": (time.time() + self._case.get("clock_seconds", 0)) * 1000,
            "waited_ms": waited,
            "stream_bytes": 0,
        }
        self._run.connections.append(self._report)
        try:
            if self._connection.get("silent"):
                await self._until_left()
            elif "answer" in self._connection:
                await self._refuse(path, query_text)
            else:
                await self._stream_steps(path, query, head)
        finally:
            self._ends()

    def _ends(self) -> None:
        """Take the time, once: before the end is sent, or the client's wait would seem shorter than it is."""
        if not self._has_ended:
            self._has_ended = True
            self._run.ended_at = trio.current_time()

    async def _refuse(self, path: str, query_text: str) -> None:
        answer = self._connection["answer"]
        fields = [*answer.get("headers", {}).items(), *self._date()]
        if answer.get("redirect"):
            fields.append(("Location", f"{path}?{query_text}" if query_text else path))
        self._ends()
        await _respond(self._stream, answer["status"], answer.get("body", "").encode(), fields)

    def _date(self) -> list[tuple[str, str]]:
        """The header by which clients learn what this server's clock says."""
        if "clock_seconds" not in self._case:
            return []
        return [("Date", formatdate(time.time() + self._case["clock_seconds"], usegmt=True))]

    async def _stream_steps(self, path: str, query: dict[str, str], head: bytes) -> None:
        if path.endswith("/ws"):
            form = "websocket"
            await self._accept(head)
        else:
            form = query.get("format", "value")
            fields = [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
            await self._stream.send_all(_head(200, [*fields, *self._date()]))
        position = parse_position(self._last_event_id) if self._last_event_id else {}
        seen = position if self._connection.get("resume") else {}
        steps = self._connection["steps"]
        if self._is_repeated:
            steps = _steps_after(steps, position)
        async with trio.open_nursery() as nursery:
            # A client that leaves early is noticed, and pongs and closes of a WebSocket are read.
            nursery.start_soon(self._watch, nursery.cancel_scope)
            for step in steps:
                await self._step(_left(step, seen), form)
            await trio.sleep_forever()

    async def _watch(self, scope: trio.CancelScope) -> None:
        await self._until_left()
        scope.cancel()

    async def _until_left(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._stream.receive_some(65536):
                pass

    async def _step(self, step: dict[str, Any], form: str) -> None:
        heartbeat_seconds = self._case.get("heartbeat_seconds", 15.0)
        if "end" in step:
            await self._end(1001, "")
        elif "cut" in step:
            self._note_unseen()
            raise _EnoughError
        elif "reset" in step:
            self._note_unseen()
            linger = b"\x01\0\0\0\0\0\0\0"
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise _EnoughError
        data = payload(step, form, heartbeat_seconds)
        if data:
            framed = self._framed(data)
            await self._send(framed[: len(framed) // 2] if "half" in step else framed)
        if "half" in step:
            await trio.sleep_forever()
        if "goodbye" in step:
            await self._end(step["goodbye"]["code"], step["goodbye"]["reason"])

    def _note_unseen(self) -> None:
        if not self._next.get("resume"):  # that one sends again what was not seen
            self._run.unseen = _position_after(self._connection["steps"])

    async def _end(self, code: int, reason: str) -> None:
        self._ends()
        await self._send(b"0\r\n\r\n" if self._ws is None else self._ws.send(CloseConnection(code, reason)))
        await self._stream.send_eof()
        with trio.move_on_after(5):
            await trio.sleep_forever()
        raise _EnoughError

    def _framed(self, data: bytes) -> bytes:
        if self._ws is not None:
            return self._ws.send(TextMessage(data.decode()))
        return b"%x\r\n%b\r\n" % (len(data), data)

    async def _send(self, data: bytes) -> None:
        if self._cut_after is not None:
            data = data[: self._cut_after - self._sent]
        for part in [data[n : n + 1] for n in range(len(data))] if self._connection.get("dribble") else [data]:
            await self._stream.send_all(part)
        self._sent += len(data)
        self._report["stream_bytes"] = self._sent
        if self._cut_after == self._sent:
            raise _EnoughError

    async def _accept(self, head: bytes) -> None:
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._ws.receive_data(head)
        request: Event = next(iter(self._ws.events()))
        assert isinstance(request, Request), request
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in request.subprotocols else None
        await self._stream.send_all(self._ws.send(AcceptConnection(subprotocol=subprotocol)))


def _left(step: dict[str, Any], seen: dict[TopicPartition, int]) -> dict[str, Any]:
    """The step without records that were seen."""
    if "records" not in step or not seen:
        return step
    return step | {"records": [event_id for event_id in step["records"] if not _is_seen(event_id, seen)]}


def _is_seen(event_id: str, seen: dict[TopicPartition, int]) -> bool:
    partition, offset = first_pair(event_id)
    return offset <= seen.get(TopicPartition(event_id.partition(":")[0], partition), -1)


def _steps_after(steps: list[dict[str, Any]], position: dict[TopicPartition, int]) -> list[dict[str, Any]]:
    """The steps without what precedes the last record that a position names: in the order sent, all that was seen."""
    begin: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []
    for step in steps:
        left.append(step)
        ids = step.get("records", [])
        named = [number for number, event_id in enumerate(ids) if _is_named(event_id, position)]
        if named:
            begin += [each for each in left if "retry" in each]
            left = [{"records": ids[named[-1] + 1 :]}]
    return begin + left


def _is_named(event_id: str, position: dict[TopicPartition, int]) -> bool:
    partition, offset = first_pair(event_id)
    return position.get(TopicPartition(event_id.partition(":")[0], partition)) == offset


def _position_after(steps: list[dict[str, Any]]) -> dict[TopicPartition, set[int]]:
    """The last id of some steps; a gap after it moves clients on, an `EventSource` not."""
    last: dict[TopicPartition, set[int]] = {}
    for step in steps:
        ids = [*step.get("records", []), step.get("record", {}).get("id"), step.get("heartbeat"), step.get("id")]
        for event_id in filter(None, ids):
            last = {partition: {offset} for partition, offset in parse_position(event_id).items()}
        if "gap" in step:
            gap = step["gap"]
            last.get(TopicPartition(gap["topic"], gap["partition"]), set()).add(gap["to"])
    return last


def _head(status: int, fields: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} Case", *(f"{name}: {value}" for name, value in [*OPEN_TO_ALL, *fields])]
    return "\r\n".join([*lines, "", ""]).encode()


async def _respond(
    stream: trio.SocketStream, status: int, body: bytes, fields: list[tuple[str, str]] | None = None
) -> None:
    length = [] if status == 204 else [("Content-Length", str(len(body)))]
    await stream.send_all(_head(status, [*(fields or []), *length, ("Connection", "close")]) + body)
    await stream.send_eof()
    with trio.move_on_after(5), suppress(trio.BrokenResourceError):
        while await stream.receive_some(65536):
            pass


@asynccontextmanager
async def serving(server: _AnyServer) -> AsyncIterator[_AnyServer]:
    """Let a server serve for the ``async with`` block."""
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        yield server
        nursery.cancel_scope.cancel()


def case_server() -> AbstractAsyncContextManager[CaseServer]:
    """A server of all cases for the ``async with`` block."""
    return serving(CaseServer())


async def main() -> None:
    """Serve until standard input ends."""
    async with case_server() as server:
        print(server.url, flush=True)  # noqa: T201 - this is what it is started for
        stdin = trio.lowlevel.FdStream(0)
        while await stdin.receive_some(65536):
            pass


if __name__ == "__main__":
    sys.exit(trio.run(main))
