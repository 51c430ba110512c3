"""One variable stretches every deadline of the test bed."""

import pytest

from testbed.patience import DEFAULT, VARIABLE, seconds


def test_a_deadline_is_a_multiple_of_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is read for each deadline, and the default is generous."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert seconds(10) == 10 * DEFAULT > 10
    monkeypatch.setenv(VARIABLE, "0.5")
    assert seconds(10) == 5


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_a_factor_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Otherwise every test would fail with a misleading reason."""
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=VARIABLE if value != "soon" else "soon"):
        seconds(10)
