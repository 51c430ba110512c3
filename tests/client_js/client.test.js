// The logic of client.js, against a server whose answers are written byte by byte. Run by tests/web/test_client_js.py.

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { parsePosition, subscribe } from "../../dispatcher/web/page/client.js";
import { eventOf, Server, Told } from "./server.js";

const transports = ["sse", ...(globalThis.WebSocket ? ["websocket"] : [])];

/** A subscription, and what it told. */
function open(t, url, options = {}) {
  const records = new Told();
  const states = new Told();
  const gaps = new Told();
  const told = { onRecord: records.push, onState: states.push, onGap: gaps.push };
  const stream = subscribe(url, { transport: "sse", ...told, ...options });
  t.after(() => stream.close());
  return { stream, records, states, gaps };
}

const named = (state) => (told) => told.state === state;
const names = (states) => states.all.map(({ state }) => state);
const pairs = (records) => records.all.map(({ id }) => id.split(",")[0]);

/** What the page would have stored, and the events of its window. */
function pretendPage(t, { online = true, stored = {} } = {}) {
  const window = new EventTarget();
  const navigator = { onLine: online };
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  globalThis.sessionStorage = {
    getItem: (key) => stored[key] ?? null,
    setItem: (key, value) => void (stored[key] = value),
  };
  t.after(() => {
    for (const name of ["addEventListener", "removeEventListener", "sessionStorage", "navigator"]) delete globalThis[name];
    if (before) Object.defineProperty(globalThis, "navigator", before);
  });
  return { stored, navigator, fire: (name) => window.dispatchEvent(new Event(name)) };
}

test("asks for the records that are wanted", async (t) => {
  const server = await Server.start(t);
  const wanted = { keys: ["a", "b&c"], recordHeaders: { tenant: "t1" }, fields: { "/state": ["open", "né"] } };
  open(t, `${server.url}?key_prefix=p`, { ...wanted, decode: "json", filter: { not: { exact: { key: "x" } } } });
  const { request } = await server.next();
  const query = new URL(request.url, server.url).searchParams;
  assert.deepEqual(query.getAll("key"), ["a", "b&c"]);
  assert.deepEqual([query.getAll("header"), query.get("decode")], [["tenant:t1"], "json"]);
  assert.deepEqual(query.getAll("field"), ["/state:open", "/state:né"]);
  assert.deepEqual([query.get("filter"), query.get("key_prefix")], ['{"not":{"exact":{"key":"x"}}}', "p"]);
  const { states } = open(t, server.url, { recordHeaders: { "a:b": "c" } });
  const { reason } = await states.until(named("closed"));
  assert.match(reason, /a name that is empty or has a colon/);
});

test("hands over records with their envelope, and tells the state", async (t) => {
  const server = await Server.start(t);
  const { records, states, stream } = open(t, server.url, { topics: ["a", "b"], since: "earliest" });
  const events = await server.next();
  assert.equal(events.request.url, "/events?topic=a&topic=b&since=earliest&format=envelope");
  assert.equal(events.id, undefined);
  events.begin().state("streaming").record("t:0=5,1=7", "héllo 🦊");
  const [record] = await records.atLeast(1);
  assert.deepEqual(
    { topic: record.topic, partition: record.partition, offset: record.offset, value: record.value },
    { topic: "t", partition: 0, offset: 5, value: "héllo 🦊" },
  );
  assert.deepEqual(names(states), ["connecting", "live"]);
  assert.equal(states.all[1].replica, "one");
  assert.deepEqual(states.all[1].assigned, { t: [0, 1] });
  assert.equal(stream.position, "t:0=5,1=7");
});

