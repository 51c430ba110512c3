"""What a trial tells of subscribers that come back."""

from tests.swarm.visitors import CUT, RESTART, TRY_LATER, Visit, returns


def test_the_time_counts_from_the_stop_of_the_replica() -> None:
    """It runs from the first subscriber that learns of it until records flow for each."""
    one = [Visit("a", 0.0, 0.1, 10.0, RESTART), Visit("b", 11.0, 11.5, None, CUT)]
    two = [Visit("a", 0.0, 0.1, 10.25, RESTART), Visit("b", 12.0, 12.0, None, CUT)]
    back = returns([one, two], 5.0, 20.0)
    assert back.seconds == (1.5, 2.0)
    assert (back.median_seconds, back.worst_seconds, back.never) == (1.75, 2.0, 0)
    assert (back.stops, back.largest_wave, back.most_at_once) == ({"a": 2}, 2, 2)


def test_subscribers_that_are_not_live_again_are_counted() -> None:
    """A visit without flowing records is no return."""
    back = returns([[Visit("a", 0.0, 0.1, 10.0, RESTART), Visit("b", 11.0, None, 12.0, CUT)]], 5.0, 20.0)
    assert (back.seconds, back.never, back.cut) == ((), 1, 1)


def test_subscribers_sent_to_another_replica_wait_for_no_stop() -> None:
    """Their old replica continues."""
    back = returns([[Visit("a", 0.0, 0.1, 10.0, TRY_LATER), Visit("b", 11.0, 11.5, None, CUT)]], 5.0, 20.0)
    assert (back.stops, back.seconds, back.spread) == ({}, (), 1)


def test_what_comes_within_five_seconds_is_one_wave() -> None:
    """This holds whatever replicas they come from and reach."""
    starts = (6.0, 8.0, 10.9, 11.0, 16.0)
    back = returns([[Visit("a", 0.0, 0.1, start, RESTART), Visit("b", start, start)] for start in starts], 5.0, 20.0)
    assert (back.largest_wave, back.most_at_once) == (3, 5)


def test_nothing_happened() -> None:
    """Streams that end before or after the change do not count."""
    back = returns([[Visit("a", 0.0, 0.1, 4.0, RESTART), Visit("b", 4.5, 4.6, 30.0, RESTART)]], 5.0, 20.0)
    assert (back.stops, back.worst_seconds, back.largest_wave, back.most_at_once) == ({}, 0.0, 0, 1)
