"""What tests of the web room share."""

import pytest


@pytest.fixture(params=["socket", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    """Either of the two."""
    return str(request.param)
