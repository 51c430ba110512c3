"""The recipes laid out once for all tests of this folder."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes.running import Recipes, prepare


@pytest.fixture(scope="session")
def recipes() -> Iterator[Recipes]:
    """Provide the recipes of docs/clients.md, installed and compiled."""
    with tempfile.TemporaryDirectory(prefix="recipes-") as folder:
        yield prepare(Path(folder))
