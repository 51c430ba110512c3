"""Turns: fair by client, bounded, and none is lost with whoever is cancelled."""

import trio
import trio.testing

from dispatcher.kafka.turns import Turns


async def take(turns: Turns, client: str, taken: list[str]) -> None:
    """Note whose turn it was."""
    async with turns.turn(client):
        taken.append(client)
        await trio.lowlevel.checkpoint()


async def test_a_client_with_many_requests_delays_another_by_one_turn() -> None:
    """This holds even if all of them came first."""
    turns, taken = Turns(1), list[str]()
    async with trio.open_nursery() as nursery, turns.turn("first"):
        for client in ["storm"] * 5 + ["honest"]:
            nursery.start_soon(take, turns, client, taken)
            await trio.testing.wait_all_tasks_blocked()
        assert (turns.taken, turns.waiting) == (1, 6)
    assert taken == ["storm", "honest", "storm", "storm", "storm", "storm"]
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_a_cancelled_request_in_line_leaves_no_turn() -> None:
    """It makes no difference whether its turn was about to begin."""
    turns, taken = Turns(1), list[str]()
    async with trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(3)]

        async def cancellable(scope: trio.CancelScope) -> None:
            with scope:
                await take(turns, "a", taken)

        async with turns.turn("first"):
            for scope in scopes:
                nursery.start_soon(cancellable, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert turns.waiting == 2
        # The first of them has been handed the turn, and has not run yet.
        scopes[0].cancel()
    assert (turns.taken, turns.waiting) == (0, 0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await take(turns, "a", taken)
    assert turns.taken == 0
    with trio.CancelScope() as scope:
        async with turns.turn("first"), trio.open_nursery() as nursery:
            nursery.start_soon(take, turns, "lone", taken)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_an_owner_with_many_clients_delays_another_by_one_turn() -> None:
    """Nine streams of one address take turns among themselves, and count as one."""
    turns, taken = Turns(1), list[object]()

    async def one(client: tuple[str, int]) -> None:
        async with turns.turn(client):
            taken.append(client)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, turns.turn("first"):
        for client in [("greedy", number % 3) for number in range(9)] + [("honest", 0)]:
            nursery.start_soon(one, client)
            await trio.testing.wait_all_tasks_blocked()
        assert turns.waiting == 10
    greedy = [("greedy", number % 3) for number in range(9)]
    assert taken == [greedy[0], ("honest", 0), *greedy[1:]]
    assert (turns.taken, turns.waiting) == (0, 0)


async def test_one_that_is_cancelled_leaves_nothing() -> None:
    """Neither its client's line nor its owner's remains."""
    turns = Turns(1)
    async with turns.turn(("a", 1)):
        with trio.move_on_after(0.01):
            async with turns.turn(("b", 2)):
                pass
        assert turns.waiting == 0
    assert turns.taken == 0
