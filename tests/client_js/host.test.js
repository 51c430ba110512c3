// What client.js never does to the page or the program that it lives in, whatever servers say. Run by
// tests/web/test_client_js.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { subscribe } from "../../dispatcher/web/page/client.js";
import { Server, Told } from "./server.js";

const HOUR_MS = 3_600_000;

/** A subscription, and the states that it told. */
function open(t, url, options = {}) {
  const states = new Told();
  const stream = subscribe(url, { transport: "sse", onState: states.push, ...options });
  t.after(() => stream.close());
  return { stream, states };
}

/** The state of this name that comes next, after those that were looked at. */
const named = (name) => ({ state }) => state === name;

/** Holds the turns that streams wait for from now on; `end` lets later ones come by themselves. */
function holdTurns(t) {
  const own = globalThis.MessageChannel;
  const held = new Told();
  const end = () => (globalThis.MessageChannel = own);
  t.after(end);
  globalThis.MessageChannel = class {
    port1 = { close() {} };
    port2 = { postMessage: () => held.push(() => this.port1.onmessage()) };
  };
  return { held, end };
}

/** What streams listen to on their page, by name. */
function pretendPage(t) {
  const listeners = {};
  globalThis.addEventListener = (name, listener) => void (listeners[name] = listener);
  t.after(() => delete globalThis.addEventListener);
  return listeners;
}

/** What the program stores, and what is reported to it. */
function pretendStorage(t) {
  const stored = {};
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  globalThis.sessionStorage = {
    getItem: (key) => stored[key] ?? null,
    setItem: (key, value) => void (stored[key] = value),
  };
  t.after(() => {
    delete globalThis.reportError;
    delete globalThis.sessionStorage;
  });
  return { stored, reported };
}

for (const wait of ["9".repeat(40), "2147483648", "1e300", "-1", "NaN", "abc", "Thu, 01 Jan 2970 00:00:00 GMT", ""]) {
  test(`Retry-After: ${wait.slice(0, 12) || "nothing"} is no storm, and no wait of years`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url);
    (await server.next()).answer(503, { "Retry-After": wait });
    const { retry_ms } = await states.until(named("reconnecting"));
    assert.equal(Number.isInteger(retry_ms) && retry_ms >= 0 && retry_ms <= HOUR_MS, true, `${retry_ms} ms`);
    if (/^\d{10}/.test(wait)) assert.equal(retry_ms, HOUR_MS);
  });
}

for (const wait of [2 ** 31, 1e300, "abc", null, [], true]) {
  test(`retry_ms ${wait} is no storm, and no wait of years`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url);
    (await server.next()).begin().state("streaming").event("goodbye", { code: 1012, reason: "x", retry_ms: wait });
    const { retry_ms } = await states.until(named("reconnecting"));
    assert.equal(Number.isInteger(retry_ms) && retry_ms >= 0 && retry_ms <= HOUR_MS, true, `${retry_ms} ms`);
    if (wait >= 2 ** 31) assert.equal(retry_ms, HOUR_MS);
  });
}

test("no options, none that are null, and no position that it takes for one throw", async (t) => {
  const server = await Server.start(t);
  for (const options of [undefined, null]) {
    const stream = subscribe(server.url, options);
    assert.equal((await server.next()).id, undefined);
    stream.close();
  }
  for (const position of ["t:0", "t:0=x", "t:~", "t:99999999999=1", `t:0=${"9".repeat(19)}`, "..:0=1", 5, {}, "a b:0=1"]) {
    const { states } = open(t, server.url, { position });
    assert.match((await states.until(named("closed"))).reason, /^position: /);
  }
});

test("an address of another scheme ends the stream, and says so", async (t) => {
  const { states } = open(t, "ftp://127.0.0.1:1/");
  assert.equal((await states.until(named("closed"))).reason, "an address of a dispatcher cannot begin with ftp:");
});

test("redirects without end are reported with their reason, and those that the client follows itself end the stream", async (t) => {
  const server = await Server.start(t);
  const plain = open(t, server.url);
  for (let n = 0; n <= 20; n += 1) (await server.next()).answer(307, { Location: "/events" });
  assert.match((await plain.states.until(named("reconnecting"))).reason, /redirect count exceeded/);
  plain.stream.close();

  const own = open(t, server.url, { headers: { "X-Secret": "mine" } });
  for (let n = 0; n <= 5; n += 1) {
    (await server.next()).answer(307, { Location: "/events" });
    if (n < 5) (await server.next()).answer(200, {}); // the same again, to see where it leads
  }
  assert.equal((await own.states.until(named("closed"))).reason, "too many redirects");
});

