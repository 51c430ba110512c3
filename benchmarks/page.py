"""The live page at 5,000 records per second in a real Chromium: the longest task, frames, and memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from benchmarks.harness import Feeder, Meter
from benchmarks.targets import Dispatcher
from testbed.broker.cluster import KafkaCluster
from testbed.browser import Page, open_browser

PAGE = "performance"
RATE = 5000.0
PARTITIONS = 4
BURST = 10
COLUMNS = (
    "protocol",
    "records/s",
    "longest task",
    "tasks above 50 ms",
    "frames/s",
    "longest between frames",
    "main thread busy",
    "heap at 10 s, half, end",
)

WATCH = """
window.watched = { from: performance.now(), tasks: [], frames: 0, gap: 0 };
if (window.lastFrame === undefined) {
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) {
      if (startTime >= window.watched.from) window.watched.tasks.push(duration);
    }
  }).observe({ entryTypes: ["longtask"] });
  requestAnimationFrame(function frame(now) {
    window.watched.frames += 1;
    window.watched.gap = Math.max(window.watched.gap, now - Math.max(window.lastFrame, window.watched.from));
    window.lastFrame = now;
    requestAnimationFrame(frame);
  });
}
window.lastFrame = performance.now();
"""
"""Records tasks above 50 ms (the Long Tasks API reports no shorter ones) and the times between frames."""


async def heap_bytes(page: Page) -> int:
    """Return the memory of the page's scripts, without garbage."""
    await page.send("HeapProfiler.collectGarbage")
    return int((await page.send("Runtime.getHeapUsage"))["usedSize"])


async def metrics(page: Page) -> dict[str, float]:
    """Return Chromium's own counters of a page, by name."""
    return {metric["name"]: metric["value"] for metric in (await page.send("Performance.getMetrics"))["metrics"]}


async def watch(service: Dispatcher, feeder: Feeder, protocol: str, seconds: float) -> dict[str, Any]:
    """Open the page, let it run, and return what it cost."""
    host, port = service.address
    async with open_browser() as browser:
        page = await browser.new_page()
        await page.look(1280, 860)
        await page.send("Performance.enable")
        await page.open(f"http://{host}:{port}/?observe=0&transport={protocol}")
        await page.until("document.querySelector('#badge')?.dataset.state === 'live'")
        await trio.sleep(10)
        heaps = [await heap_bytes(page)]
        # A forced collection blocks the page for longer than any of its own, so these are left out of the figures.
        windows = []
        for _ in range(2):
            await page.run(WATCH)
            before, written, began = await metrics(page), feeder.records, time.monotonic()
            await trio.sleep(seconds / 2)
            after = await metrics(page)
            took = time.monotonic() - began
            seen = await page.run("window.watched")
            windows.append(
                {
                    "seconds": took,
                    "written": feeder.records - written,
                    "tasks_ms": seen["tasks"],
                    "frames": seen["frames"],
                    "longest_between_frames_ms": seen["gap"],
                    "busy_seconds": after["TaskDuration"] - before["TaskDuration"],
                    "nodes": after["Nodes"],
                    "listeners": after["JSEventListeners"],
                }
            )
            heaps.append(await heap_bytes(page))
        return {
            "protocol": protocol,
            "windows": windows,
            "heap_bytes": heaps,
            "shown": await page.run("document.querySelector('#rate-note').textContent"),
            "note": await page.run("document.querySelector('#note').textContent"),
            "late_seconds": feeder.late_seconds,
            "complaints": page.complaints,
        }


def run(*, quick: bool, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure one page after the other, each on a server without other clients."""
    rows = []
    with KafkaCluster(1) as cluster:
        for protocol in ("sse", "websocket"):
            topic = cluster.create_topic(f"page-{protocol}", PARTITIONS)
            service = Dispatcher.start(cluster.bootstrap_servers, topic)
            try:
                tell(f"{protocol}: {RATE:,.0f} records per second")
                with Feeder(
                    cluster.bootstrap_servers, topic, per_second=RATE, burst=BURST, partitions=PARTITIONS
                ) as feeder:
                    meter = Meter(*service.pids)
                    row = trio.run(watch, service, feeder, protocol, 10 if quick else 120)
                    rows.append({**row, "resident_bytes": meter.resident_bytes()})
            finally:
                service.end()
    return rows


def longest_task_ms(row: Mapping[str, Any]) -> float:
    """Return the longest task; 0 if none was above 50 ms."""
    return float(max((task for window in row["windows"] for task in window["tasks_ms"]), default=0))


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    """Return one row for people."""
    windows = row["windows"]
    seconds = sum(window["seconds"] for window in windows)
    longest = longest_task_ms(row)
    return (
        row["protocol"],
        f"{sum(window['written'] for window in windows) / seconds:,.0f}",
        f"{longest:.0f} ms" if longest else "below 50 ms",
        str(sum(len(window["tasks_ms"]) for window in windows)),
        f"{sum(window['frames'] for window in windows) / seconds:.0f}",
        f"{max(window['longest_between_frames_ms'] for window in windows):.0f} ms",
        f"{100 * sum(window['busy_seconds'] for window in windows) / seconds:.0f}%",
        ", ".join(f"{size / 2**20:.1f}" for size in row["heap_bytes"]) + " MiB",
    )


def series(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures for the picture."""
    return {
        f"heap of the page, MiB, {row['protocol']}": dict(
            zip(("after 10 s", "half", "end"), (size / 2**20 for size in row["heap_bytes"]), strict=True)
        )
        for row in rows
    }
