// The browser's client of a dispatcher: subscribes, reconnects, resumes, drops repeats. docs/protocol.md is the contract.
//
// Rules of this module:
//
// * Nothing is thrown into the page: what a callback throws is reported, and the stream continues.
// * `seen` has the last offset of each partition that was handed to the page: a record that is not above it is a repeat.
//   `place` is where to resume, merged from all pairs of the ids of all replicas, so it also has partitions that were
//   quiet until now. The position of a first state, of a heartbeat or of a whole message names no record, so it moves
//   `place` alone.
// * With `ack` the page is done with a record when its promise resolves. `place` moves to the end of the longest run, in
//   order of delivery, in which every record is done. A record that arrives again is not handed out twice: if it is in
//   the run, it is acknowledged again; if it was refused and no dead letter is known to be stored, it is refused again.
// * A refused record that is left to other clients is in the run, but is not acknowledged: its owner may have no dead
//   letter of it. Either the server says so, or its replica does not have the partition, or a gap says that the record
//   cannot arrive again: none of these refusals would be answered by a server that has the record.
// * Only records that arrived on the present connection are acknowledged on it: to a server that has just sent a refused
//   record again, a later offset of the partition would mean that the record is done.
// * A record is refused only on a connection that has reached it, by a record or a position: a server leaves records that
//   it has not sent to other clients, and the run would pass them. The position at which a stream begins says nothing.
// * A server may give one position for several records. A record without an id is named by its envelope.
// * Without a `place`, the second and later attempts ask for records `since` the first one: records that were dispatched
//   to a connection that a proxy kept silent are sent again.
// * Offsets above 2^53 are exact in ids and in the text of a message, and rounded in what JSON.parse makes of it.
// * An attempt ends once, with one reason. What arrives later is ignored.
// * With "auto" the tabs of an origin share a few places for event streams, as Web Locks: an attempt that finds none free
//   takes a WebSocket, which browsers do not count among the six connections. A tab that closes gives its place back.
// * No server can make clients reconnect in a storm: the rules are those of "When to reconnect" in docs/protocol.md, as in
//   the Python client.
// * No server can hold the page's thread: after `BUSY_MS` of work the page gets it back, and the rest waits for a turn of
//   the event loop. Only JSON.parse cannot be divided, so the size of one event is bounded.
// * Nothing from a server is trusted: names and numbers are checked before they are kept, handed out or sent on.
// * fetch, not EventSource, which hides statuses and heartbeats, and gives up for good after temporary errors.

const HEARTBEAT_MS = 15_000; // until a state names another
const OPEN_MS = 10_000; // until the first state: a browser may send the request on a kept connection that has died
const RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
const MAX_ASKED_MS = 3_600_000; // the longest wait, even if a server asks for a longer one
const LIVED_MS = 5000; // a stream that lasted this long has worked: earlier failures are forgotten
const QUICK_ATTEMPTS = 3; // how many attempts in a row may follow each other as fast as the server asks
const FLOOR_MS = 1000; // after those, no wait is shorter than this, whatever the server says
const MAX_REDIRECTS = 5;
const MAX_EVENT_STREAMS = 3; // of all tabs to one server, with "auto": HTTP/1.1 has six connections, and pages need the rest
const MAX_EVENT_CHARACTERS = 64 * 1024 * 1024;
const PIECE_CHARACTERS = 64 * 1024; // parsed between two checks of the time
const BUSY_MS = 10; // of uninterrupted work
const MAX_WAITING_CHARACTERS = 4 * 1024 * 1024; // of messages: above that we do not wait for a turn, so the browser stops reading
const MAX_REASON_CHARACTERS = 500;
const MAX_BODY_CHARACTERS = 16 * 1024; // of a response that is not a stream, to find the reason
const SAVE_MS = 250;
const ACK_MS = 5; // acknowledgements are cumulative: those of a few milliseconds are sent as one message
const SINCE_MARGIN_MS = 60_000; // how much earlier than the first attempt `since` is while only this machine's clock is known
const DATED_MARGIN_MS = 5000; // the same once the server's clock is known, from which those of brokers may differ
const MAX_ID_CHARACTERS = 8192;
const FOR_GOOD = [1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403]; // all other codes are temporary
const PLAIN_CHARACTERS = 4096; // longer positions are spelled compactly
const MAX_PARTITIONS = 8192; // in one position: ten characters can spell a range of a billion
const MAX_KEPT = 65_536; // remembered partitions, because a server may name new ones for ever
const MAX_LEFT = 10_000; // remembered refusals that were left to other clients, who do not say when they are done
const MAX_PARTITION = 2 ** 31 - 1;
const MAX_OFFSET = 2n ** 63n - 1n;
const TOPIC = /^(?!\.{1,2}$)[\w.-]{1,249}$/;
const NUMBER = /^(0|[1-9]\d{0,18})$/;
const OWN_PAIR = /^([\w.-]+:\d+)=(\d+)/;
const OFFSETS = /"partition":\s*\d+,\s*"offset":\s*(\d+)/g; // as servers write them; no JSON string can contain this

const WORDS = {
  live: "records arrive as they are written",
  "catching-up": "reading older records",
  rebalancing: "partitions are moving between replicas",
  waiting: "this replica has no partition at the moment",
  standby: "this replica joins its group when somebody takes records from it",
  "broker-down": "no Kafka broker can be reached",
};

