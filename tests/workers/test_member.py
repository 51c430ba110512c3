"""A worker as the parent sees it."""

import socket
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest
import trio

from dispatcher.settings import Settings
from dispatcher.workers import member as members
from dispatcher.workers.balance import Load
from dispatcher.workers.channel import MAX_QUEUED, Channel
from dispatcher.workers.life import LOOK_SECONDS, Life
from dispatcher.workers.member import Member
from testbed.patience import seconds

EXPECTS_SETTINGS = f"""\
import json, socket, sys
sys.path[:] = sys.argv[2].split('\\n')
from dispatcher.workers.orders import Orders, decode_settings, read_lines
channel = socket.socket(fileno=Orders.decode(next(read_lines(0))).channel)
channel.settimeout({seconds(10)})
message = json.loads(channel.makefile().readline())
sys.exit(0 if decode_settings(message["settings"]).group_id == "new" else 3)
"""
"""A worker that ends with 0 once it gets the settings of the group ``new``."""


@pytest.fixture
async def channel() -> AsyncIterator[Channel]:
    """One end of a channel, at whose other end nobody reads."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    yield channel
    channel.close()
    theirs.close()


def member_with(channel: Channel) -> tuple[Member, Life]:
    """A worker that is ready, without a process."""
    member = Member("1", Settings(), [])
    member._life = life = Life(cast("trio.Process", None), channel, reasons=(), subscribers=7)
    return member, life


async def test_its_load_is_what_it_has_reported_since_the_last_time(channel: Channel) -> None:
    """The worst report counts; without one nothing is known."""
    member, life = member_with(channel)
    assert member.take_load() is None
    for late_seconds in (0.1, 0.3, 0.2):
        life.heard_late(late_seconds)
    assert [member.take_load(), member.take_load()] == [Load(0.3, 7), None]
    life.heard_late(0)
    assert member.take_load() == Load(0, 7)


async def test_a_worker_that_is_not_ready_has_no_load(channel: Channel) -> None:
    """Nor has one that stops, or has no process."""
    member, life = member_with(channel)
    life.heard_late(0.1)
    life.reasons = ["an operator is draining the replica"]
    assert member.take_load() is None
    life.reasons = []
    life.heard_late(0.1)
    member._stopping.set()
    assert member.take_load() is None
    assert Member("1", Settings(), []).take_load() is None


async def test_orders_to_send_subscribers_on_are_counted_if_they_are_sent(channel: Channel) -> None:
    """A process that reads nothing is sent no more, and without a process there is nobody to order."""
    member, _life = member_with(channel)
    for _ in range(MAX_QUEUED + 1):
        member.send_on(2)
    assert member._sent_on == 2 * MAX_QUEUED
    other = Member("2", Settings(), [])
    other.send_on(2)
    assert other.statistics().sent_on == 0


async def test_settings_that_change_while_a_process_is_started_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP comes after its orders were made, and before it can be sent anything."""
    monkeypatch.setattr(members, "START_CODE", EXPECTS_SETTINGS)

    class Reloaded(Member):
        async def _open(self, descriptors: Sequence[int]) -> trio.Process:
            self.settings = Settings(group_id="new")
            self.reload(self.settings)
            return await super()._open(descriptors)

    member = Reloaded("1", Settings(group_id="old"), [])
    await member.run(lambda: None, lambda member: member.stop())
    assert member.exit_code == 0


async def test_processes_that_end_before_their_first_report_do_not_bring_a_worker_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time until connections reach other workers continues."""
    monkeypatch.setattr(members, "START_CODE", "raise SystemExit(3)")
    member = Member("1", Settings(), [])
    member.keeps_port = False
    member._away.look()
    await member.run(lambda: None, lambda member: member.stop())
    assert member.exit_code == 3
    assert member._away.seconds >= LOOK_SECONDS
