"""The auditor's books: each fault is found, and what is none is not taken for one."""

from tests.audit.ledger import Ledger, Report


def ledger_with(number: int = 4, processes: tuple[str, ...] = ("a",)) -> Ledger:
    """This many records produced in partition 0, and a connection to each process, numbered from 0."""
    ledger = Ledger()
    for n in range(number):
        ledger.produced(0, n, 100 + n)
    for process in processes:
        ledger.opened(process)
    return ledger


def receive(ledger: Ledger, *offsets: int, connection: int = 0, at: float = 1.0) -> None:
    """Read these records on a connection."""
    for offset in offsets:
        ledger.received(connection, 0, offset, 100 + offset, at)


def bad_rows(report: Report) -> list[str]:
    """Names of the rows that are not as they should be."""
    return [name for name, _, good in report.rows() if not good]


def test_all_is_well() -> None:
    """Every record arrives once, and commits stay below what was received."""
    ledger = ledger_with()
    receive(ledger, 0, 1, 2, 3)
    ledger.sampled({0: 4}, 2.0)
    ledger.committed(0, 2)
    ledger.committed(0, 4)
    report = ledger.report()
    assert report.clean
    assert bad_rows(report) == []
    assert (report.produced, report.dispatched, report.samples) == (4, 4, 1)


def test_nothing_produced_or_sampled_is_not_clean() -> None:
    """An audit without records or samples proves nothing, so it fails."""
    assert not Ledger().report().clean
    ledger = ledger_with()
    receive(ledger, 0, 1, 2, 3)
    assert not ledger.report().clean


def test_a_record_that_nobody_received_is_lost() -> None:
    """A record that nobody received is lost, even the last one."""
    ledger = ledger_with()
    receive(ledger, 0, 1)
    receive(ledger, 2, connection=ledger.opened("b"))
    assert ledger.report().lost == ((0, 3),)


def test_two_subscribers_of_one_process_are_no_repeat() -> None:
    """Two subscribers of one process may get the same record: that is fan-out."""
    ledger = ledger_with(processes=("a", "a"))
    receive(ledger, 0, 1)
    receive(ledger, 0, 1, connection=1)
    assert ledger.report().repeats == ()


def test_a_second_process_repeats() -> None:
    """A second process counts as one repeat per record, however many subscribers get it; the first sender is named."""
    ledger = ledger_with(processes=("a", "b", "b"))
    receive(ledger, 0, 1)
    receive(ledger, 1, connection=1, at=5.0)
    receive(ledger, 1, connection=2, at=6.0)
    (repeat,) = ledger.report().repeats
    assert repeat == (5.0, 0, 1, "a", "b", 6.0)


def test_a_repeat_says_since_when_its_subscribers_have_seen_no_hole() -> None:
    """The latest of them counts; a state in between, with which partitions leave and return, makes no difference."""
    ledger = ledger_with(processes=("a", "b", "b"))
    receive(ledger, 2, connection=1, at=5.0)
    ledger.told_state(1)
    receive(ledger, 3)
    receive(ledger, 3, connection=1, at=6.0)
    assert ledger.report().repeats == ((6.0, 0, 3, "a", "b", 5.0),)
    receive(ledger, 3, connection=2, at=7.0)
    assert ledger.report().repeats == ((6.0, 0, 3, "a", "b", 7.0),)


def test_records_out_of_order_and_left_out() -> None:
    """Holes and disorder on one connection are found while no state reports a change."""
    ledger = ledger_with()
    receive(ledger, 0, 2, 1, 3)
    report = ledger.report()
    assert (report.out_of_order, report.holes) == (1, 2)
    assert report.lost == ()


def test_after_a_state_a_partition_may_go_on_anywhere() -> None:
    """After a state, a partition may continue anywhere: it left the replica and returned."""
    ledger = ledger_with()
    receive(ledger, 0)
    ledger.told_state(0)
    receive(ledger, 2, 3)
    ledger.told_state(0)
    receive(ledger, 1, 2)
    report = ledger.report()
    assert (report.out_of_order, report.holes) == (0, 0)