test("a stream may be cut into pieces at any byte", async (t) => {
  const text =
    "\ufeffretry: 2000\r\n\r\nevent: state\rdata: {\"state\":\rdata: \"streaming\",\"heartbeat_seconds\":15}\r\r" +
    'id: t:0=1\ndata: {"topic":"t","partition":0,"offset":1,"value":"é🦊"}\n\n:\n\nid: t:0=1,1=9\n\n' +
    'id:t:0=2,1=9\r\ndata:{"topic":"t","partition":0,"offset":2,"value":"b"}\r\n\r\n';
  const bytes = Buffer.from(text);
  const server = await Server.start(t);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const { stream, records, states } = open(t, server.url);
    const events = await server.next();
    events.begin();
    events.response.socket.setNoDelay(true);
    events.write(bytes.subarray(0, cut));
    await new Promise(setImmediate);
    events.write(bytes.subarray(cut));
    await records.atLeast(2);
    assert.deepEqual(records.all.map(({ value }) => value), ["é🦊", "b"], `cut at ${cut}`);
    assert.deepEqual(names(states), ["connecting", "live"]);
    assert.equal(stream.position, "t:0=2,1=9");
    stream.close();
  }
});

for (const transport of transports) {
  const say = (stream, ...ids) => {
    if (transport === "websocket") stream.records(...ids);
    else for (const id of ids) stream.record(id);
  };

  test(`${transport}: resumes from the merged position of all replicas, and drops repeats`, async (t) => {
    const server = await Server.start(t);
    const { records, states } = open(t, server.url, { transport });
    const first = await server.next();
    say(first.begin().state("streaming"), "t:0=5,1=7", "t:1=8,0=5");
    await records.atLeast(2);
    first.cut();
    const second = await server.next();
    assert.equal(second.id, "t:0=5,1=8");
    say(second.begin().state("catching-up"), "t:0=5", "t:0=6", "u:3=1");
    await records.atLeast(4);
    second.cut();
    const third = await server.next();
    assert.equal(third.id, "t:0=6,1=8;u:3=1");
    assert.deepEqual(pairs(records), ["t:0=5", "t:1=8", "t:0=6", "u:3=1"]);
    assert.deepEqual(names(states).slice(0, 4), ["connecting", "live", "reconnecting", "catching-up"]);
  });

  test(`${transport}: silence for two heartbeats ends the attempt, a sign of life does not`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url, { transport });
    const first = await server.next();
    first.begin().state("streaming", 0.1);
    for (let n = 0; n < 4; n += 1) {
      await new Promise((resolve) => setTimeout(resolve, 75));
      if (transport === "websocket") first.send({ type: "heartbeat", id: "t:0=3" });
      else first.write("id: t:0=3\n\n");
    }
    assert.equal(states.all.some(named("reconnecting")), false);
    const { reason } = await states.until(named("reconnecting"));
    assert.match(reason, /^no data for/);
    await first.left;
    assert.equal((await server.next()).id, "t:0=3");
  });

  test(`${transport}: what is not understood ends the attempt, not the page`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url, { transport });
    const first = (await server.next()).begin().state("streaming");
    await states.until(named("live"));
    if (transport === "websocket") first.send("{nonsense");
    else first.write("id: t:0=1\ndata: {nonsense\n\n");
    assert.match((await states.until(named("reconnecting"))).reason, /^the message could not be read/);
    await server.next();
  });

  for (const [code, final] of [[1002, true], [1003, true], [1007, true], [1008, true], [1009, true], [1011, false],
    [1012, false], [1013, false], [4400, true], [4401, true], [4403, true], [4408, false]]) {
    test(`${transport}: goodbye ${code} is ${final ? "final" : "followed by another attempt"}`, async (t) => {
      const server = await Server.start(t);
      const { states } = open(t, server.url, { transport });
      const first = (await server.next()).begin();
      const goodbye = { code, reason: "because", retry_ms: 7 };
      if (transport === "websocket") first.send({ type: "goodbye", ...goodbye }).close(code, "because");
      else first.event("goodbye", goodbye).end();
      const { state, reason, retry_ms } = await states.until(({ state }) => ["closed", "reconnecting"].includes(state));
      assert.equal(reason, `because (${code})`);
      assert.equal(state, final ? "closed" : "reconnecting");
      assert.equal(retry_ms, final ? undefined : code === 4408 ? 0 : 7);
      if (!final) await server.next();
    });
  }
}

