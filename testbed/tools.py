"""Programs that tests run and that a machine may lack."""

import os
import shutil
from typing import NoReturn

import pytest

# Tools from npm, for `npx --yes`. What recipes need is pinned where they tell it, in docs/clients.md.
EVENTSOURCE = "eventsource@5.1.5"
ESBUILD = "esbuild@0.28.2"
TYPESCRIPT = "typescript@7.0.2"


def find(*names: str) -> str | None:
    """The path of the first of these programs that is there; names of one program."""
    folders = f"{os.environ['PATH']}:/usr/sbin"
    return next(filter(None, (shutil.which(name, path=folders) for name in names)), None)


def need(*names: str, package: str = "") -> str:
    """The path of the first of these programs that is there.

    The test is skipped where none is, and fails there in CI, which has all of them.

    Args:
        names: Names of one program.
        package: What has to be installed, where that goes by another name.
    """
    path = find(*names)
    if path is None:
        lacking(f"{names[0]} (of {package})" if package else names[0])
    return path


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it in CI, since something is not there."""
    reason = f"this test needs {what}, which this machine does not have"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
