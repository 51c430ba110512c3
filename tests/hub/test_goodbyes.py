"""Why a stream ends: the codes are those of the protocol, and clients of one replica do not return all at once."""

from collections.abc import Callable

import pytest

from dispatcher.hub import goodbyes
from dispatcher.hub.goodbyes import RENEWAL_SPREAD_MS, RETRY_SPREAD_MS, TOO_MANY_RETRY_MS, Goodbye

LONG = (TOO_MANY_RETRY_MS + RETRY_SPREAD_MS[0], TOO_MANY_RETRY_MS + RETRY_SPREAD_MS[1])


@pytest.mark.parametrize(
    ("make", "code", "between", "says"),
    [
        (goodbyes.restart, 1012, RETRY_SPREAD_MS, "restarting"),
        (lambda: goodbyes.try_later("full"), 1013, RETRY_SPREAD_MS, "full"),
        (lambda: goodbyes.too_many("10 streams"), 4429, LONG, "10 streams"),
        (goodbyes.spread, 1013, RETRY_SPREAD_MS, "rebalanced"),
        (goodbyes.send_on, 1013, RETRY_SPREAD_MS, "scope=topic"),
        (goodbyes.drained, 1013, RETRY_SPREAD_MS, "drained"),
        (goodbyes.disconnected, 1013, RETRY_SPREAD_MS, "operator"),
        (lambda: goodbyes.refused(4400, "no such message"), 4400, RETRY_SPREAD_MS, "no such message"),
        (lambda: goodbyes.ack_timeout(2.5), 4408, (0, 0), "2.5 s"),
        (goodbyes.token_expired, 4419, RETRY_SPREAD_MS, "token has expired"),
        (lambda: goodbyes.token_needed("another audience"), 4419, RENEWAL_SPREAD_MS, "another audience"),
    ],
)
def test_each_reason_has_its_code_and_its_time(
    make: Callable[[], Goodbye], code: int, between: tuple[int, int], says: str
) -> None:
    """The code tells a client whether to return, and the reason determines the delay."""
    made = [make() for _ in range(50)]
    assert {goodbye.code for goodbye in made} == {code}
    assert all(between[0] <= goodbye.retry_ms <= between[1] for goodbye in made)
    assert all(says in goodbye.reason for goodbye in made)
    assert (len({goodbye.retry_ms for goodbye in made}) > 1) is (between[0] < between[1]), "spread, where there is time"