if (globalThis.WebSocket) {
  test("websocket: a close code without a goodbye counts as well", async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url, { transport: "websocket" });
    (await server.next()).begin().close(4400, "unknown topic 'x'");
    assert.equal((await states.until(named("closed"))).reason, "unknown topic 'x' (4400)");
  });

  test("auto: a WebSocket after a silent event stream asks for what was dispatched to that", async (t) => {
    const server = await Server.start(t);
    const now = Date.now;
    t.after(() => (Date.now = now));
    const began = Date.now();
    const { records, states } = open(t, `${server.url}?topic=t`, { transport: "auto" });
    const first = await server.next();
    assert.equal(first.request.url, "/events?topic=t&format=envelope");
    Date.now = () => now() + 11_000; // a proxy that keeps back everything, and what it is sent
    const socket = await server.next();
    const query = new URL(socket.request.url, server.url).searchParams;
    assert.deepEqual([query.get("topic"), query.get("last_event_id")], ["t", null]);
    const early = began - query.get("since");
    assert.equal(early > 55_000 && early <= 60_000, true, `${early} ms before the first attempt`);
    socket.begin().send({ type: "state", state: "streaming", replica: "one", assigned: {}, id: "t:0=4" });
    await states.until(named("live"));
    socket.records("t:0=5");
    await records.atLeast(1);
    socket.cut();
    const again = new URL((await server.next()).request.url, server.url).searchParams;
    assert.deepEqual([again.get("since"), again.get("last_event_id")], [null, "t:0=5"]);
  });

  test("auto: a silent event stream is tried again as a WebSocket, and what works is kept", async (t) => {
    const server = await Server.start(t);
    const now = Date.now;
    t.after(() => (Date.now = now));
    const { states } = open(t, server.url, { transport: "auto", position: "t:0=1" });
    (await server.next()).begin(); // a proxy that keeps back what it should pass on
    await states.until(named("catching-up"));
    Date.now = () => now() + 31_000;
    const socket = await server.next();
    assert.match(socket.request.url, /^\/ws/);
    socket.begin().state("streaming");
    await states.until(named("live"));
    socket.cut();
    assert.match((await server.next()).request.url, /^\/ws/);
  });
}

for (const [missing, url] of [
  ["this runtime has no WebSocket", (server) => server.url],
  ["a WebSocket cannot send the user", (server) => server.url.replace("//", "//user:secret@")],
]) {
  test(`auto: an event stream is tried again where ${missing}`, async (t) => {
    const server = await Server.start(t);
    const { now } = Date;
    const { WebSocket } = globalThis;
    t.after(() => Object.assign(globalThis, { WebSocket }, ((Date.now = now), {})));
    globalThis.WebSocket = missing.includes("no WebSocket") ? undefined : class {};
    const { states } = open(t, url(server), { transport: "auto" });
    await server.next();
    Date.now = () => now() + 11_000; // nothing has come for as long
    await states.until(({ reason }) => reason.includes(missing));
    (await server.next()).begin().state("streaming");
    assert.equal((await states.until(named("live"))).transport, "sse");
  });
}

for (const status of [400, 401, 403, 404, 410]) {
  test(`HTTP ${status} is final, and its reason is reported`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url);
    const problem = JSON.stringify({ detail: "no such thing" });
    (await server.next()).answer(status, { "Content-Type": "application/problem+json" }, problem);
    assert.equal((await states.until(named("closed"))).reason, `HTTP ${status}: no such thing`);
  });
}

for (const status of [408, 425, 429, 500, 502, 503]) {
  test(`HTTP ${status} passes, and Retry-After is honoured`, async (t) => {
    const server = await Server.start(t);
    const { states } = open(t, server.url);
    (await server.next()).answer(status, { "Retry-After": "0.002" });
    const { reason, retry_ms } = await states.until(named("reconnecting"));
    assert.equal(reason, `HTTP ${status}`);
    assert.equal(retry_ms, 2);
    await server.next();
  });
}

test("another kind of server is final", async (t) => {
  const server = await Server.start(t);
  const { states } = open(t, server.url);
  (await server.next()).answer(200, { "Content-Type": "text/html" }, "<p>hello");
  assert.equal((await states.until(named("closed"))).reason, "the response is text/html, not an event stream");
});