test("the page's own headers do not follow a redirect to another origin", async (t) => {
  const [here, there] = [await Server.start(t), await Server.start(t)];
  open(t, here.url, { headers: { "X-Secret": "mine" }, token: "bearer", position: "t:0=4" });
  const asked = await here.next();
  assert.deepEqual([asked.request.headers["x-secret"], asked.request.headers.authorization], ["mine", "Bearer bearer"]);
  asked.answer(307, { Location: `${there.url}events` });
  // Browsers do not say where it leads: it is followed once without anything, and then asked there.
  const looked = await here.next();
  assert.equal(looked.request.method, "HEAD");
  assert.equal(looked.request.headers["x-secret"], undefined);
  looked.answer(307, { Location: `${there.url}events` });
  for (let n = 0; n < 2; n += 1) {
    const { request, response } = await there.next();
    assert.deepEqual([request.headers["x-secret"], request.headers.authorization], [undefined, undefined]);
    if (request.method === "HEAD") response.end();
    else assert.equal(request.headers["last-event-id"], "t:0=4");
  }
});

test("a stream without a storageKey stores nothing, and one that is closed no more", async (t) => {
  const { stored } = pretendStorage(t);
  const server = await Server.start(t);
  const came = new Told();
  const plain = open(t, server.url, { onRecord: (record) => came.push(record) });
  (await server.next()).begin().state("streaming").record("t:0=1");
  await came.atLeast(1);
  plain.stream.close();
  assert.deepEqual(stored, {});

  const told = new Told();
  const kept = open(t, server.url, {
    storageKey: "place",
    onRecord(record) {
      kept.stream.close();
      delete stored.place; // as a page does that forgets its user
      told.push(record);
    },
  });
  const events = (await server.next()).begin().state("streaming").record("t:0=1").record("t:0=2");
  await told.atLeast(1);
  await events.left;
  await new Promise((resolve) => setTimeout(resolve, 300)); // after this a position would have been stored
  assert.deepEqual(stored, {});
  assert.equal(told.all.length, 1);
});

test("of two streams with one storageKey the second keeps its place to itself, and says so", async (t) => {
  const { stored, reported } = pretendStorage(t);
  const server = await Server.start(t);
  const first = open(t, server.url, { storageKey: "place", position: "t:0=1" });
  const second = open(t, server.url, { storageKey: "place", position: "t:0=9" });
  second.stream.close();
  assert.deepEqual(stored, {});
  assert.equal(reported.length, 1);
  assert.match(reported[0], /another stream of this page/);
  first.stream.close();
  assert.deepEqual(stored, { place: "t:0=1" });
  const third = open(t, server.url, { storageKey: "place" });
  assert.equal(third.stream.position, "t:0=1");
});

test("10,000 streams that are closed at once leave no listener and no timer", async (t) => {
  const listeners = new Map();
  globalThis.addEventListener = (name, listener) => listeners.set(listener, name);
  globalThis.removeEventListener = (_, listener) => listeners.delete(listener);
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  });
  const before = process.getActiveResourcesInfo().length;
  for (let n = 0; n < 10_000; n += 1) subscribe("http://127.0.0.1:1/", { storageKey: "place" }).close();
  await new Promise(setImmediate);
  assert.equal(listeners.size, 0);
  assert.equal(process.getActiveResourcesInfo().length <= before + 2, true);
});

for (const transport of globalThis.WebSocket ? ["sse", "websocket"] : ["sse"]) {
  test(`${transport}: a stream that was given up while it waited for a turn does not end the next one`, async (t) => {
    const page = pretendPage(t);
    const server = await Server.start(t);
    const records = new Told();
    const onRecord = ({ id }) => {
      if (!records.all.length) for (const until = performance.now() + 20; performance.now() < until; );
      records.push(id);
    };
    const { states } = open(t, server.url, { transport, onRecord });
    const send = (stream, id) => (transport === "sse" ? stream.record(id) : stream.records(id));
    const first = (await server.next()).begin().state("streaming");
    await states.until(named("live"));
    const turns = holdTurns(t);
    send(first, "t:0=1");
    await turns.held.atLeast(1);
    turns.end();
    if (transport === "sse") first.end();
    else first.close(1012, "a restart");
    await first.left;
    page.offline();
    page.online();
    const second = (await server.next()).begin().state("streaming");
    await states.until(() => states.all.filter(named("live")).length === 2);
    for (const go of turns.held.all) go();
    await new Promise(setImmediate);
    assert.equal(states.all.at(-1).state, "live");
    send(second, "t:0=2");
    await records.atLeast(2);
    assert.deepEqual(records.all, ["t:0=1", "t:0=2"]);
  });
}
