"""Kafka's jars are fetched once, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.broker.jars import jars, missing_tools

ROOT = Path(__file__).parents[2]

FAKE_MAVEN = """#!/bin/sh
echo called >> "$XDG_CACHE_HOME/calls"
for word in "$@"; do
  case "$word" in -DoutputDirectory=*) folder="${word#*=}" ;; esac
done
mkdir "$folder" && touch "$folder/one.jar"
sleep 0.3  # long enough for the other process to come
[ ! -e "$XDG_CACHE_HOME/fail" ] || { echo "no such artifact"; exit 1; }
touch "$folder/two.jar"
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Maven that fetches two files and writes down that it was called."""
    commands = tmp_path / "bin"
    commands.mkdir()
    maven = commands / "mvn"
    maven.write_text(FAKE_MAVEN)
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_two_processes_fetch_once(cache: Path) -> None:
    """The second process waits for the first and uses its jars; one line says what takes long."""
    command = [
        sys.executable,
        "-c",
        "from testbed.broker.jars import jars; print(sorted(p.name for p in jars().iterdir()))",
    ]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in both]
    assert [output for output, _ in outputs] == ["['one.jar', 'two.jar']\n"] * 2
    assert "".join(errors for _, errors in outputs).count("Fetching Apache Kafka") == 1
    assert (cache / "calls").read_text() == "called\n"


def test_a_failed_fetch_leaves_nothing(cache: Path) -> None:
    """The error contains Maven's message, and the next attempt starts from scratch."""
    (cache / "fail").touch()
    with pytest.raises(RuntimeError, match="no such artifact"):
        jars()
    (cache / "fail").unlink()
    assert {"one.jar", "two.jar"} == {path.name for path in jars().iterdir()}


def test_maven_is_needed_only_until_the_jars_are_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what is missing, and nothing else."""
    folder = jars()
    monkeypatch.setenv("PATH", str(cache))
    assert missing_tools() == ["java"]
    folder.rename(cache / "elsewhere")
    assert missing_tools() == ["java", "mvn"]
