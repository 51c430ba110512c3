// What client.js acknowledges, against a server whose messages are written byte by byte. Run by tests/web/test_client_js.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { subscribe } from "../../dispatcher/web/page/client.js";
import { Server, Told } from "./server.js";

/** A subscription whose records are done when the test says so. */
function work(t, url, options = {}) {
  const records = new Told();
  const states = new Told();
  const ends = new Map(); // how to end the work on a record, by its pair
  const onRecord = (record) =>
    new Promise((resolve, reject) => {
      const pair = record.id.split(",")[0];
      ends.set(pair, { resolve, reject });
      records.push(pair);
    });
  const stream = subscribe(url, { ack: "auto", onRecord, onState: states.push, ...options });
  t.after(() => stream.close());
  const done = (...pairs) => pairs.forEach((pair) => ends.get(pair).resolve());
  return { stream, records, states, done, refuse: (pair, error) => ends.get(pair).reject(error) };
}

const named = (state) => (told) => told.state === state;
const says = (type, id) => (said) => said.type === type && said.id === id;

/** Errors that the page would see. */
function reports(t) {
  const reported = new Told();
  globalThis.reportError = reported.push;
  t.after(() => delete globalThis.reportError);
  return reported;
}

test("asks for a window, and acknowledges what onRecord has returned from", async (t) => {
  t.mock.method(performance, "now", () => 0); // on a busy machine it would rest between records, and acknowledge twice
  const server = await Server.start(t);
  const stream = subscribe(server.url, { ack: "auto", window: 7, windowBytes: 2048 });
  t.after(() => stream.close());
  const messages = await server.next();
  const query = new URL(messages.request.url, server.url).searchParams;
  assert.deepEqual([query.get("ack"), query.get("window"), query.get("window_bytes")], ["client", "7", "2048"]);
  messages.begin().state("streaming").records("t:0=5,1=7", "t:0=6,1=7", "t:1=8,0=6", "u:3=1,4=2");
  assert.deepEqual(await messages.said.atLeast(1), [{ type: "ack", id: "t:0=6,1=8;u:3=1" }]); // one message for all of them
  assert.equal(stream.position, "t:0=6,1=8;u:3=1,4=2");
});

test("acknowledges the longest run, in order of delivery, of which all is done", async (t) => {
  const server = await Server.start(t);
  const { stream, records, done } = work(t, server.url);
  const messages = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:1=5,0=1");
  messages.send({ type: "heartbeat", id: "t:0=1,1=5,2=9" }).records("t:0=2,1=5,2=9");
  await records.atLeast(4);
  done("t:0=1", "t:1=5");
  assert.equal(stream.position, "");
  done("t:0=0");
  await messages.said.until(says("ack", "t:0=1,1=5"));
  assert.equal(stream.position, "t:0=1,1=5,2=9");
  done("t:0=2");
  await messages.said.until(says("ack", "t:0=2"));
  assert.equal(stream.position, "t:0=2,1=5,2=9");
  assert.equal(messages.said.all.length, 2);
});

test("resumes after 4408 from what is acknowledged, and hands nothing out twice", async (t) => {
  const server = await Server.start(t);
  const { records, states, done } = work(t, server.url);
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:0=2", "t:0=3");
  await records.atLeast(4);
  done("t:0=0");
  await first.said.until(says("ack", "t:0=0"));
  first.send({ type: "goodbye", code: 4408, reason: "too slow", retry_ms: 60_000 }).close(4408);
  await states.until(named("reconnecting"));
  done("t:0=1"); // nobody hears of it now
  const second = (await server.next()).begin();
  assert.match(second.id, /^t:0=[01]$/);
  // A server sends again what was not acknowledged, also before the position.
  second.state("catching-up").records("t:0=1", "t:0=2", "t:0=3", "t:0=4");
  await second.said.until(says("ack", "t:0=1"));
  done("t:0=3");
  await records.atLeast(5);
  done("t:0=2", "t:0=4");
  await second.said.until(says("ack", "t:0=4"));
  assert.deepEqual(records.all, ["t:0=0", "t:0=1", "t:0=2", "t:0=3", "t:0=4"]);
});

test("a rejection and a throw refuse the record, which is done when the server answers", async (t) => {
  const reported = reports(t);
  const server = await Server.start(t);
  const stream = subscribe(server.url, {
    ack: "auto",
    onRecord({ offset }) {
      if (offset === 1) throw new Error("x".repeat(2000));
      if (offset === 2) return Promise.reject("no such customer");
    },
  });
  t.after(() => stream.close());
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:0=2", "t:0=3");
  const { reason } = await first.said.until(says("nack", "t:0=1"));
  assert.equal(reason, "x".repeat(500));
  assert.equal((await first.said.until(says("nack", "t:0=2"))).reason, "no such customer");
  await first.said.until(says("ack", "t:0=0"));
  assert.equal(reported.all.length, 2);
  first.send({ type: "nacked", id: "t:0=7", dead_letter: true }).send({ type: "nacked" }); // nobody refused these
  first.send({ type: "nacked", id: "t:0=1", dead_letter: true });
  await first.said.until(says("ack", "t:0=1"));
  first.cut();
  const second = (await server.next()).begin().state("streaming").records("t:0=2", "t:0=3");
  assert.equal(second.id, "t:0=1");
  await second.said.until(says("nack", "t:0=2"));
  second.send({ type: "nacked", id: "t:0=2", dead_letter: false });
  await second.said.until(says("ack", "t:0=3"));
  assert.equal(reported.all.length, 2);
});