def test_a_record_with_another_number_is_altered() -> None:
    """A record with another number is altered, whichever copy it is."""
    ledger = ledger_with(processes=("a", "a"))
    ledger.received(0, 0, 0, 101, 1.0)
    receive(ledger, 1)
    ledger.received(1, 0, 1, 100, 1.0)
    assert ledger.report().altered == 2


def test_a_commit_past_a_record_that_nobody_has_is_ahead() -> None:
    """Such a commit is ahead even if the record arrives or is produced later."""
    ledger = ledger_with()
    receive(ledger, 0)
    ledger.sampled({0: 2}, 2.0)
    receive(ledger, 1, 2, 3, at=3.0)
    ledger.sampled({0: 5}, 4.0)
    assert ledger.report().ahead == ((0, 1), (0, 4))


def test_what_waited_in_a_frozen_socket_was_dispatched() -> None:
    """A frozen client read nothing while the commit was seen; what arrives after its thaw is judged again."""
    ledger = ledger_with(6)
    receive(ledger, 0)
    ledger.frozen(0, 1.5)
    ledger.sampled({0: 3}, 2.0)
    receive(ledger, 1, at=3.0)
    ledger.thawed(0, 3.5)
    receive(ledger, 2, at=3.6)
    assert ledger.report().ahead == ()
    ledger.sampled({0: 4}, 4.0)
    receive(ledger, 3, at=5.0)
    assert ledger.report().ahead == ((0, 3),)


def test_what_was_in_a_proxy_was_dispatched() -> None:
    """A record in a proxy arrives soon, on a connection that existed before the commit was seen."""
    ledger = Ledger(proxy_seconds=2.0)
    for n in range(4):
        ledger.produced(0, n, 100 + n)
    ledger.opened("a", 0.0)
    ledger.sampled({0: 3}, 2.0)
    receive(ledger, 0, at=3.9)
    assert ledger.report().ahead == ((0, 1), (0, 2))
    receive(ledger, 1, at=4.0)
    receive(ledger, 2, connection=ledger.opened("a", 2.5), at=3.0)
    assert ledger.report().ahead == ((0, 1), (0, 2))


def test_a_commit_below_an_earlier_one_went_backwards() -> None:
    """A lower commit went backwards; the same offset again is fine."""
    ledger = ledger_with()
    for offset in (2, 2, 1, 3):
        ledger.committed(0, offset)
    (found,) = ledger.report().backwards
    assert str(found) == "partition 0: 1 after 2, at 00:00:00.000000"


def test_silence_is_measured_between_first_receipts_while_records_are_produced() -> None:
    """A repeat does not end a silence."""
    ledger = ledger_with(processes=("a", "b"))
    receive(ledger, 0, at=1.0)
    receive(ledger, 0, connection=1, at=2.0)
    receive(ledger, 1, at=4.5)
    ledger.quiet()
    receive(ledger, 2, at=9.0)
    assert ledger.report().silence_seconds == {0: 3.5}


def test_lost_records_are_told_with_what_was_around_them() -> None:
    """Each run of lost records has the receipts beside it, the commits that passed it, and who was connected."""
    ledger = ledger_with(6, processes=())
    reader, left = ledger.opened("a", 1.0, "sse"), ledger.opened("b", 2.0, "websocket")
    receive(ledger, 0, 5, connection=reader, at=3.0)
    receive(ledger, 1, connection=left, at=4.0)
    ledger.closed(left, 5.0)
    commits = [(0, 1, 6_000), (0, 3, 7_000), (1, 4, 7_500), (0, 2, 8_000), (0, 6, 9_000)]
    assert list(ledger.losses(commits, 3600.0)) == [
        "lost: partition 0: 2 to 4",
        "  1 came at 01:00:04.000 from b (websocket)",
        "  5 came at 01:00:03.000 from a (sse)",
        "  3 was committed at 00:00:07.000",
        "  6 was committed at 00:00:09.000",
        "  0: a (sse), opened 01:00:01.000, open: 5 last, without a hole since 01:00:03.000",
        "  1: b (websocket), opened 01:00:02.000, closed 01:00:05.000: 1 last, without a hole since 01:00:04.000",
    ]
