"""What the end of a connection means, and how long to wait."""

import math

import pytest

from dispatcher.client.backoff import LIVED_SECONDS, Backoff
from dispatcher.client.errors import NotAllowedError, RefusedError, WrongServerError
from dispatcher.client.events import Fail, Reconnect, Redirect
from dispatcher.client.outcomes import answered, closed


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 1013, 4499])
def test_codes_that_pass(code: int) -> None:
    """The client returns after the goodbye's delay, or without one after the backoff."""
    assert closed(code, "why", 1.5) == Reconnect("why", 1.5)
    assert closed(code, "why") == Reconnect("why", None)


@pytest.mark.parametrize(("asked", "kept"), [(-1.0, 0.0), (1e9, 3600.0)])
def test_no_wait_is_absurd(asked: float, kept: float) -> None:
    """No delay is negative or endless."""
    assert closed(1012, "why", asked) == Reconnect("why", kept)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403])
def test_codes_for_good(code: int) -> None:
    """The client gives up with the server's reason; missing permission is a separate error."""
    verdict = closed(code, "why", 1.5)
    assert isinstance(verdict, Fail)
    error = verdict.error
    assert isinstance(error, RefusedError)
    assert (error.code, error.status, error.reason, str(error)) == (code, None, "why", f"code {code}: why")
    assert isinstance(error, NotAllowedError) == (code in {4401, 4403})


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_statuses_that_pass(status: int) -> None:
    """The client returns after the backoff, or when the response says."""
    assert isinstance(answered(status, {}, b""), Reconnect)
    verdict = answered(status, {"retry-after": "7"}, b"")
    assert isinstance(verdict, Reconnect)
    assert verdict.after_seconds == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 414, 431])
def test_statuses_for_good(status: int) -> None:
    """The client gives up with the reason of the problem document."""
    verdict = answered(status, {"content-type": "application/problem+json"}, b'{"detail":"why"}')
    assert isinstance(verdict, Fail)
    assert isinstance(verdict.error, RefusedError)
    assert (verdict.error.status, verdict.error.reason) == (status, "why")
    assert isinstance(verdict.error, NotAllowedError) == (status in {401, 403})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"detail":5}', b"\xff"])
def test_a_problem_document_that_is_none(body: bytes) -> None:
    """Without a readable document, the status has a name of its own."""
    verdict = answered(404, {"content-type": "application/problem+json"}, body)
    assert isinstance(verdict, Fail)
    assert str(verdict.error) == "HTTP 404: Not Found"


def test_a_status_nobody_knows() -> None:
    """An unknown status counts like its hundred."""
    verdict = answered(499, {}, b"")
    assert isinstance(verdict, Fail)
    assert str(verdict.error) == "HTTP 499: not an HTTP status"


@pytest.mark.parametrize("status", [200, 204, 206])
def test_success_without_a_stream(status: int) -> None:
    """A success without a stream is not a dispatcher's."""
    verdict = answered(status, {"content-type": "text/html"}, b"<h1>Hello</h1>")
    assert isinstance(verdict, Fail)
    assert isinstance(verdict.error, WrongServerError)


def test_redirects() -> None:
    """A redirect is followed, or is an error."""
    assert answered(302, {"location": "/x"}, b"") == Redirect("/x")
    assert isinstance(answered(302, {}, b""), Fail)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("99999999999", 3600.0),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """It holds seconds, or a date that is compared with the response's own, because clocks may differ."""
    headers = {"retry-after": value, "date": "Tue, 24 Nov 2026 10:00:00 GMT"}
    assert answered(503, headers, b"") == Reconnect("HTTP 503: Service Unavailable", seconds)


def test_a_date_needs_the_answers_own() -> None:
    """Without the response's date, nobody knows how long the delay is."""
    verdict = answered(503, {"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT"}, b"")
    assert verdict == Reconnect("HTTP 503: Service Unavailable", None)


def fail(backoff: Backoff, times: int, asked: float | None = None) -> list[float]:
    """The waits after as many attempts in a row that brought nothing."""
    return [backoff.ended(0.0, asked) for _ in range(times)]


def test_backoff_doubles_up_to_its_limit() -> None:
    """The jitter is full, and after three attempts no delay is below a second."""
    backoff = Backoff(1.0, 30.0, lambda: 1.0)
    assert fail(backoff, 7) == [1, 2, 4, 8, 16, 30, 30]
    assert fail(Backoff(1.0, 30.0, lambda: 0.0), 6) == [0, 0, 0, 1, 1, 1]
    backoff.began(0.0)
    assert backoff.ended(LIVED_SECONDS) == 1
    backoff.set_base(0.02)
    assert backoff.ended(0.0) == 0.04
    assert fail(backoff, 5000)[-1] == 30


def test_backoff_waits_as_the_server_asks() -> None:
    """A client that was too slow returns at once, but only the first time."""
    backoff = Backoff(1.0, 30.0, lambda: 1.0)
    assert [backoff.ended(0.0, asked) for asked in (7.5, None, 0.5, 0.0)] == [7.5, 2.0, 0.5, 8.0]
    backoff.began(1.0)
    assert backoff.ended(1.0 + LIVED_SECONDS, 0.0) == 0


@pytest.mark.parametrize("asked", [0.0, 0.001, None])
@pytest.mark.parametrize("opens", [True, False])
def test_no_server_makes_a_storm(asked: float | None, *, opens: bool) -> None:
    """After three attempts there is at most one per second, even if each stream begins well."""
    backoff = Backoff(1.0, 30.0, lambda: 0.0)
    backoff.set_base(-5.0)
    waits = []
    for _ in range(20):
        if opens:
            backoff.began(0.0)
        waits.append(backoff.ended(0.1, asked))
    assert all(wait >= 1.0 for wait in waits[3:])


def test_a_stream_that_lived_forgets_what_was_before() -> None:
    """A second state within one stream does not count as another stream."""
    backoff = Backoff(1.0, 30.0, lambda: 1.0)
    fail(backoff, 6)
    backoff.began(0.0)
    backoff.began(4.9)
    assert backoff.failures == 0
    assert backoff.ended(5.0) == 1.0


@pytest.mark.parametrize(
    ("retry_seconds", "expected"),
    [(math.nan, None), (math.inf, 3600.0), (-1.0, 0.0), (1e300, 3600.0), (2.5, 2.5), (None, None)],
)
def test_a_wait_that_no_server_may_ask_for(retry_seconds: float | None, expected: float | None) -> None:
    """Such a delay is brought within limits, or ignored if it is not a number."""
    assert closed(1012, "restart", retry_seconds) == Reconnect("restart", expected)


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        *((code, False) for code in (1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403)),
        *((code, True) for code in (1000, 1001, 1005, 1006, 1011, 1013, 4399, 4404, 4408, 4419, 4429, 4499, 4500)),
    ],
)
def test_which_codes_pass(code: int, *, passes: bool) -> None:
    """An unknown code, perhaps of a later version, is retried, here and in client.js."""
    assert isinstance(closed(code, ""), Reconnect) == passes