/** What an id says, by `topic:partition`; throws when it is not a position. docs/protocol.md, "Event ids". */
export function parsePosition(id) {
  if (typeof id !== "string" || !id || id.length > MAX_ID_CHARACTERS) throw new Error("an id that is empty or too long");
  return pairsOf(id);
}

function pairsOf(id) {
  const position = new Map();
  for (const part of id.split(";")) {
    const colon = part.indexOf(":");
    const topic = part.slice(0, Math.max(0, colon));
    if (!TOPIC.test(topic)) throw new Error("an id without a topic");
    const pairs = part.slice(colon + 1);
    for (const [partition, offset] of pairs[0] === "~" ? readCompact(pairs.slice(1)) : readPlain(pairs)) {
      const key = `${topic}:${partition}`;
      const isWrong = partition > MAX_PARTITION || offset > MAX_OFFSET || position.size === MAX_PARTITIONS;
      if (isWrong || position.has(key)) throw new Error(`an id with a wrong ${key}`);
      position.set(key, offset);
    }
  }
  return position;
}

function* readPlain(text) {
  for (const pair of text.split(",")) {
    const [partition, offset, more] = pair.split("=");
    if (more !== undefined || !NUMBER.test(partition) || !(offset === "-1" || NUMBER.test(offset))) {
      throw new Error("an id with a wrong pair");
    }
    yield [+partition, BigInt(offset)];
  }
}

/** docs/protocol.md, "The compact spelling". */
function* readCompact(text) {
  const binary = atob(text.replace(/[-_]/g, (character) => (character === "-" ? "+" : "/")));
  if (!/^[\w-]+$/.test(text) || base64url(binary) !== text) throw new Error("an id that is not base64url");
  let at = 0;
  let left = MAX_PARTITIONS;
  const wrong = () => new Error("an id with a wrong compact part");
  const octet = () => {
    if (at === binary.length) throw wrong();
    return binary.charCodeAt(at++);
  };
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = octet();
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80 && (byte || !shift)) return value;
      if (byte < 0x80) break;
    }
    throw wrong();
  };
  if (octet() !== 1) throw new Error("an id of a later version");
  do {
    const partitions = [];
    let following = 0;
    const ranges = varint();
    if (!ranges) throw wrong();
    for (let n = 0n; n < ranges; n += 1n) {
      const gap = Number(varint());
      const first = following + gap;
      following = first + Number(varint()) + 1;
      left -= following - first;
      if ((n && !gap) || left < 0) throw wrong();
      for (let partition = first; partition < following; partition += 1) partitions.push(partition);
    }
    const low = varint() - 1n;
    const width = octet();
    if (width > 8 || binary.length - at < width * partitions.length) throw wrong();
    for (const partition of partitions) {
      let high = 0; // a JavaScript number holds 6 octets
      let rest = 0;
      for (let n = width; n > 0; n -= 1) {
        if (n > 6) high = high * 256 + octet();
        else rest = rest * 256 + octet();
      }
      yield [partition, low + BigInt(rest) + (BigInt(high) << 48n)];
    }
  } while (at < binary.length);
}

/** The pairs of one topic, ascending, as one segment. Shorter spellings are left to servers. */
function spellCompact(pairs) {
  const octets = [1];
  const varint = (value) => {
    for (; value > 0x7fn; value >>= 7n) octets.push(Number(value & 0x7fn) | 0x80);
    octets.push(Number(value));
  };
  const ranges = [];
  for (const [partition] of pairs) {
    const last = ranges.at(-1);
    if (last && last.end === partition) last.end += 1;
    else ranges.push({ gap: partition - (last?.end ?? 0), first: partition, end: partition + 1 });
  }
  varint(BigInt(ranges.length));
  for (const { gap, first, end } of ranges) {
    varint(BigInt(gap));
    varint(BigInt(end - first - 1));
  }
  const offsets = pairs.map(([, offset]) => offset);
  const low = offsets.reduce((a, b) => (a < b ? a : b));
  const high = offsets.reduce((a, b) => (a > b ? a : b));
  const width = high === low ? 0 : Math.ceil((high - low).toString(16).length / 2);
  varint(low + 1n);
  octets.push(width);
  for (const offset of offsets) {
    for (let n = width - 1; n >= 0; n -= 1) octets.push(Number(((offset - low) >> BigInt(8 * n)) & 0xffn));
  }
  return `~${base64url(octets.map((octet) => String.fromCharCode(octet)).join(""))}`;
}

function base64url(binary) {
  return btoa(binary).replace(/[+/=]/g, (character) => ({ "+": "-", "/": "_" })[character] ?? "");
}

/** The spelling of a position, plain if it is short; undefined if no id that a server accepts can hold it. */
function formatPosition(pairs) {
  const topics = new Map();
  for (const [key, offset] of pairs) {
    const [topic, partition] = key.split(":");
    if (!topics.has(topic)) topics.set(topic, []);
    topics.get(topic).push([+partition, offset]);
  }
  for (const own of topics.values()) own.sort(([a], [b]) => a - b);
  const joined = (spell) => [...topics.keys()].sort().map((topic) => `${topic}:${spell(topics.get(topic))}`).join(";");
  const plain = joined((own) => own.map(([partition, offset]) => `${partition}=${offset}`).join());
  if (plain.length <= PLAIN_CHARACTERS) return plain;
  const compact = joined(spellCompact);
  return compact.length <= MAX_ID_CHARACTERS && pairs.length <= MAX_PARTITIONS ? compact : undefined;
}