test("a reason is whole characters, whatever was thrown", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { records, refuse } = work(t, server.url);
  const thrown = [`${"x".repeat(499)}\u{1f600} more`, new Error("\udcff \u{1f600}"), Symbol("odd"), Object.create(null)];
  const messages = (await server.next()).begin().state("streaming").records(...thrown.map((_, n) => `t:0=${n}`));
  await records.atLeast(thrown.length);
  thrown.forEach((error, n) => refuse(`t:0=${n}`, error));
  const reasons = (await messages.said.atLeast(thrown.length)).map(({ reason }) => reason);
  assert.deepEqual(reasons, [`${"x".repeat(499)}\ufffd`, "\ufffd \u{1f600}", "Symbol(odd)", ""]);
});

test("a record that is left to other clients holds up nothing, and is refused again instead of acknowledged", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, done, refuse } = work(t, server.url);
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:0=2", "t:0=3");
  await records.atLeast(4);
  refuse("t:0=0", new Error("poison"));
  await first.said.until(says("nack", "t:0=0"));
  done("t:0=1");
  first.send({ type: "nacked", id: "t:0=0", dead_letter: false });
  await first.said.until(says("ack", "t:0=1"));
  assert.equal(stream.position, "t:0=1");
  first.cut();
  const second = (await server.next()).begin();
  done("t:0=2"); // it has not arrived on this connection: to acknowledge it would cover the first one
  second.state("streaming").records("t:0=0", "t:0=1", "t:0=2", "t:0=3");
  await second.said.until(says("ack", "t:0=2"));
  assert.deepEqual(second.said.all[0], { type: "nack", id: "t:0=0", reason: "poison" });
  second.send({ type: "nacked", id: "t:0=0", dead_letter: true });
  done("t:0=3");
  await second.said.until(says("ack", "t:0=3"));
  second.records("t:0=0");
  await second.said.until(says("ack", "t:0=0"));
  second.send({ type: "gap", topic: "t", partition: 0, from: 4, to: -1, reason: "recreated" }).records("t:0=0");
  await records.atLeast(5);
  const { length } = second.said.all;
  done("t:0=0");
  assert.deepEqual((await second.said.atLeast(length + 1)).at(-1), { type: "ack", id: "t:0=0" });
});

for (const isAnswered of [true, false]) {
  test(`a refusal is left to others if the replica loses its partition, answered: ${isAnswered}`, async (t) => {
    reports(t);
    const server = await Server.start(t);
    const { stream, records, done, refuse } = work(t, server.url);
    const first = (await server.next()).begin().assigned(0, 1).records("t:1=0", "t:0=0,1=0", "t:0=1,1=0");
    await records.atLeast(3);
    done("t:0=0", "t:0=1");
    if (isAnswered) {
      refuse("t:1=0", new Error("poison"));
      await first.said.until(says("nack", "t:1=0"));
      first.send({ type: "nacked", id: "t:1=0", dead_letter: false });
    } else {
      first.assigned(0).records("t:0=2");
      await records.atLeast(4);
      refuse("t:1=0", new Error("poison")); // older servers do not answer
      done("t:0=2");
      await first.said.until(says("nack", "t:1=0"));
    }
    await first.said.until(({ type, id }) => type === "ack" && id.startsWith("t:0="));
    assert.match(stream.position, /^t:0=[12],1=0$/);
    first.assigned(0, 1).records("t:1=0");
    await first.said.until(() => first.said.all.filter(says("nack", "t:1=0")).length === 2);
    assert.ok(!first.said.all.some(({ type, id }) => type === "ack" && id.includes("1=")));
  });
}

test("a refusal that was lost with its connection does not wait for a replica without the partition", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, done, refuse } = work(t, server.url);
  const first = (await server.next()).begin().assigned(0, 1).records("t:1=0", "t:0=0,1=0");
  await records.atLeast(2);
  first.cut();
  const second = (await server.next()).begin();
  refuse("t:1=0", new Error("poison"));
  done("t:0=0");
  second.assigned(0).records("t:0=0");
  await second.said.until(says("ack", "t:0=0"));
  assert.equal(stream.position, "t:0=0,1=0");
});

