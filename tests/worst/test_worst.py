"""Beside a server that says the worst at every turn, for as long as some attempts take (`nox -s worst`: a minute)."""

import trio

from testbed.patience import seconds
from tests.worst.run import TRANSPORTS, Outcome, servers, suffer_python
from tests.worst.server import KINDS

WITHOUT_FLOODS = (
    "ends_at_once",
    "retry_0",
    "too_slow",
    "odd_waits",
    "noise",
    "wrong_types",
    "wrong_ids",
    "wrong_close",
)


async def test_the_python_client_raises_nothing_but_its_own_errors() -> None:
    """Whatever a server says, and after passing errors it returns."""
    outcomes: list[Outcome] = []
    with trio.fail_after(seconds(60)):
        async with servers() as addresses:
            assert addresses.keys() == KINDS.keys()
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for kind in WITHOUT_FLOODS:
                    for transport in TRANSPORTS:
                        nursery.start_soon(suffer_python, kind, addresses[kind], transport, outcomes, 2)
            lasted = trio.current_time() - began
    assert len(outcomes) == 2 * len(WITHOUT_FLOODS)
    assert [each for outcome in outcomes for each in outcome.complaints(lasted)] == []
