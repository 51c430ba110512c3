"""What is uploaded works where nothing else is: the wheel and the npm package, in clean environments."""

import subprocess
import sys
from pathlib import Path

import pytest

import dispatcher
from testbed.patience import seconds
from testbed.release import ReleaseError, build, check_versions, try_tarball, try_wheel
from testbed.tools import lacking, need

USE = """
import trio
from dispatcher.client import Gap, Record, State, subscribe


async def read(url: str) -> bytes | None:
    async with subscribe(url, topics=["assets"]) as stream:
        async for record in stream:
            value: bytes | None = record.value
            return value
    return None

async def wrong(url: str) -> int:
    async with subscribe(url) as stream:
        async for record in stream:
            return record.value
    return 0
"""


def test_everything_names_one_version() -> None:
    """Packages, image, changelog and docs agree; another version is refused with the place."""
    check_versions(dispatcher.__version__, dated=False)
    with pytest.raises(ReleaseError, match=r"package\.json"):
        check_versions("9.9.9")


def test_wheel_and_tarball_work_where_nothing_else_is(tmp_path: Path) -> None:
    """Installed by pip and npm, they run the demo, its readers and examples, with strict types."""
    need("npm")
    need("node")
    try:
        wheel, tarball = build(tmp_path)
        python = try_wheel(wheel, tmp_path)
    except ReleaseError as error:
        if "Could not find a version" in str(error) or "ConnectionError" in str(error):
            lacking("a package registry")
        raise
    try_tarball(tarball, tmp_path / "node", str(Path(python).with_name("dispatcher")))
    (tmp_path / "use.py").write_text(USE)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir=/dev/null", "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=seconds(120),
        check=False,
    )
    if "No module named mypy" in checked.stderr:
        lacking("mypy")
    assert "use.py:16" in checked.stdout, checked.stdout
    assert "Found 1 error in 1 file" in checked.stdout, checked.stdout
