"""``python -m tests.worst.run``: both clients beside servers that say the worst at every turn."""

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import trio

from dispatcher.client import State, SubscriptionError, subscribe
from testbed.browser import Page, open_browser
from testbed.patience import seconds
from testbed.tools import need

ROOT = Path(__file__).parents[2]
TRANSPORTS: tuple[Literal["sse", "websocket"], ...] = ("sse", "websocket")
QUICK_ATTEMPTS = 3
WARM_SHARE = 0.5
"""Of the time, after which memory is measured for the first time."""
MAX_GROWTH_BYTES = 48 * 1024 * 1024
"""Three events that are not whole yet, of 16 MB each, may be in memory at one end and not at the other."""
MAX_TASK_MS = 100.0

PLAY = """(async ({ addresses, kinds }) => {
  const { subscribe } = await import("/client.js");
  window.runs = {};
  for (const kind of kinds) {
    for (const transport of ["sse", "websocket"]) {
      const run = (runs[`${kind} ${transport}`] = { attempts: 1, ended: "", records: 0 });
      subscribe(addresses[kind], {
        transport,
        onRecord: () => void (run.records += 1),
        onState: ({ state, reason }) => {
          if (state === "reconnecting") run.attempts += 1;
          if (state === "closed") run.ended = reason;
        },
      });
    }
  }
})(%s)"""


@dataclass
class Outcome:
    """What one client did beside one kind, over one transport."""

    name: str
    attempts: int
    ended: str
    """Why it gave up, empty if it did not."""
    wrong: str = ""
    """What it let out that is no error of its own."""

    def complaints(self, lasted_seconds: float) -> list[str]:
        """Whether it made a storm, or hurt its host."""
        most = QUICK_ATTEMPTS + 1 + lasted_seconds
        storm = [f"{self.name}: {self.attempts} attempts in {lasted_seconds:.0f} s"] if self.attempts > most else []
        return storm + ([f"{self.name}: {self.wrong}"] if self.wrong else [])


@asynccontextmanager
async def servers() -> AsyncIterator[dict[str, str]]:
    """The address of each kind, served by a process of its own."""
    command = [sys.executable, "-m", "tests.worst.server"]
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(65536)
        yield json.loads(line)
        assert process.returncode is None
        await process.stdin.aclose()
        await process.wait()


def own_errors(error: BaseException) -> bool:
    """Whether it is one that the client documents, or a group of those."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(own_errors, error.exceptions))
    return isinstance(error, (SubscriptionError, trio.Cancelled))


async def suffer_python(
    kind: str,
    url: str,
    transport: Literal["sse", "websocket"],
    outcomes: list[Outcome],
    most_attempts: float = math.inf,
) -> None:
    """One subscription of the Python client, until it ends, has made more attempts, or is cancelled."""
    outcome = Outcome(f"python {kind} {transport}", 1, "")
    outcomes.append(outcome)
    try:
        async with subscribe(url, transport=transport) as stream:
            async for event in stream.events():
                outcome.attempts += isinstance(event, State) and event.name == "reconnecting"
                if outcome.attempts > most_attempts:
                    return
    except trio.Cancelled:
        raise
    except BaseException as error:
        if isinstance(error, BaseExceptionGroup) and own_errors(error) and error.subgroup(trio.Cancelled):
            raise
        outcome.ended = str(error) or repr(error)
        if not own_errors(error):
            outcome.wrong = repr(error)


def resident_bytes() -> int:
    """Of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def play_python(
    addresses: dict[str, str], kinds: Sequence[str], lasting_seconds: float, tell: Callable[[str], None]
) -> list[str]:
    """The Python client, all kinds side by side; returns what is wrong."""
    outcomes: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        for kind in kinds:
            for transport in TRANSPORTS:
                nursery.start_soon(suffer_python, kind, addresses[kind], transport, outcomes)
        began = trio.current_time()
        await trio.sleep(lasting_seconds * WARM_SHARE)
        before = resident_bytes()
        await trio.sleep(lasting_seconds * (1 - WARM_SHARE))
        grown = resident_bytes() - before
        lasted = trio.current_time() - began
        nursery.cancel_scope.cancel()
    tell(f"python: {summary(outcomes, lasted)}, memory {before / 2**20:.0f} {grown / 2**20:+.1f} MiB")
    return [each for outcome in outcomes for each in outcome.complaints(lasted)] + judge_memory("python", grown)


def summary(outcomes: Sequence[Outcome], lasted_seconds: float) -> str:
    """What the clients did, in figures."""
    most = max(outcomes, key=lambda outcome: outcome.attempts)
    ended = sum(bool(outcome.ended) for outcome in outcomes)
    attempts = sum(outcome.attempts for outcome in outcomes)
    return (
        f"{len(outcomes)} streams of which {ended} gave up, {attempts} attempts in {lasted_seconds:.0f} s, "
        f"at most {most.attempts} ({most.name})"
    )


def judge_memory(name: str, grown_bytes: int) -> list[str]:
    """Memory is flat."""
    return [f"{name}: memory grew by {grown_bytes / 2**20:.0f} MiB"] if grown_bytes > MAX_GROWTH_BYTES else []


