"""The recipes laid out once for all tests of this folder, in whichever processes they run."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes.running import Recipes, prepare, prepared


@pytest.fixture(scope="session")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipes]:
    """Provide the recipes of docs/clients.md, installed and compiled: half a minute, so processes share them.

    The first that needs them makes them, meanwhile the others wait, and the last that needs them removes them.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    made = shared / "recipes.made"
    with (shared / "recipes.lock").open("w") as lock, (shared / "recipes.users").open("w") as users:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            folder = Path(tempfile.mkdtemp(prefix="recipes-"))
            try:
                prepare(folder)
            except BaseException:
                shutil.rmtree(folder)
                raise
            made.write_text(str(folder))
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(lock, fcntl.LOCK_UN)
        folder = Path(made.read_text())
        yield prepared(folder)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        made.unlink()
        shutil.rmtree(folder)
