"""Half a minute of nonsense: no crash, no leak, no 500."""

from tests.fuzz.run import fuzz


def test_nonsense_breaks_nothing() -> None:
    """Requests, frames, PROXY headers and settings, nearly right; `nox -s fuzz` does more of it."""
    assert fuzz(19, 20, print) == []
