"""A test that needs a real broker says so where there can be none, and may not be passed over in CI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS_A_BROKER = "tests/broker/test_cluster.py::test_topics_and_their_records_come_and_go"


@pytest.mark.parametrize(("ci", "outcome", "exit_code"), [("", "SKIPPED", 0), ("true", "ERROR", 1)])
def test_without_java(tmp_path: Path, ci: str, outcome: str, exit_code: int) -> None:
    """Tests are skipped with one clear line, or fail with CI=true, and the summary says what to install."""
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CI": ci}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", NEEDS_A_BROKER],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(outcome)]
    assert "a real broker needs java and mvn, which this machine does not have" in result.stdout
    assert "test_cluster" in line or "a real broker needs" in line
    assert "Kafka broker: none (install java and mvn to run the tests that need one)" in result.stdout
    assert exit_code == result.returncode, result.stdout