test("an address that is none is reported, not thrown", async (t) => {
  const { states } = open(t, "http://:");
  assert.equal((await states.until(named("closed"))).reason, "Invalid URL");
});

test("a redirect is followed, with the position", async (t) => {
  const server = await Server.start(t);
  const { states } = open(t, server.url, { position: "t:0=4" });
  (await server.next()).answer(307, { Location: "/elsewhere" });
  const events = await server.next();
  assert.deepEqual([events.request.url, events.id], ["/elsewhere", "t:0=4"]);
  events.begin().state("streaming");
  await states.until(named("live"));
});

test("the path of the address is kept, whatever it ends with", async (t) => {
  const server = await Server.start(t);
  for (const path of ["some/where", "some/where/", "some/where/events", "some/where/ws"]) {
    const { stream } = open(t, server.url + path);
    assert.equal((await server.next()).request.url, "/some/where/events?format=envelope");
    stream.close();
  }
});

test("attempts that bring nothing are made ever less often, up to 30 s, spread at random", async (t) => {
  const server = await Server.start(t);
  const random = Math.random;
  t.after(() => (Math.random = random));
  Math.random = () => 0.002;
  const { states } = open(t, server.url);
  const waited = [];
  for (let n = 0; n < 8; n += 1) {
    (await server.next()).cut();
    await states.until(() => states.all.filter(named("reconnecting")).length > n);
    waited.push(states.all.at(-1).retry_ms);
  }
  assert.deepEqual(waited, [4, 8, 16, 1002, 1002, 1002, 1002, 1002]);
  assert.equal(states.all.at(-1).reason, "no connection");
});

test("retry: is the time to begin with", async (t) => {
  const server = await Server.start(t);
  const random = Math.random;
  t.after(() => (Math.random = random));
  Math.random = () => 0.5;
  const { states } = open(t, server.url);
  (await server.next()).begin().write("retry: 40\n\n").state("streaming").end();
  assert.equal((await states.until(named("reconnecting"))).retry_ms, 20);
});

test("a gap is reported and moves the position; a recreated log starts over", async (t) => {
  const server = await Server.start(t);
  const { stream, records, gaps } = open(t, server.url, { position: "t:0=5,1=50" });
  const events = (await server.next()).begin();
  events.event("gap", { topic: "t", partition: 0, from: 6, to: 99, reason: "expired" });
  events.event("gap", { topic: "t", partition: 1, from: 51, to: -1, reason: "recreated" });
  events.record("t:0=99").record("t:0=100").record("t:1=0,0=100");
  await records.atLeast(3);
  // A cut log may have grown again, with other records at these offsets: what was not handed out is no repeat.
  assert.deepEqual(pairs(records), ["t:0=99", "t:0=100", "t:1=0"]);
  assert.deepEqual(gaps.all.map(({ to, reason }) => [to, reason]), [[99, "expired"], [-1, "recreated"]]);
  assert.equal(stream.position, "t:0=100,1=0");
});

test("offsets are compared as Kafka counts, to 2^63 - 1", async (t) => {
  const server = await Server.start(t);
  const { stream, records } = open(t, server.url);
  const events = (await server.next()).begin();
  events.record("t:0=9223372036854775806").record("t:0=9223372036854775806").record("t:0=9223372036854775807");
  await records.atLeast(2);
  assert.deepEqual(pairs(records), ["t:0=9223372036854775806", "t:0=9223372036854775807"]);
  assert.equal(stream.position, "t:0=9223372036854775807");
});

test("a `since` of the page's own is kept, and one in the address as well", async (t) => {
  const server = await Server.start(t);
  for (const [path, options] of [["", { since: "earliest" }], ["?since=earliest", {}]]) {
    const { stream } = open(t, server.url + path, options);
    for (let n = 0; n < 2; n += 1) {
      const events = await server.next();
      assert.deepEqual(new URL(events.request.url, server.url).searchParams.getAll("since"), ["earliest"]);
      events.answer(503, { "Retry-After": "0.002" });
    }
    stream.close();
  }
});

