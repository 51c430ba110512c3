"""Half a minute of nonsense: no crash, no leak, no 500, and no record that costs another."""

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.schemas import fuzz_schemas


@pytest.mark.parametrize("seed", [19, 20], ids=["without tokens", "with tokens"])
def test_nonsense_breaks_nothing(seed: int) -> None:
    """Requests, frames, PROXY headers, tokens and settings, nearly right; `nox -s fuzz` does more of it."""
    assert fuzz(seed, 10, print) == []


@pytest.mark.parametrize("seed", [2, 10])
def test_poisoned_records_and_schemas_cost_themselves(seed: int) -> None:
    """Truncated, wrong ids, wrong bytes, schemas that are bombs: every good record between them is decoded in order."""
    assert fuzz_schemas(seed, print, pairs=30) == []
