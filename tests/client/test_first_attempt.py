"""From where a client without a position asks for records."""

from dispatcher.client.first_attempt import FirstAttempt

HOUR_MS = 3_600_000.0
NOW_MS = 1_795_429_533_864.0


def test_by_its_own_clock_it_asks_a_minute_earlier() -> None:
    """Clocks that differ by less than a minute do no harm."""
    assert FirstAttempt(NOW_MS).since_ms == NOW_MS - 60_000


def test_by_the_clock_of_the_server_it_asks_five_seconds_earlier() -> None:
    """It does so however wrong its own clock is, and however slow the server was."""
    for wrong_ms in (-HOUR_MS, 0.0, HOUR_MS):
        first = FirstAttempt(NOW_MS + wrong_ms)
        first.server_said(NOW_MS + 2000, NOW_MS + wrong_ms + 2000)
        assert first.since_ms == NOW_MS - 5000


def test_it_asks_for_no_time_before_the_epoch() -> None:
    """Servers accept no negative time."""
    assert FirstAttempt(1000.0).since_ms == 0