test("a refusal waits until its record has arrived again", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, states, done, refuse } = work(t, server.url);
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:0=2");
  await records.atLeast(3);
  first.cut();
  const second = (await server.next()).begin().state("catching-up");
  await states.until(({ state }) => state === "catching-up");
  refuse("t:0=0", new Error("poison")); // a server that has not sent it would leave it to others
  done("t:0=1");
  second.send({ type: "nacked", id: "t:0=0", dead_letter: false }).records("t:1=0");
  await records.atLeast(4);
  done("t:1=0");
  second.records("t:0=0", "t:0=1", "t:0=2");
  await second.said.until(says("nack", "t:0=0"));
  assert.equal(second.said.all.filter(({ type }) => type === "nack").length, 1);
  assert.equal(stream.position, "");
  second.send({ type: "nacked", id: "t:0=0", dead_letter: true });
  await second.said.until(says("ack", "t:0=1"));
});

test("a refused record that does not come again holds up nothing", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, done, refuse } = work(t, server.url);
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1");
  await records.atLeast(2);
  refuse("t:0=0", new Error("poison"));
  await first.said.until(says("nack", "t:0=0"));
  first.cut();
  const second = (await server.next()).begin().state("streaming").records("t:0=1", "t:0=2"); // it was compacted
  await second.said.until(says("nack", "t:0=0"));
  second.send({ type: "nacked", id: "t:0=0", dead_letter: false });
  done("t:0=1");
  await records.atLeast(3);
  done("t:0=2");
  await second.said.until(says("ack", "t:0=2"));
  assert.equal(stream.position, "t:0=2");
});

for (const [what, pass] of [
  ["a heartbeat", (messages) => messages.send({ type: "heartbeat", id: "t:0=9" })],
  ["a record of another partition", (messages) => messages.records("t:1=5,0=9")],
]) {
  test(`a refusal is sent once ${what} has passed its record`, async (t) => {
    reports(t);
    const server = await Server.start(t);
    const { records, refuse } = work(t, server.url);
    const first = (await server.next()).begin().state("streaming").records("t:0=7", "t:0=8");
    await records.atLeast(2);
    refuse("t:0=8", new Error("poison"));
    await first.said.until(says("nack", "t:0=8"));
    first.cut();
    const second = (await server.next()).begin().state("streaming");
    second.send({ type: "heartbeat", id: "t:0=6" }); // where it begins
    pass(second);
    await second.said.until(says("nack", "t:0=8"));
  });
}

test("a refused record that has expired is left to nobody", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, refuse } = work(t, server.url, { scope: "topic" });
  const first = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1");
  await records.atLeast(2);
  first.cut();
  const second = (await server.next()).begin();
  refuse("t:0=0", new Error("poison"));
  refuse("t:0=1", new Error("poison"));
  const gap = { type: "gap", topic: "t", partition: 0, from: 0, to: 0, reason: "expired" };
  second.state("streaming").send(gap).records("t:0=1", "t:0=2");
  await second.said.until(says("nack", "t:0=1"));
  assert.equal(stream.position, "t:0=0");
});

test("the last acknowledgement is sent before the stream is closed", async (t) => {
  const server = await Server.start(t);
  const stream = subscribe(server.url, { ack: "auto", onRecord: ({ offset }) => offset === 2 && stream.close() });
  const messages = (await server.next()).begin().state("streaming").records("t:0=0", "t:0=1", "t:0=2", "t:0=3");
  await messages.left;
  assert.deepEqual(messages.said.all, [{ type: "ack", id: "t:0=1" }]);
});

test("offsets of a log that was replaced are not acknowledged in the next one", async (t) => {
  reports(t);
  const server = await Server.start(t);
  const { stream, records, done, refuse } = work(t, server.url);
  const messages = (await server.next()).begin().state("streaming").records("t:0=70", "t:0=71", "t:1=5,0=71");
  await records.atLeast(3);
  refuse("t:0=71", new Error("no"));
  await messages.said.until(says("nack", "t:0=71"));
  messages.send({ type: "gap", topic: "t", partition: 0, from: 72, to: -1, reason: "recreated" }).records("t:0=0,1=5", "t:0=71,1=5");
  await records.atLeast(5);
  assert.equal(stream.position, "t:0=-1");
  done("t:0=70", "t:1=5", "t:0=0");
  await messages.said.until(says("ack", "t:0=0,1=5"));
  assert.equal(stream.position, "t:0=0,1=5");
  done("t:0=71");
  await messages.said.until(says("ack", "t:0=71"));
  assert.equal(messages.said.all.length, 3);
});

test("only WebSockets can acknowledge", async (t) => {
  const server = await Server.start(t);
  for (const [options, reason] of [
    [{ transport: "sse" }, /use transport websocket/],
    [{ ack: "manual" }, /is unknown: use "auto"/],
  ]) {
    const { states } = work(t, server.url, options);
    assert.match((await states.until(named("closed"))).reason, reason);
  }
  work(t, server.url, { transport: "auto" });
  assert.match((await server.next()).request.url, /^\/ws\?/);
});
