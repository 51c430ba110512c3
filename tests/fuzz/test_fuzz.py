"""Half a minute of nonsense: no crash, no leak, no 500, and no record that costs another."""

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.schemas import fuzz_schemas


@pytest.mark.parametrize("seed", [19, 20], ids=["without tokens", "with tokens"])
def test_nonsense_breaks_nothing(seed: int) -> None:
    """Nearly right requests, frames, PROXY headers, tokens and settings (`nox -s fuzz` tries more)."""
    assert fuzz(seed, 10, print) == []


@pytest.mark.parametrize("seed", [2, 10])
def test_poisoned_records_and_schemas_cost_themselves(seed: int) -> None:
    """Among broken records and hostile schemas, every good record is decoded in order."""
    assert fuzz_schemas(seed, print, pairs=30) == []
