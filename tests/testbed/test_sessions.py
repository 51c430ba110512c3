"""The workflow of CI calls sessions that there are, on the versions of Python that are supported."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_workflow_runs_every_tier_and_check() -> None:
    """Each session of its matrix is in the noxfile, and every tier of tests is included."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    named = {name for job in jobs.values() for name in job["strategy"]["matrix"].get("session", ())}
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)\(", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    assert {"tests", *named} <= sessions
    assert named == {"lint", "types", "own_module", "broker", "browser", "soak"}
    assert all(job["timeout-minutes"] <= 30 for job in jobs.values())


def test_the_workflow_tries_every_supported_python() -> None:
    """They are the classifiers in pyproject.toml."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    supported = [text.rpartition(" ")[2] for text in classifiers if re.search(r":: 3\.\d+$", text)]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == supported