function isPartition(number) {
  return Number.isInteger(number) && number >= 0 && number <= MAX_PARTITION;
}

/** The position of the last pairs, about as many of them as a server accepts. */
function formatNewest(pairs) {
  const most = Math.min(pairs.length, MAX_PARTITIONS);
  let text = formatPosition(pairs.slice(pairs.length - most));
  if (text !== undefined) return text;
  let fits = 0;
  for (let step = most >> 1; step > fits >> 4; step >>= 1) {
    const longer = formatPosition(pairs.slice(-fits - step));
    if (longer === undefined) continue;
    text = longer;
    fits += step;
  }
  return text;
}

/** Measures how long a stream has worked, so that the page gets its thread in between. */
class Pace {
  #workedMs = 0;
  #sinceMs = 0;

  begin() {
    this.#sinceMs = performance.now();
  }

  end() {
    this.#workedMs += performance.now() - this.#sinceMs;
  }

  get isTired() {
    return this.#workedMs + performance.now() - this.#sinceMs > BUSY_MS;
  }

  /** Returns after a turn of the event loop. Not with a timer: in hidden pages they are late by a second. */
  async rest() {
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => resolve(port1.close());
      port2.postMessage(null);
    });
    this.#workedMs = 0;
    this.begin();
  }
}

/** Storage keys of the open streams: two streams with one key would resume each at the other's position. */
const streams = new Set();