async def play_browser(
    addresses: dict[str, str], kinds: Sequence[str], lasting_seconds: float, tell: Callable[[str], None]
) -> list[str]:
    """client.js in a page of Chromium, all kinds side by side; returns what is wrong."""
    async with open_browser() as browser:
        page = await browser.new_page()
        await page.open(addresses["mixed"])
        await page.until(f"location.origin === {addresses['mixed']!r} && document.readyState === 'complete'")
        await page.run(PLAY % json.dumps({"addresses": addresses, "kinds": list(kinds)}))
        began = trio.current_time()
        await trio.sleep(lasting_seconds * WARM_SHARE)
        before = await heap_bytes(page.send)
        async with browser.tracing() as tasks:  # until here it started, and the heap was measured
            await trio.sleep(lasting_seconds * (1 - WARM_SHARE))
        runs = await page.run("runs")
        grown = await heap_bytes(page.send) - before
        lasted = trio.current_time() - began
        outcomes = [Outcome(f"browser {name}", run["attempts"], run["ended"]) for name, run in runs.items()]
        heap = f"heap {before / 2**20:.0f} {grown / 2**20:+.1f} MiB"
        tell(f"browser: {summary(outcomes, lasted)}, {heap}, longest task {max(tasks, default=0):.0f} ms of CPU")
        wrong = [each for outcome in outcomes for each in outcome.complaints(lasted)]
        return wrong + judge_page("browser", page, tasks) + judge_memory("browser", grown)


async def play_node(
    addresses: dict[str, str], kinds: Sequence[str], lasting_seconds: float, tell: Callable[[str], None]
) -> list[str]:
    """client.js in Node, all kinds side by side; returns what is wrong."""
    known = (await trio.run_process([need("node"), "--help"], capture_stdout=True)).stdout
    # Node has WebSockets of its own since version 22; earlier versions need this flag.
    flags = ["--expose-gc", *(flag for flag in ("--experimental-websocket",) if flag.encode() in known)]
    chosen = json.dumps({kind: addresses[kind] for kind in kinds})
    began = trio.current_time()
    command = ["node", *flags, "tests/client_js/worst.js", json.dumps(lasting_seconds), chosen]
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True)
    lasted = trio.current_time() - began
    said = json.loads(done.stdout)
    outcomes = [Outcome(f"node {name}", run["attempts"], run["ended"]) for name, run in said["runs"].items()]
    grown = said["after"] - said["before"]
    tell(f"node: {summary(outcomes, lasted)}, heap {said['before'] / 2**20:.0f} {grown / 2**20:+.1f} MiB")
    thrown = [f"node: {each}" for each in said["thrown"]]
    return [each for outcome in outcomes for each in outcome.complaints(lasted)] + thrown + judge_memory("node", grown)


async def play_page(
    addresses: dict[str, str], kinds: Sequence[str], lasting_seconds: float, tell: Callable[[str], None]
) -> list[str]:
    """The live page, one kind after the other, over both transports; returns what is wrong."""
    wrong: list[str] = []
    longest: list[tuple[float, str]] = []
    async with open_browser() as browser:
        for kind in kinds:
            for transport in TRANSPORTS:
                name = f"page {kind} {transport}"
                # Each has its own deadline: a machine that is slow for all of them is no fault of one.
                with trio.fail_after(lasting_seconds + seconds(60)):
                    page = await browser.new_page()
                    async with browser.tracing() as tasks:
                        await page.open(f"{addresses[kind]}/index.html?transport={transport}")
                        await trio.sleep(lasting_seconds / len(kinds) / len(TRANSPORTS))
                        await page.run("void document.querySelector('#records .row')?.click()")
                    longest.append((max(tasks, default=0.0), name))
                    wrong += judge_page(name, page, tasks)
                    await page.close()
    most, worst = max(longest)
    tell(f"page: longest task {most:.0f} ms of CPU ({worst})")
    return wrong


def judge_page(name: str, page: Page, tasks: Sequence[float]) -> list[str]:
    """No task that somebody notices, and nothing that nobody caught."""
    # The other complaints are what the browser logs of requests that failed.
    wrong = [f"{name}: {each}" for each in page.complaints if each.startswith("{")]
    if max(tasks, default=0) > MAX_TASK_MS:
        wrong.append(f"{name}: a task of {max(tasks):.0f} ms of CPU")
    return wrong


async def heap_bytes(send: Callable[..., Any]) -> int:
    """What the page's heap holds after a collection."""
    await send("HeapProfiler.collectGarbage")
    return int((await send("Runtime.getHeapUsage"))["usedSize"])


async def play_all(
    lasting_seconds: float, kinds: Sequence[str], clients: Sequence[str], tell: Callable[[str], None]
) -> list[str]:
    """The clients one after the other; returns what is wrong."""
    wrong = []
    async with servers() as addresses:
        chosen = list(kinds or addresses)
        if "python" in clients:
            wrong += await play_python(addresses, chosen, lasting_seconds, tell)
        if "node" in clients:
            with trio.fail_after(lasting_seconds * 2 + seconds(120)):
                wrong += await play_node(addresses, chosen, lasting_seconds, tell)
        if "browser" in clients:
            with trio.fail_after(lasting_seconds * 2 + seconds(120)):
                wrong += await play_browser(addresses, chosen, lasting_seconds, tell)
        if "page" in clients:
            wrong += await play_page(addresses, chosen, lasting_seconds, tell)
    return wrong


@click.command()
@click.option("--minutes", default=1.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--kind", "kinds", multiple=True, help="Only these; all by default (tests/worst/server.py).")
@click.option("--client", "clients", multiple=True, default=("python", "node", "browser", "page"), show_default=True)
def main(minutes: float, kinds: tuple[str, ...], clients: tuple[str, ...]) -> None:
    """Let both clients suffer for some minutes each, and say what they did wrong."""
    wrong = trio.run(play_all, minutes * 60, kinds, clients, click.echo)
    for each in wrong:
        click.echo(each)
    click.echo(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
