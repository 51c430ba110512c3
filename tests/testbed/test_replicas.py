"""A replica that fails to start fails its own test, and no other."""

import gc

import psutil
import pytest

from testbed.patience import VARIABLE
from testbed.replicas import Replica

NO_BROKER = "127.0.0.1:1"
NEVER_LISTENS = "import threading; threading.Event().wait()"


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize(("code", "patience"), [(NEVER_LISTENS, "0.01"), ("raise SystemExit(3)", "3")])
def test_no_process_outlives_a_start_that_failed(monkeypatch: pytest.MonkeyPatch, code: str, patience: str) -> None:
    """It has ended when the error is raised, so no later test gets a warning."""
    monkeypatch.setenv(VARIABLE, patience)
    before = children()
    with pytest.raises(AssertionError, match="did not start listening"):
        Replica(NO_BROKER, "assets", code=code)
    gc.collect()
    assert children() <= before