/** Subscribe to a dispatcher. `client.d.ts` has every option. */
export function subscribe(url, options) {
  options ??= {};
  const { onRecord, onState, onGap, ack, storageKey } = options;
  const acks = ack !== undefined;
  const { transport = acks ? "websocket" : "auto" } = options;
  const seen = new Map();
  const place = new Map();
  const order = []; // received items that are not in `place` yet, in the order of their arrival
  const refused = new Map(); // the records among them that were refused without an answer so far, by their pair
  const left = new Map(); // why records were refused that the server has left to other clients, by their pair
  const arrived = new Map(); // the offset of each partition that arrived last on this connection
  const reached = new Map(); // the highest offset of each partition that this connection has reached
  let ahead = {}; // the unfinished records of earlier connections above those, the last one first, by partition
  let hasBegun; // whether this connection has named the position at which it begins
  let here; // the partitions of the replica, while no others can be excluded
  const due = new Map(); // the offsets of the next acknowledgement
  let overWebSocket = acks || transport === "websocket";
  let didWebSocket; // whether a WebSocket has worked here: true, false right after one has failed, otherwise undefined
  let heartbeatMs = HEARTBEAT_MS;
  let retryMs = RETRY_MS;
  let heardAt = 0;
  let beganAt; // the time of the first attempt, on this machine's clock
  let aheadMs = -SINCE_MARGIN_MS; // added to it for the `since` of later attempts
  let closed = false;
  let worked = false; // whether the current attempt has received something
  let livesSince; // when it received its first state
  const isFresh = typeof options?.token === "function";
  let wasRefused = false; // whether the last token of that function was refused
  let storage; // the storage key, if no other stream uses it
  let told = {};
  let suffix; // the partition of the last id and what follows its own pair, which are the same for all records of a batch
  let saving;
  let acknowledging;
  let say; // sends a message, while a WebSocket is open
  let finish; // ends the current attempt
  let hurry; // ends the wait for the next attempt
  let restore; // repeats the state from before the browser reported that it is offline

  // What the page learns.

  function guarded(act, otherwise) {
    try {
      return act();
    } catch (error) {
      otherwise?.(error);
    }
  }

  function report(error) {
    (globalThis.reportError ?? console.error)(error);
  }

  function call(callback, value) {
    guarded(() => callback?.(value)?.catch?.(report), report);
  }

  function tell(state, reason = WORDS[state] ?? state, more) {
    const now = { state, reason, transport: overWebSocket ? "websocket" : "sse", ...more };
    restore = undefined;
    if (JSON.stringify(now) !== JSON.stringify(told)) call(onState, (told = now));
  }

  // What was seen.

  /** Keeps each map in the order in which its partitions last moved. */
  function move(map, partition, offset) {
    map.delete(partition);
    keep(map, partition, offset);
  }

  function keep(map, partition, offset) {
    map.set(partition, offset);
    if (map.size > MAX_KEPT) [...map.keys()].slice(0, MAX_KEPT / 16).forEach((oldest) => map.delete(oldest));
  }

  function raise(map, partition, offset) {
    if (!(map.get(partition) >= offset)) move(map, partition, offset);
  }

  /** If there are more partitions than a server would accept, those that moved last are kept. */
  function position(map = place) {
    return formatNewest([...map]);
  }

  function save() {
    clearTimeout(saving);
    saving = undefined;
    // A page may be denied storage, or have filled it: then the only effect is that a reload does not resume.
    if (storage && place.size) guarded(() => sessionStorage.setItem(storage, position()));
  }

  function moved() {
    if (storage && !closed) saving ??= setTimeout(save, SAVE_MS);
  }

  function passed(id) {
    if (id) enter({ pairs: parsePosition(id), isDone: true });
  }

  /** Note a received item: `place` takes its pairs once it and everything before it are done. */
  function enter(entry) {
    if (acks && hasBegun) for (const pair of entry.pairs) reach(...pair);
    hasBegun = true;
    order.push(entry);
    advance();
  }

  function advance() {
    while (order[0]?.isDone) {
      const entry = order.shift();
      for (const pair of entry.pairs) raise(place, ...pair);
      if (arrived.get(entry.name) >= entry.offset) acknowledge(entry.name, entry.offset);
    }
    moved();
  }

  function take({ id, ...record }, digits) {
    worked = true;
    const name = nameOf(record);
    if (!(Number.isInteger(record.offset) && record.offset >= 0)) throw new Error("a record without an offset");
    if (!Number.isInteger(record.timestamp ?? 0)) throw new Error("a record with a wrong timestamp");
    const [own, partition = name, exact = digits ?? record.offset] = OWN_PAIR.exec(id) ?? [];
    const offset = BigInt(exact);
    const isOther = partition !== name || Number(offset) !== record.offset || !(own || !id || id.startsWith(`${record.topic}:~`));
    if (isOther) throw new Error(`an id that does not begin with its record's ${name}=${record.offset}`);
    record = { id: own ? id : `${name}=${offset}`, ...record };
    const pairs = [[name, offset]];
    if (id && id !== own) {
      const others = name + id.slice(own?.length);
      if (suffix !== others) pairs.unshift(...parsePosition(id));
      suffix = others;
    }
    if (acks) {
      keep(arrived, name, offset);
      reach(name, offset, offset);
    }
    if (seen.get(name) >= offset) {
      if (acks) again(name, offset);
      return enter({ pairs, isDone: true });
    }
    keep(seen, name, offset);
    if (!acks) {
      enter({ pairs, isDone: true });
      return call(onRecord, record);
    }
    const entry = { pairs, name, offset };
    enter(entry);
    const fail = (error) => {
      report(error);
      refuse(entry, error);
    };
    guarded(() => {
      const work = onRecord?.(record);
      if (work?.then) Promise.resolve(work).then(() => settle(entry), fail);
      else settle(entry);
    }, fail);
  }

  // Acknowledgements.

  function settle(entry) {
    entry.isDone = true;
    advance();
  }

  function refuse(entry, error) {
    if (entry.isDone) return;
    const pair = `${entry.name}=${entry.offset}`;
    const reason = guarded(() => String(error?.message ?? error)) ?? ""; // anything can be thrown
    // Half a character, from the page or from the cut, would make JSON that some servers do not read.
    entry.reason = reason.slice(0, MAX_REASON_CHARACTERS).replace(/\p{Cs}/gu, "\ufffd");
    refused.set(pair, entry);
    if (hasReached(entry)) sayRefused(pair, entry.reason);
    if (isElsewhere(entry)) leave(pair);
  }

  function sayRefused(id, reason) {
    say?.({ type: "nack", id, reason });
  }

  /** Handle a repeated record: the server does not know whether it is done. */
  function again(name, offset) {
    const pair = `${name}=${offset}`;
    const reason = refused.get(pair)?.reason ?? left.get(pair);
    if (reason !== undefined) sayRefused(pair, reason);
    else if (place.get(name) >= offset) acknowledge(name, offset);
  }

  function answered(id, isStored) {
    const entry = refused.get(id);
    if (!isStored) return entry && hasReached(entry) && leave(id);
    refused.delete(id);
    left.delete(id);
    if (entry) settle(entry);
  }

  /** Let the run pass a refused record without acknowledging it, and remember the refusal. */
  function leave(pair) {
    const entry = refused.get(pair);
    if (!entry) return;
    left.set(pair, entry.reason);
    if (left.size > MAX_LEFT) left.delete(left.keys().next().value);
    forget(entry);
    advance();
  }

  function leaveIf(isLeft) {
    for (const [pair, entry] of refused) if (isLeft(entry)) leave(pair);
  }

  /** Refuse what waited: records that have not arrived do not come any more. The one that comes `now` is for `again`. */
  function reach(name, offset, now) {
    if (hasReached({ name, offset })) return;
    keep(reached, name, offset);
    const entries = ahead[name];
    while (entries?.at(-1)?.offset <= offset) {
      const entry = entries.pop();
      const pair = `${name}=${entry.offset}`;
      if (refused.has(pair) && entry.offset !== now) sayRefused(pair, entry.reason);
    }
  }

  function hasReached({ name, offset }) {
    return reached.get(name) >= offset;
  }

  function isElsewhere({ name }) {
    return here?.has(name) === false;
  }

  /** Acknowledge nothing for a record: in a log that has replaced its own, its offset would name another record. */
  function forget(entry) {
    refused.delete(`${entry.name}=${entry.offset}`);
    entry.isDone = true;
    entry.name = undefined;
  }

  function acknowledge(name, offset) {
    raise(due, name, offset);
    acknowledging ??= setTimeout(sendAcks, ACK_MS);
  }

  /** Sends nothing without a connection: the server sends again whatever was not acknowledged, even before `place`. */
  function sendAcks() {
    clearTimeout(acknowledging);
    acknowledging = undefined;
    if (due.size) say?.({ type: "ack", id: position(due) });
    due.clear();
  }

  function miss(gap, text) {
    const partition = nameOf(gap);
    const to = BigInt(/"to":\s*(-1|\d+)/.exec(text)?.[1] ?? MAX_OFFSET + 1n);
    const isGap = Number.isInteger(gap.from) && gap.from >= 0 && Number(to) === gap.to && to <= MAX_OFFSET;
    if (!isGap) throw new Error("a gap without offsets");
    if (gap.reason === "recreated") {
      // Offsets start over in the new log, and unfinished records of the old one cannot arrive again.
      move(seen, partition, to);
      move(place, partition, to);
      for (const entry of order) {
        entry.pairs = [...entry.pairs].filter(([own]) => own !== partition);
        if (entry.name === partition) forget(entry);
      }
      due.delete(partition);
      arrived.delete(partition);
      reached.delete(partition);
      delete ahead[partition];
      for (const pair of left.keys()) if (pair.startsWith(`${partition}=`)) left.delete(pair);
    }
    leaveIf(({ name, offset }) => name === partition && offset >= gap.from && offset <= to);
    enter({ pairs: [[partition, to]], isDone: true });
    suffix = undefined;
    call(onGap, gap);
  }

  /** The digits of offsets above 2^53, which JSON.parse has rounded, if no id has them. */
  function exactly(records, text) {
    if (records.every(({ id, offset }) => id || Number.isSafeInteger(offset))) return [];
    const digits = [...text.matchAll(OFFSETS)].map(([, offset]) => offset);
    return digits.length === records.length ? digits : [];
  }

  /** The partition of a record or a gap: names are used in the next request, so only what Kafka allows is accepted. */
  function nameOf({ topic, partition }) {
    const isName = typeof topic === "string" && TOPIC.test(topic) && isPartition(partition);
    if (!isName) throw new Error("a wrong topic or partition");
    return `${topic}:${partition}`;
  }

  // What the server says, over either transport.

  /** Types and members that only a later version knows are ignored. */
  function hear(type, message, id, text) {
    worked = true;
    if (type === "heartbeat" || type === "records") passed(id);
    else if (type === "state") {
      const { state, replica, assigned, partitions, scope, resumable, degraded, repeats, heartbeat_seconds: seconds } = message;
      if (typeof state !== "string") throw new Error("a state without a name");
      const lists = [...Object.values(assigned ?? {}), Object.values(partitions ?? {})];
      const areMaps = [assigned, partitions].every((each) => typeof (each ?? {}) === "object" && !Array.isArray(each));
      const areNumbers = lists.every((list) => Array.isArray(list) && list.every(isPartition));
      const areRanges = [...(repeats ?? [])].every((one) => nameOf(one) && one.from <= one.to);
      if (!areMaps || !areNumbers || !areRanges) throw new Error("a state with wrong partitions");
      passed(id);
      const names = Object.entries(assigned ?? {}).flatMap(([topic, list]) => list.map((number) => `${topic}:${number}`));
      here = scope === "replica" ? new Set(names) : undefined;
      leaveIf(isElsewhere);
      livesSince ??= Date.now();
      wasRefused = false;
      if (seconds > 0 && seconds < 86_400) heartbeatMs = seconds * 1000;
      tell(state === "streaming" ? "live" : state, undefined, { replica, assigned: assigned ?? {}, partitions, scope, resumable, degraded, repeats });
    } else if (type === "gap") {
      miss(message, text);
    } else if (type === "nacked") answered(message.id, message.dead_letter !== false);
    else if (type === "goodbye") {
      const { code, reason, retry_ms } = message;
      if (!Number.isInteger(code)) throw new Error("a goodbye without a code");
      finish(`${reason ?? "the server gave no reason"} (${code})`, code, code === 4408 ? 0 : retry_ms);
    }
  }

  function alive() {
    heardAt = Date.now();
    restore?.();
  }

  /** Data that has arrived meanwhile is read late, so the wait must not count as the server's silence. */
  async function rest(pace, signal) {
    await pace.rest();
    if (!signal.aborted) alive();
  }

  function opened() {
    if (place.size) tell("catching-up");
  }

  function address(name) {
    const { topics = [], since, scope, observe, last, decode, window, windowBytes, keys = [], recordHeaders, fields, filter } = options;
    const target = new URL(url, globalThis.location?.href);
    const query = target.searchParams;
    if (!/^(http|ws)s?:$/.test(target.protocol)) throw new Error(`an address of a dispatcher cannot begin with ${target.protocol}`);
    target.protocol = target.protocol.replace(/^ws/, "http"); // fetch takes no other
    target.pathname = target.pathname.replace(/(\/(events|ws)?)?$/, `/${name}`);
    for (const topic of [topics].flat()) query.append("topic", topic);
    const acking = { ack: ack && "client", window, window_bytes: windowBytes };
    const given = { scope, observe: observe === undefined ? observe : +observe, last, decode, ...acking };
    for (const [parameter, value] of Object.entries(given)) {
      if (value !== undefined) query.set(parameter, value);
    }
    for (const key of [keys].flat()) query.append("key", key);
    for (const [parameter, byName] of Object.entries({ header: recordHeaders, field: fields })) {
      for (const [own, values] of Object.entries(byName ?? {})) {
        if (!own || own.includes(":")) throw new Error(`${parameter} "${own}": use filter for a name that is empty or has a colon`);
        for (const value of [values].flat()) query.append(parameter, `${own}:${value}`);
      }
    }
    if (filter !== undefined) query.set("filter", typeof filter === "string" ? filter : JSON.stringify(filter));
    if (since !== undefined) query.set("since", since instanceof Date ? +since : since);
    const isLater = beganAt && !place.size && !query.has("last"); // "now" means the time of the first attempt
    if (isLater && (query.get("since") ?? "now") === "now") query.set("since", Math.max(0, beganAt + aheadMs));
    beganAt ??= Date.now();
    return target;
  }

  /** The response to a request for events. The page's own headers are not sent to another origin after a redirect. */
  async function request(target, signal, token) {
    const id = position();
    let { headers } = options;
    const { credentials } = options;
    if (token) headers = { Authorization: `Bearer ${token}`, ...headers };
    for (let redirects = 0; ; redirects += 1) {
      const user = target.username && decodeURIComponent(target.username);
      const password = decodeURIComponent(target.password);
      target.username = target.password = "";
      if (user) headers = { Authorization: `Basic ${btoa(`${user}:${password}`)}`, ...headers };
      const response = await fetch(target, {
        headers: { Accept: "text/event-stream", ...headers, ...(id && { "Last-Event-ID": id }) },
        credentials,
        cache: "no-store",
        redirect: headers ? "manual" : "follow",
        signal,
      });
      if (response.type !== "opaqueredirect" && ![301, 302, 303, 307, 308].includes(response.status)) return response;
      if (redirects === MAX_REDIRECTS) return finish("too many redirects", 4400);
      // Browsers do not say where a redirect leads, but if they follow it, they report the URL they arrived at.
      const there = new URL((await fetch(target, { method: "HEAD", credentials, cache: "no-store", signal })).url);
      if (there.origin !== target.origin) headers = undefined;
      target = there;
    }
  }

  async function viaEvents(target, signal, token) {
    target.searchParams.set("format", "envelope");
    const response = await request(target, signal, token);
    if (signal.aborted) return;
    const { status } = response;
    const serverMs = Date.parse(response.headers.get("Date"));
    if (serverMs) aheadMs = serverMs - Date.now() - DATED_MARGIN_MS;
    const type = response.headers.get("Content-Type") ?? "nothing";
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    if (status !== 200 || !type.startsWith("text/event-stream") || !reader) {
      let reason = status === 200 ? `the response is ${type}, not an event stream` : `HTTP ${status}`;
      if (type.includes("json")) reason += await detailOf(reader);
      const passes = status >= 500 || [408, 425, 429].includes(status);
      return finish(reason, passes ? 0 : status === 401 ? 4401 : 4400, retryAfterMs(response.headers, serverMs));
    }
    alive();
    opened();
    const parse = eventParser(signal);
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return; // `finish` may already belong to a later attempt
      if (done) return finish("the stream ended");
      alive();
      await parse(value).catch(strange);
    }
  }

  /** The reason in a problem document (RFC 9457), if the body is one: it may be anything, from any server. */
  async function detailOf(reader) {
    let text = "";
    try {
      for (let part = await reader.read(); !part.done && text.length < MAX_BODY_CHARACTERS; part = await reader.read()) {
        text += part.value;
      }
      const { detail, title } = JSON.parse(text);
      return typeof (detail || title) === "string" ? `: ${(detail || title).slice(0, MAX_REASON_CHARACTERS)}` : "";
    } catch {
      return "";
    }
  }

  /** `Retry-After` in seconds, or as a date, which is relative to the date of the same response. */
  function retryAfterMs(headers, serverMs) {
    const value = headers.get("Retry-After") ?? "";
    if (/^\d+(\.\d+)?$/.test(value)) return value * 1000;
    const ms = Date.parse(value) - serverMs;
    return Number.isNaN(ms) ? undefined : ms;
  }

  /** Takes text in pieces that may be cut anywhere, and passes on the events in it. */
  function eventParser(signal) {
    let begun = []; // the beginning of a line
    let held = 0; // approximate number of characters of the incomplete event
    let cr = false; // the last piece ended with \r: a \n at the beginning of the next one belongs to it
    let id, type, data;
    const pace = new Pace();
    function dispatch() {
      if (type === undefined || type === "message") {
        if (data !== undefined) {
          const record = { ...JSON.parse(data), id };
          take(record, exactly([record], data)[0]);
        } else passed(id);
      } else if (["state", "gap", "goodbye"].includes(type) && data !== undefined) {
        hear(type, JSON.parse(data), id, data);
      }
    }
    async function read(text) {
      const lines = (cr && text.startsWith("\n") ? text.slice(1) : text).split(/\r\n?|\n/);
      cr = text.endsWith("\r");
      // Joined only once the line is complete: a long line may arrive in thousands of pieces.
      begun.push(lines[0]);
      held += text.length;
      if (lines.length > 1) {
        lines[0] = begun.join("");
        begun = [lines.pop()];
      } else lines.pop();
      for (const line of lines) {
        if (signal.aborted) return;
        if (!line) {
          dispatch();
          if (pace.isTired) await rest(pace, signal);
          id = type = data = undefined;
          held = begun[0].length;
          continue;
        }
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
        if (name === "data") data = data === undefined ? value : `${data}\n${value}`;
        else if (name === "id" && !value.includes("\0")) id = value;
        else if (name === "event") type = value;
        else if (name === "retry" && /^\d+$/.test(value)) retryMs = Math.min(value, MAX_RETRY_MS);
      }
      if (held > MAX_EVENT_CHARACTERS) finish("an event of more than 64 million characters", 4400);
    }
    return async (text) => {
      pace.begin();
      for (let n = 0; n < text.length && !signal.aborted; n += PIECE_CHARACTERS) {
        await read(text.slice(n, n + PIECE_CHARACTERS));
        if (pace.isTired) await rest(pace, signal);
      }
      pace.end();
    };
  }

  async function viaWebSocket(target, signal, token) {
    const hopeless = transport === "auto" ? 0 : 4400; // "auto" tries an event stream next
    if (!globalThis.WebSocket) return finish("this runtime has no WebSocket: use transport sse", hopeless);
    if (target.username) return finish("a WebSocket cannot send the user and password of an address", hopeless);
    target.protocol = target.protocol.replace("http", "ws");
    const id = position();
    if (id) target.searchParams.set("last_event_id", id);
    const protocols = ["dispatcher.v1.json"];
    // A browser's WebSocket can send no header but this one; the server never echoes it.
    if (token) protocols.push(`dispatcher.bearer.${btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
    const socket = new WebSocket(target, protocols);
    socket.onopen = () => {
      say = (message) => socket.readyState === 1 && socket.send(JSON.stringify(message));
      alive();
      opened();
    };
    const pace = new Pace();
    let waiting = 0;
    let reading = Promise.resolve(); // reads messages one after the other
    async function read(data) {
      if (typeof data !== "string") throw new Error("a binary message");
      const { type, ...message } = JSON.parse(data);
      if (type === "expiring" && isFresh) {
        // If there is no token now, the stream ends when the old one expires, and the next attempt asks again.
        freshToken().then((token) => signal.aborted || say({ type: "token", token }), () => {});
      }
      const records = type === "records" ? message.records : [];
      const digits = exactly(records, data);
      for (const [n, record] of records.entries()) {
        if (signal.aborted) return;
        take(record, digits[n]);
        if (pace.isTired && waiting - data.length < MAX_WAITING_CHARACTERS) await rest(pace, signal);
      }
      if (!signal.aborted) hear(type, message, message.id, data);
    }
    async function readNext(data) {
      if (signal.aborted) return;
      pace.begin();
      await read(data).catch(strange);
      pace.end();
      waiting -= data.length;
    }
    socket.onmessage = ({ data }) => {
      alive();
      if (data.length > MAX_EVENT_CHARACTERS) return finish("a message of more than 64 million characters", 4400);
      waiting += data.length;
      reading = reading.then(() => readNext(data));
    };
    socket.onclose = ({ code, reason }) => {
      const words = reason ? `${reason} (${code})` : `the connection ended (${code})`;
      reading.then(() => signal.aborted || finish(words, code)); // `finish` may already belong to a later attempt
    };
    socket.onerror = () => {
      socket.onclose = null; // it would be called next, without a reason
      reading.then(() => unreached(signal));
    };
    signal.addEventListener("abort", () => {
      sendAcks();
      say = undefined;
      arrived.clear();
      reached.clear();
      ahead = {};
      for (const entry of [...order].reverse()) if (!entry.isDone) (ahead[entry.name] ??= []).push(entry);
      hasBegun = false;
      here = undefined;
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close();
    });
  }

  /** Ends an attempt that may have been refused because of the page's origin: browsers tell the page only "failed". */
  async function unreached(signal, error) {
    const { headers, credentials } = options;
    const { host, origin } = address("events");
    const own = globalThis.location?.origin;
    const answers = (name, init) => fetch(address(name), { ...init, signal }).then(() => true, () => false);
    let reason = "no connection";
    // Node gives the reason, browsers only "Failed to fetch". An error with a code comes from the network.
    if (!own && error && !error.cause?.code) reason += `: ${error.cause?.message ?? error.message}`;
    if (
      own &&
      own !== origin &&
      !(await answers("events", { method: "HEAD", headers, credentials })) &&
      (await answers("livez", { mode: "no-cors" }))
    ) {
      reason += `, probably CORS: is ${own} in allowed_origins of ${host}?`;
    }
    if (!signal.aborted) finish(reason);
  }

  function strange(error) {
    finish(`the message could not be read: ${error.message}`);
  }

  // Tokens.

  /** A function is called before each attempt; it may return a promise. */
  async function freshToken() {
    const { token } = options;
    return isFresh ? token() : token;
  }

  /** Takes a place for an event stream until the attempt ends. Without Web Locks there is always one. */
  async function hasPlace(signal) {
    const { location, navigator } = globalThis;
    const target = guarded(() => new URL(url, location.href));
    if (!target || !navigator?.locks) return true;
    for (let n = 0; n < MAX_EVENT_STREAMS; n += 1) {
      const isFree = await new Promise((resolve) => {
        const hold = (lock) => {
          resolve(lock && !signal.aborted);
          return lock && !signal.aborted && new Promise((release) => signal.addEventListener("abort", release));
        };
        // Browsers that deny a page storage deny it locks, too.
        navigator.locks.request(`kafka-dispatcher ${target.origin} ${n}`, { ifAvailable: true }, hold).catch(() => resolve(true));
      });
      if (isFree || signal.aborted) return isFree;
    }
    return false;
  }

  async function begin(signal) {
    if (transport === "auto" && !overWebSocket) {
      const isFree = await hasPlace(signal);
      if (signal.aborted) return;
      overWebSocket = !isFree && didWebSocket !== false && !options.headers; // a WebSocket could not send those
    }
    const via = overWebSocket ? viaWebSocket : viaEvents;
    const target = guarded(
      () => address(overWebSocket ? "ws" : "events"),
      (error) => finish(error.message, 4400),
    );
    if (!target) return;
    let token;
    try {
      token = await freshToken();
    } catch (error) {
      return finish(`no token: ${error?.message ?? error}`);
    }
    if (!signal.aborted) return via(target, signal, token);
  }

  // Attempts, one after the other.

  function attempt() {
    return new Promise((resolve) => {
      const abort = new AbortController();
      let watching;
      worked = false;
      livesSince = undefined;
      finish = (reason, code = 0, waitMs, isSilent = false) => {
        if (abort.signal.aborted) return;
        clearTimeout(watching);
        abort.abort();
        // A function may have a better token, once in a row.
        const mayRenew = code === 4401 && isFresh && !wasRefused;
        wasRefused ||= mayRenew;
        resolve({ reason, waitMs, isSilent, isFinal: FOR_GOOD.includes(code) && !mayRenew });
      };
      function watch() {
        // The wall clock goes on while a laptop sleeps, so the first check after that finds a long silence.
        const now = Date.now();
        const silentMs = now - heardAt;
        const limitMs = Math.min(2 * heartbeatMs, worked ? Infinity : OPEN_MS);
        if (silentMs < 0) heardAt = now; // the clock was set back
        if (silentMs >= limitMs) finish(`no data for ${Math.round(silentMs / 1000)} s`, 0, undefined, true);
        else watching = setTimeout(watch, Math.min(limitMs - silentMs, 1000));
      }
      heardAt = Date.now();
      watch();
      begin(abort.signal).catch((error) => abort.signal.aborted || unreached(abort.signal, error));
    });
  }

  async function run() {
    await null; // the page gets the stream before any callback is called
    let failures = 0;
    let short = 0; // attempts in a row whose stream did not live for a while
    if (!closed) tell("connecting", "requesting a stream");
    if (!closed && wrong) {
      tell("closed", wrong);
      return close();
    }
    while (!closed) {
      const { reason, waitMs, isSilent, isFinal } = await attempt();
      if (closed) return;
      if (isFinal) {
        tell("closed", reason);
        return close();
      }
      failures = worked ? 0 : failures + 1;
      if (Date.now() - livesSince >= LIVED_MS) short = 0;
      short += 1;
      // A proxy that buffers looks like a silent server.
      // If no WebSocket has ever worked, the attempt after one is an event stream, whether a place is free or not.
      if (overWebSocket && !didWebSocket) didWebSocket = worked;
      else if (!didWebSocket) didWebSocket = undefined;
      if (transport === "auto" && !acks && !worked) overWebSocket = !overWebSocket && isSilent;
      const isAsked = waitMs > 0 || (waitMs <= 0 && short === 1); // zero is asked of clients that were too slow
      let retry_ms = isAsked
        ? Math.min(Math.max(waitMs, 0), MAX_ASKED_MS)
        : Math.random() * Math.min(MAX_RETRY_MS, retryMs * 2 ** Math.min(short - (worked ? 1 : 0), 30));
      if (short > QUICK_ATTEMPTS) retry_ms = Math.max(retry_ms, FLOOR_MS * (1 + Math.random()));
      retry_ms = Math.round(retry_ms);
      tell(globalThis.navigator?.onLine === false ? "offline" : "reconnecting", reason, { retry_ms, failures });
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, retry_ms);
        hurry = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      hurry = undefined;
    }
  }

  const listeners = {
    offline() {
      const { state, reason, transport: _, ...more } = told;
      tell("offline", "the browser is offline", more);
      restore = hurry ? undefined : () => tell(state, reason, more);
    },
    online() {
      if (hurry) hurry();
      else if (restore) finish("the network is back", 0, 0);
    },
    pagehide() {
      sendAcks();
      save();
    },
  };

  function close() {
    if (closed) return;
    closed = true;
    if (storage) streams.delete(storage);
    for (const name in listeners) globalThis.removeEventListener?.(name, listeners[name]);
    save();
    finish?.("");
    hurry?.();
  }

  if (storageKey !== undefined && streams.has(`${storageKey}`)) {
    report(new Error(`another stream of this page keeps its position under storageKey ${storageKey}: this one keeps none`));
  } else if (storageKey) streams.add((storage = `${storageKey}`));
  const stored = options.position ?? (storage && guarded(() => sessionStorage.getItem(storage)));
  let wrong; // why the options cannot be used: to begin anywhere but at the page's position would lose records
  guarded(
    () => {
      for (const map of [place, seen]) for (const [partition, offset] of pairsOf(stored)) map.set(partition, offset);
    },
    (error) => (wrong = options.position && `position: ${error.message}`),
  );
  if (acks && ack !== "auto") wrong = `ack ${ack} is unknown: use "auto"`;
  if (acks && transport === "sse") wrong = "server-sent events cannot be acknowledged: use transport websocket";
  for (const name in listeners) globalThis.addEventListener?.(name, listeners[name]);
  run();
  return {
    close,
    get position() {
      return position();
    },
  };
}
