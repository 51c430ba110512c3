"""The quick way to flake8-async finds what flake8-async finds."""

import ast
from collections.abc import Iterator

import pytest
from flake8_async import Plugin
from flake8_async.visitors import ERROR_CLASSES_CST

from testbed.async_rules import LEFT_OUT, SLOW, configure, findings, may_concern_slow_rules

WRONG = {
    "ASYNC100": "with trio.fail_after(1):\n        print(1)",
    "ASYNC100 of a function within": "with trio.CancelScope():\n        async def f(): await trio.sleep(1)",
    "ASYNC101": "async with trio.open_nursery() as nursery:\n        await trio.sleep(1)\n        yield 1",
    "ASYNC101 of a loop": "with trio.move_on_after(1):\n        for n in await f(1):\n            yield n",
    "ASYNC101 of more": "with f(), trio.move_on_after(1):\n        await f(1)\n        yield 1",
    "ASYNC102": "try:\n        pass\n    finally:\n        await trio.sleep(1)",
    "ASYNC103": "try:\n        pass\n    except BaseException:\n        pass",
    "ASYNC105": "trio.sleep(1)",
    "ASYNC110": "while f():\n        await trio.sleep(1)",
    "ASYNC111": (
        "async with trio.open_nursery() as nursery:\n        with open('') as file:\n"
        "            nursery.start_soon(f, file)\n            await trio.sleep(1)"
    ),
    "ASYNC119": "with f():\n        yield 1",
    "ASYNC220": "subprocess.Popen('')",
    "ASYNC230": "open('')",
    "ASYNC251": "time.sleep(1)",
    "ASYNC300": "asyncio.create_task(f())",
}
RIGHT = (
    "with trio.fail_after(1):\n        await trio.sleep(1)",
    "with trio.fail_after(1):  # noqa: ASYNC100\n        print(1)",
    "while f():  # noqa: ASYNC110 - a reason\n        await trio.sleep(1)",
    "async for one in f(1):\n        with trio.fail_after(1):\n            await one",
)


@pytest.fixture(autouse=True)
def _options() -> Iterator[None]:
    configure()
    yield
    Plugin._options = None


def written(body: str, before: str = "") -> str:
    """A function with this body in a file with its imports."""
    return f"import asyncio, subprocess, time, trio\n\n\n{before}async def g(f):\n    {body}\n"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    """Each line is flake8-async's own, and rules on both kinds of trees are among them."""
    code, source = name[:8], written(WRONG[name])
    found = findings(source)
    assert found == [str(error) for error in sorted(Plugin.from_source(source).run())]
    assert any(code in line for line in found), found


@pytest.mark.parametrize("body", RIGHT)
def test_what_is_right_is_not(body: str) -> None:
    """Neither is what a comment allows."""
    assert findings(written(body)) == []


def test_names_that_were_imported_are_followed_slowly() -> None:
    """A scope may have any name then."""
    source = "from trio import fail_after as within\n\n\nasync def f():\n    with within(1):\n        print(1)\n"
    assert any("ASYNC100" in line for line in findings(source))


def test_context_managers_may_yield_in_a_scope() -> None:
    """They are most of the functions that do, and no reason to read a file slowly."""
    body = "async with trio.open_nursery() as nursery:\n        yield nursery\n        await trio.sleep(1)"
    source = written(body, "@asynccontextmanager\n")
    assert not may_concern_slow_rules(source, ast.parse(source))
    assert findings(source) == []


def test_the_slow_rules_are_these() -> None:
    """A version of flake8-async that has more of them needs a line for each."""
    codes = {code for rule in ERROR_CLASSES_CST for code in rule.error_codes}
    assert {code for code in codes if not code.startswith(LEFT_OUT)} == SLOW
