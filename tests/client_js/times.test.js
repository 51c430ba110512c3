// Timestamps as the page shows them: the cases that all clients share. Run by tests/web/test_client_js.py, in UTC.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { dateAndTime, duration, readTimestamp, timeOfDay } from "../../dispatcher/web/page/times.js";

const file = new URL("../client_cases/timestamps.json", import.meta.url);
const { timestamps } = JSON.parse(readFileSync(file, "utf8"));

for (const { timestamp, ms, unit, text } of timestamps) {
  test(`${timestamp} is shown as ${text}`, () => {
    assert.deepEqual(readTimestamp(timestamp), unit ? { ms, unit } : null);
    const isRounded = !Number.isSafeInteger(timestamp) && timestamp !== null;
    if (isRounded && !unit) assert.equal(Number(timeOfDay(timestamp)), Number(text));
    else assert.equal(timeOfDay(timestamp), text);
    assert.equal(dateAndTime(timestamp) === null, text === null);
  });
}

test("date and time say how the number was written", () => {
  assert.equal(dateAndTime(1795429533864), "2026-11-23T10:25:33.864Z");
  assert.equal(dateAndTime(1795429533864250), "2026-11-23T10:25:33.864Z, written as 1795429533864250 µs");
  assert.equal(dateAndTime(4102444800000000), "4102444800000000, in an unknown unit");
});

test("durations have the unit that fits", () => {
  const shown = [0, 999.4, 1000, 599_000, 600_000, 36_000_000, 864_000_000, 1795429533864].map(duration);
  assert.deepEqual(shown.map((pair) => pair.join(" ")), [
    "0 ms", "999 ms", "1.0 s", "599.0 s", "10.0 min", "10.0 h", "10.0 d", "20780.4 d",
  ]);
});