test("a state that says less or more than it has to is reported as well", async (t) => {
  const server = await Server.start(t);
  const { states } = open(t, server.url);
  const events = (await server.next()).begin();
  events.event("state", { state: "hibernating", replica: "one", assigned: null, reason: 5 });
  const { reason, assigned } = await states.until(named("hibernating"));
  assert.deepEqual([reason, assigned], ["hibernating", {}]);
});

test("a position never grows beyond what is taken back", async (t) => {
  const topic = "long".repeat(60);
  const all = Array.from({ length: 100 }, (_, n) => `${topic}-${n}:0=1`).join(";");
  const server = await Server.start(t);
  const { stream } = open(t, server.url, { position: all });
  assert.equal(stream.position.length > 7000 && stream.position.length <= 8192, true);
  assert.equal((await server.next()).id, stream.position);
});

test("a position of more partitions than anybody takes back is spelled in a few tries", async (t) => {
  const spell = globalThis.btoa;
  t.after(() => (globalThis.btoa = spell));
  const server = await Server.start(t);
  const { stream, records } = open(t, server.url);
  const events = (await server.next()).begin().state("streaming");
  for (let n = 0; n < 12_000; n += 600) {
    const pairs = Array.from({ length: 600 }, (_, m) => `${3 * (n + m)}=${1000 + ((n + m) % 200)}`);
    events.write(`id: t:${pairs.join()}\n\n`);
  }
  events.record("t:1=1007");
  await records.atLeast(1);
  let tries = 0;
  globalThis.btoa = (text) => ((tries += 1), spell(text));
  const text = stream.position;
  assert.equal(tries < 10, true, `${tries} tries`);
  const position = parsePosition(text);
  assert.equal(position.get("t:1"), 1007n);
  assert.equal(position.size > 1500, true);
});

for (const transport of transports) {
  test(`${transport}: records that take long let the page have its turns`, async (t) => {
    const number = 300;
    const server = await Server.start(t);
    let inTurn = 0;
    let most = 0;
    let ticking = true;
    t.after(() => (ticking = false));
    const tick = () => {
      most = Math.max(most, inTurn);
      inTurn = 0;
      if (ticking) setImmediate(tick);
    };
    const records = new Told();
    const onRecord = (record) => {
      for (const until = performance.now() + 2; performance.now() < until; );
      inTurn += 1;
      records.push(record);
    };
    open(t, server.url, { transport, onRecord });
    const ids = Array.from({ length: number }, (_, n) => `t:0=${n}`);
    const stream = (await server.next()).begin();
    stream.state("streaming");
    if (transport === "sse") stream.write(ids.map((id) => eventOf(id)).join(""));
    else stream.records(...ids);
    tick();
    await records.atLeast(number);
    tick();
    assert.deepEqual(pairs(records), ids);
    assert.equal(most < number / 4, true, `${most} records of 2 ms each in one turn`);
  });
}

test("sse: a line without an end is not kept for ever, however small it arrives", async (t) => {
  const server = await Server.start(t);
  const { states } = open(t, server.url);
  const { response } = await server.next();
  response.writeHead(200, { "Content-Type": "text/event-stream", "Content-Encoding": "gzip" });
  response.end(gzipSync(`data: ${"x".repeat(64 * 1024 * 1024)}`));
  assert.match((await states.until(named("closed"))).reason, /more than 64 million characters/);
});

test("websocket: a message that is too large is not parsed", { skip: !transports.includes("websocket") }, async (t) => {
  const server = await Server.start(t);
  const { states } = open(t, server.url, { transport: "websocket" });
  const messages = (await server.next()).begin();
  messages.send("1".repeat(64 * 1024 * 1024 + 1));
  assert.match((await states.until(named("closed"))).reason, /more than 64 million characters/);
});

test("callbacks that throw or reject are reported, and the stream goes on", async (t) => {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  t.after(() => delete globalThis.reportError);
  const server = await Server.start(t);
  const seen = new Told();
  const stream = subscribe(server.url, {
    transport: "sse",
    onState: ({ state }) => {
      throw new Error(state);
    },
    onRecord: async (record) => {
      seen.push(record);
      throw new Error(record.id);
    },
  });
  t.after(() => stream.close());
  (await server.next()).begin().state("streaming").record("t:0=1").record("t:0=2");
  await seen.atLeast(2);
  await new Promise(setImmediate);
  assert.deepEqual(reported, ["connecting", "live", "t:0=1", "t:0=2"]);
});

