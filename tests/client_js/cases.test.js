// client.js passes the table of cases that all clients share (tests/client_cases), whose server is at CASES_URL.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { parsePosition, subscribe } from "../../dispatcher/web/page/client.js";

const CONNECT_MS = 11_000; // longer than the client waits for an answer
const CASE_MS = 60_000; // a case that is never over fails, and the others are played
const END_MS = 50; // between a goodbye and the end
const CUTS_AT_ONCE = 20;
const SINCE_MARGIN_MS = 70_000; // how much earlier than its first attempt it may begin: clocks differ

const server = process.env.CASES_URL;
const table = await (await fetch(`${server}/cases.json`)).json();
const paths = { sse: "events", ...(globalThis.WebSocket && { websocket: "ws" }) };

Math.random = () => 0.02; // waits are full jitter: this much of it is enough here

/** Why a browser cannot pass a case, which Node does not either, as it has the same interfaces. */
function hidden({ name, expect, connections }, transport) {
  if (name === "redirect-loop") return "fetch does not tell that it has followed long enough";
  if (transport === "sse" || !connections.some(({ answer }) => answer)) return null;
  if (expect.fatal || expect.waited_ms) return "a WebSocket does not tell the answer to its request";
  if (connections.some(({ answer }) => answer?.redirect)) return "a WebSocket does not follow";
  return null;
}

/** Subscribe until the last record of a case, or until the client gives up. */
async function play(theCase, transport, run) {
  const { expect, name } = theCase;
  const outcome = { records: [], gaps: [], states: [], closed: undefined, position: "" };
  await new Promise((done) => {
    const look = () => {
      if (expect.fatal ? outcome.closed !== undefined : outcome.records.length >= expect.records.length) done();
    };
    const stream = subscribe(`${server}/${name}/${run}/${paths[transport]}`, {
      transport,
      onRecord(record) {
        outcome.records.push(record);
        outcome.position = stream.position;
        look();
      },
      onGap: (gap) => outcome.gaps.push(gap),
      onState({ state, reason, replica }) {
        if (replica !== undefined) outcome.states.push(state === "live" ? "streaming" : state);
        if (state === "closed") outcome.closed = reason;
        look();
      },
    });
    outcome.close = () => stream.close();
  });
  outcome.close();
  const report = await (await fetch(`${server}/${name}/${run}/report`)).json();
  // What a cut took with it before fetch had handed it out was sent again, as a dispatcher would.
  return { ...outcome, connections: report.connections.filter(({ repeated }) => !repeated) };
}

const own = (id) => id.split(/[,;]/)[0];

/** A position whatever the order of its pairs, and their spelling, is. */
function pairs(id) {
  return id && [...parsePosition(id)].map(([partition, offset]) => `${partition}=${offset}`).sort();
}

function check({ expect }, { records, gaps, states, closed, connections }) {
  assert.deepEqual(records.map(({ id }) => own(id)), expect.records ?? []);
  if (expect.gaps) assert.deepEqual(gaps, expect.gaps);
  if (expect.states) assert.deepEqual(states, expect.states);
  for (const { id, value, value_base64 } of records) {
    const wanted = expect.values?.[own(id)];
    if (wanted !== undefined) assert.deepEqual(value ?? (value_base64 ? { base64: value_base64 } : null), wanted);
  }
  if (expect.resumes) assert.deepEqual(connections.map((each) => pairs(each.last_event_id)), expect.resumes.map(pairs));
  for (const [index, expected] of (expect.since ?? []).entries()) {
    const { since } = connections[index];
    const first = connections[0].at_ms;
    if (expected === null) assert.equal(since, null);
    else assert.equal(+since >= first - SINCE_MARGIN_MS && +since <= first, true, `${since} of ${first}`);
  }
  for (const [index, least] of (expect.waited_ms ?? []).entries()) {
    // It waits from the goodbye on, the server counts from the end of the connection.
    assert.equal(connections[index + 1].waited_ms >= least - END_MS, true);
  }
  if (!expect.fatal) return;
  const { status, code, reason } = expect.fatal;
  if (status) assert.match(closed, new RegExp(`^HTTP ${status}`));
  if (code) assert.match(closed, new RegExp(`\\(${code}\\)$`));
  if (reason) assert.equal(closed.includes(reason), true, closed);
}

const ids = JSON.parse(await readFile(new URL("../client_cases/positions.json", import.meta.url)));

for (const { about, id, position, range } of ids.read) {
  test(`an id is read: ${about}`, () => {
    const known = Object.entries(position ?? {});
    for (let n = 0; n < range?.partitions; n += 1) known.push([`${range.topic}:${n}`, range.offset]);
    assert.deepEqual([...parsePosition(id)].map(([key, offset]) => [key, `${offset}`]), known);
  });
}

for (const { about, id } of ids.refused) {
  test(`an id is refused: ${about}`, () => assert.throws(() => parsePosition(id), Error));
}

for (const theCase of table.cases) {
  for (const transport of Object.keys(paths)) {
    if ((theCase.only ?? transport) !== transport) continue;
    test(`${transport}: ${theCase.name}: ${theCase.about}`, { timeout: CASE_MS }, async (t) => {
      const why = hidden(theCase, transport);
      if (why) return t.skip(why);
      if (theCase.client?.connect_timeout_seconds) {
        const now = Date.now;
        const later = setTimeout(() => (Date.now = () => now() + CONNECT_MS), 300);
        t.after(() => {
          clearTimeout(later);
          Date.now = now;
        });
      }
      check(theCase, await play(theCase, transport, transport));
    });
  }
}

for (const transport of Object.keys(paths)) {
  test(`${transport}: a cut at any byte loses and repeats nothing`, async () => {
    const theCase = table.cases.find(({ name }) => name === "cut-at-any-byte");
    const whole = await play(theCase, transport, `${transport}-whole`);
    const length = whole.connections[0].stream_bytes;
    assert.equal(length > 500, true);
    let next = 1;
    const cut = async () => {
      while (next < length) {
        const outcome = await play(theCase, transport, `${transport}-cut${next++}`);
        check(theCase, outcome);
        assert.deepEqual(pairs(outcome.position), ["assets:0=3", "assets:1=6"]);
      }
    };
    await Promise.all(Array.from({ length: CUTS_AT_ONCE }, cut));
  });
}
