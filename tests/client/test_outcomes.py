"""What the end of a connection means, and how long to wait."""

import pytest

from dispatcher.client.backoff import Backoff
from dispatcher.client.errors import NotAllowedError, RefusedError, WrongServerError
from dispatcher.client.events import ComeBack, GiveUp, GoTo
from dispatcher.client.outcomes import answered, closed


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 1013, 4499])
def test_codes_that_pass(code: int) -> None:
    """Back after what the goodbye asks for; without one, after the backoff."""
    assert closed(code, "why", 1.5) == ComeBack("why", 1.5)
    assert closed(code, "why") == ComeBack("why", None)


@pytest.mark.parametrize(("asked", "kept"), [(-1.0, 0.0), (1e9, 3600.0)])
def test_no_wait_is_absurd(asked: float, kept: float) -> None:
    """Neither back in time nor never."""
    assert closed(1012, "why", asked) == ComeBack("why", kept)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403])
def test_codes_for_good(code: int) -> None:
    """With the server's reason; those who may not are told apart."""
    verdict = closed(code, "why", 1.5)
    assert isinstance(verdict, GiveUp)
    error = verdict.error
    assert isinstance(error, RefusedError)
    assert (error.code, error.status, error.reason, str(error)) == (code, None, "why", f"code {code}: why")
    assert isinstance(error, NotAllowedError) == (code in {4401, 4403})


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_statuses_that_pass(status: int) -> None:
    """Back after the backoff, or when the answer says."""
    assert isinstance(answered(status, {}, b""), ComeBack)
    verdict = answered(status, {"retry-after": "7"}, b"")
    assert isinstance(verdict, ComeBack)
    assert verdict.after_seconds == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 414, 431])
def test_statuses_for_good(status: int) -> None:
    """With the reason of a problem document."""
    verdict = answered(status, {"content-type": "application/problem+json"}, b'{"detail":"why"}')
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, RefusedError)
    assert (verdict.error.status, verdict.error.reason) == (status, "why")
    assert isinstance(verdict.error, NotAllowedError) == (status in {401, 403})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"detail":5}', b"\xff"])
def test_a_problem_document_that_is_none(body: bytes) -> None:
    """The status has a name of its own."""
    verdict = answered(404, {"content-type": "application/problem+json"}, body)
    assert isinstance(verdict, GiveUp)
    assert str(verdict.error) == "HTTP 404: Not Found"


def test_a_status_nobody_knows() -> None:
    """It is one of its hundred."""
    verdict = answered(499, {}, b"")
    assert isinstance(verdict, GiveUp)
    assert str(verdict.error) == "HTTP 499: no status that HTTP knows"


@pytest.mark.parametrize("status", [200, 204, 206])
def test_success_without_a_stream(status: int) -> None:
    """It is not a dispatcher that answers."""
    verdict = answered(status, {"content-type": "text/html"}, b"<h1>Hello</h1>")
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, WrongServerError)


def test_redirects() -> None:
    """They lead somewhere, or are an error."""
    assert answered(302, {"location": "/x"}, b"") == GoTo("/x")
    assert isinstance(answered(302, {}, b""), GiveUp)


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
    """Seconds, or a date beside the answer's own: the clocks need not agree."""
    headers = {"retry-after": value, "date": "Tue, 24 Nov 2026 10:00:00 GMT"}
    assert answered(503, headers, b"") == ComeBack("HTTP 503: Service Unavailable", seconds)


def test_a_date_needs_the_answers_own() -> None:
    """Without it, nobody knows how long that is."""
    verdict = answered(503, {"retry-after": "Tue, 24 Nov 2026 10:00:30 GMT"}, b"")
    assert verdict == ComeBack("HTTP 503: Service Unavailable", None)


def test_backoff_doubles_up_to_its_limit() -> None:
    """At most; the jitter is full."""
    backoff = Backoff(1.0, 30.0, lambda: 1.0)
    assert [backoff.failed() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert Backoff(1.0, 30.0, lambda: 0.0).failed() == 0
    backoff.succeeded()
    assert backoff.failed() == 1
    backoff.set_base(0.02)
    assert backoff.failed() == 0.04
    for _ in range(5000):
        backoff.failed()
    assert backoff.failed() == 30


def test_backoff_does_as_it_is_told() -> None:
    """The server has spread its clients already. Who was too slow comes back at once, but not again and again."""
    backoff = Backoff(1.0, 30.0, lambda: 1.0)
    assert [backoff.failed(after) for after in (7.5, None, 0.5, 0.0)] == [7.5, 2.0, 0.5, 8.0]
    backoff.succeeded()
    assert backoff.failed(0.0) == 0