test("nothing is reported after close(), not even the rest of what has come", async (t) => {
  const server = await Server.start(t);
  const { stream, records, states } = open(t, server.url, {
    onRecord: (record) => {
      records.push(record);
      stream.close();
    },
  });
  const events = await server.next();
  events.begin().state("streaming").record("t:0=1").record("t:0=2");
  await events.left;
  assert.deepEqual(pairs(records), ["t:0=1"]);
  assert.deepEqual(names(states), ["connecting", "live"]);
  assert.equal(server.waiting, 0);
});

test("the position is kept in the session, and a reload resumes there without repeats", async (t) => {
  const { stored, fire } = pretendPage(t);
  const server = await Server.start(t);
  const before = open(t, server.url, { storageKey: "place" });
  (await server.next()).begin().record("t:0=1,1=4").record("t:0=2,1=4");
  await before.records.atLeast(2);
  fire("pagehide");
  assert.equal(stored.place, "t:0=2,1=4");
  before.stream.close();
  const { records } = open(t, server.url, { storageKey: "place" });
  const events = await server.next();
  assert.equal(events.id, "t:0=2,1=4");
  events.begin().record("t:0=2").record("t:0=3");
  assert.deepEqual(pairs({ all: await records.atLeast(1) }), ["t:0=3"]);
});

test("a stored position that is none is passed over", async (t) => {
  pretendPage(t, { stored: { place: "<nonsense>" } });
  const server = await Server.start(t);
  open(t, server.url, { storageKey: "place" });
  assert.equal((await server.next()).id, undefined);
});

test("a laptop that slept reconnects at the first look at the clock", async (t) => {
  const server = await Server.start(t);
  const now = Date.now;
  t.after(() => (Date.now = now));
  const { states } = open(t, server.url);
  (await server.next()).begin().state("streaming");
  await states.until(named("live"));
  Date.now = () => now() + 3_600_000;
  assert.match((await states.until(named("reconnecting"))).reason, /^no data for 360\d s$/);
  await server.next();
});

test("an answer that does not come is not waited for as long as a heartbeat", async (t) => {
  const server = await Server.start(t);
  const now = Date.now;
  t.after(() => (Date.now = now));
  const { states } = open(t, server.url);
  await server.next();
  Date.now = () => now() + 11_000;
  assert.match((await states.until(named("reconnecting"))).reason, /^no data for 1\d s$/);
  await server.next();
});

test("a clock that is set back does not hide a silence", async (t) => {
  const server = await Server.start(t);
  const now = Date.now;
  t.after(() => (Date.now = now));
  const { states } = open(t, server.url);
  (await server.next()).begin().state("streaming", 0.05);
  await states.until(named("live"));
  Date.now = () => now() - 3_600_000;
  await states.until(named("reconnecting"));
  await server.next();
});

test("offline is reported while the browser says so, and the network's return is not waited for", async (t) => {
  const { navigator, fire } = pretendPage(t, { online: false });
  const server = await Server.start(t);
  const { states } = open(t, server.url);
  (await server.next()).answer(503, { "Retry-After": "3600" });
  await states.until(named("offline"));
  navigator.onLine = true;
  fire("online");
  const events = await server.next();
  events.begin().state("streaming");
  await states.until(named("live"));
});

test("an open stream that goes on shows that the browser is wrong about being offline", async (t) => {
  const { fire } = pretendPage(t);
  const server = await Server.start(t);
  const { states } = open(t, server.url);
  const events = (await server.next()).begin().state("streaming");
  await states.until(named("live"));
  fire("offline");
  assert.equal(states.all.at(-1).state, "offline");
  events.write(":\n\n");
  await states.until(() => states.all.at(-1).state === "live");
  fire("offline");
  fire("online");
  assert.equal((await states.until(named("reconnecting"))).reason, "the network is back");
  await server.next();
});
