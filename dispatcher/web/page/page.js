// The live page: which records arrive, how fast, how late, and what the replica is doing. Everything from a record is text.
//
// `?topic=…`, `?since=…`, `?transport=sse|websocket`, `?scope=…` in the page's address are passed on to the stream, and so
// are filters (filter_box.js). Unless the viewer takes part (`?observe=0`), the page only observes the whole topic: records sent to it move no offset.

import { describeState } from "./badge.js";
import { subscribe } from "./client.js";
import { filterOf, readFilter, spellFilter, withFilter } from "./filter_box.js";
import { Series, plot } from "./plots.js";
import { Records } from "./records.js";
import { Status, count } from "./status.js";
import { duration, readTimestamp } from "./times.js";
import { Timeline } from "./timeline.js";

const MOST_LATENCIES = 2000;
const SETTLED_MS = 500;
const STATE_MS = 100; // minimum time between two states that are shown
const STORAGE_KEY = "dispatcher position";

const at = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const observes = query.get("observe") !== "0";
const scope = query.get("scope") ?? (observes ? "topic" : undefined);
const filter = filterOf(query); // what the replica filters by
const records = new Records(at("records"));
const timeline = new Timeline(at("timeline"), at("events"));
const status = new Status(() => shown?.degraded && showBadge(), {
  partitions: at("partitions"),
  note: at("partitions-note"),
  lag: at("lag"),
  lagNote: at("lag-note"),
  subscribers: at("subscribers"),
  subscribersNote: at("subscribers-note"),
  bar: at("subscribers-bar"),
});

// The stream.

let seen = 0;
let thisSecond = 0;
let latencies = [];
let state = "connecting";
let before; // the previous assignment: replica and partitions
let saying;
let newest; // the state that is shown next
let shown; // and the one that is
let said = ""; // its words
let trouble = ""; // and how much of it is wrong
let shownAt = -Infinity;
let topics = [];

function onRecord(record) {
  seen += 1;
  thisSecond += 1;
  // Records that were written before the page was opened say nothing about latency.
  const written = readTimestamp(record.timestamp);
  if (state === "live" && written && latencies.length < MOST_LATENCIES) {
    latencies.push(Math.max(0, Date.now() - written.ms));
  }
  records.add(record);
}

/** Of a burst of states only the last is shown, because showing one costs layout. */
function onState(told) {
  state = told.state;
  if (told.repeats?.length) sentAgain(told.repeats);
  const isWaiting = newest !== undefined;
  newest = told;
  if (isWaiting) return;
  const waitMs = Math.max(0, shownAt + STATE_MS - performance.now());
  if (waitMs) setTimeout(showState, waitMs);
  else showState();
}

function showState() {
  const told = newest;
  newest = undefined;
  shownAt = performance.now();
  const isOther = told.state !== shown?.state;
  shown = told;
  showBadge(isOther);
  if (told.replica === undefined) return;
  status.replica = told.replica;
  status.assigned = told.assigned;
  status.degraded = told.degraded ?? {};
  topics = Object.keys(told.assigned);
  at("stream").classList.toggle("many", topics.length > 1);
  at("replica").textContent = `${told.replica} over ${told.transport === "sse" ? "SSE" : "WebSocket"}`;
  rebalanced(told.replica, told.assigned);
  status.show();
}

/** Show the state, also once `/status` has said more about it; list it as an event if anything has changed. */
function showBadge(isOther = false) {
  const badge = at("badge");
  const [name, sentence] = badge.children;
  const { words, reason, trouble: now } = describeState(shown, status.details);
  const next = shown.retry_ms ? `; next attempt in ${(shown.retry_ms / 1000).toFixed(1)} s` : "";
  badge.dataset.state = shown.state;
  badge.dataset.trouble = now;
  name.textContent = words;
  sentence.textContent = reason + next;
  // Rebalances have lines of their own, and a new number of partitions alone is not a new state.
  if (isOther || ((now || trouble) && words !== said)) {
    timeline.state(shown.state, words, reason, now);
    say(`${words}: ${reason}`);
  }
  said = words;
  trouble = now;
  document.title = shown.state === "live" && !now ? "Dispatcher" : `${now ? words : shown.state} · Dispatcher`;
}

function offerToTakePart() {
  const other = new URLSearchParams(query);
  other.set("observe", observes ? "0" : "1");
  at("switch").href = `?${other}`;
  if (observes) return;
  at("switch").textContent = "only look";
  at("switch").title = "Now it takes part: records sent to this page are committed";
  at("part").textContent = "This page takes part: records sent to it count as dispatched, and are committed.";
}

/** Announce it to people who cannot see the badge: once per state that lasts, not for every attempt or short state. */
function say(words) {
  clearTimeout(saying);
  saying = setTimeout(() => (at("said").textContent = words), SETTLED_MS);
}

function rebalanced(replica, assigned) {
  const partitions = Object.entries(assigned).flatMap(([topic, numbers]) => numbers.map((n) => `${topic}:${n}`));
  const now = { replica, partitions: new Set(partitions) };
  if (before?.replica === replica) {
    const came = partitions.filter((partition) => !before.partitions.has(partition)).length;
    const left = [...before.partitions].filter((partition) => !now.partitions.has(partition)).length;
    if (came || left) {
      const change = [came && `${came} assigned`, left && `${left} revoked`].filter(Boolean).join(", ");
      timeline.mark("rebalance", "rebalance", `${change}: ${replica} has ${count(partitions.length)} now`);
    }
  } else if (before) {
    timeline.mark("rebalance", "another replica", `${replica}, with ${count(partitions.length)} partitions`);
  }
  before = now;
}

function sentAgain([{ topic, partition, from, to }, ...more]) {
  const others = more.length ? ` (and of ${count(more.length)} other partition${more.length > 1 ? "s" : ""})` : "";
  timeline.mark("rebalance", "sent again", `${topic}:${partition}, ${count(from)} to ${count(to)}${others}: not committed`);
}

function onGap({ topic, partition, from, to, reason }) {
  const words = reason === "recreated" ? "the topic was recreated" : `${count(from)} to ${count(to)} are missing`;
  timeline.mark("gap", "gap", `${topic}:${partition}, ${words} (${reason})`);
}

// A position holds no filter, so each filter has its own. Only a reload resumes where the page was: a tab that a browser restores after days would have too much to read.
const storageKey = filter.size ? `${STORAGE_KEY} ${filter}` : STORAGE_KEY;
if (!["reload", "back_forward"].includes(performance.getEntriesByType("navigation")[0]?.type)) {
  try {
    sessionStorage.removeItem(storageKey);
  } catch {
    // No storage, no resuming after a reload.
  }
}
offerToTakePart();
at("filter").value = spellFilter(filter);
subscribe(filter.size ? `./?${filter}` : "./", {
  onRecord,
  onState,
  onGap,
  storageKey,
  topics: query.getAll("topic"),
  scope,
  observe: observes || undefined,
  since: query.get("since") ?? undefined,
  decode: query.get("decode") ?? undefined,
  transport: query.get("transport") ?? "auto",
});

// Figures, once per second.

const rates = new Series();
const medians = new Series();
const worsts = new Series();
const lags = new Series();
let measuredAt = performance.now();

function withUnit(output, [value, unit]) {
  const small = document.createElement("small");
  small.textContent = unit;
  output.replaceChildren(value, small);
}

setInterval(() => {
  const now = performance.now();
  const rate = (thisSecond * 1000) / (now - measuredAt);
  measuredAt = now;
  thisSecond = 0;
  records.rate = rate;
  rates.push(rate);
  at("rate").textContent = count(Math.round(rate));
  at("rate-note").textContent = seen ? `${count(seen)} since the page was opened` : "none yet";
  latencies.sort((a, b) => a - b);
  const median = latencies[Math.floor(latencies.length / 2)] ?? null;
  const worst = latencies[Math.floor(latencies.length * 0.99)] ?? null;
  latencies = [];
  medians.push(median);
  worsts.push(worst);
  if (median !== null) {
    withUnit(at("latency"), duration(median));
    at("latency-note").textContent = `median; 1 in 100 above ${duration(worst).join(" ")}`;
  }
  lags.push(status.lag);
  if (document.hidden) return;
  plot(at("rate-plot"), rates);
  plot(at("latency-plot"), medians, worsts);
  plot(at("lag-plot"), lags);
  timeline.draw();
}, 1000);

// The list, by hand.

const WHY_EMPTY = {
  closed: "The stream is closed; no more records will arrive.",
  waiting: "Other replicas have all partitions. Records arrive when some are assigned to this one.",
  standby: "Nobody takes records from this replica. Records arrive when somebody does.",
  "broker-down": "Records arrive when a Kafka broker can be reached.",
  offline: "Records arrive when the network is back.",
  reconnecting: "Records arrive when a replica answers.",
};

/** The filter in the box: whether it is for the replica, and whether the replica applies it now. */
function typed() {
  const text = at("filter").value;
  const asked = readFilter(text);
  const isRunning = `${asked ?? ""}` === `${filter}`;
  return { text, asked, isRunning };
}

function whyEmpty() {
  if (trouble && shown.state !== "closed") return at("badge").lastElementChild.textContent;
  return WHY_EMPTY[state] ?? "Records appear here as they arrive, newest first.";
}

function describe() {
  const { text, asked, isRunning } = typed();
  at("empty").hidden = at("records").childElementCount > 0;
  if (text && !asked) at("empty").textContent = "No record with this text yet.";
  else at("empty").textContent = whyEmpty();
  const pause = at("pause");
  pause.ariaPressed = String(records.held);
  pause.textContent = records.held ? "Continue" : "Pause";
  if (records.held) at("note").textContent = `paused, ${count(records.waiting)} new`;
  else if (records.sampling > 1) at("note").textContent = `a sample: 1 in ${count(records.sampling)} is shown`;
  else if (!isRunning && (asked || !text)) {
    at("note").textContent = asked ? "Enter: the replica sends only these" : "Enter: the replica sends all again";
  } else if (filter.size) at("note").textContent = `filtered by the replica: ${spellFilter(filter).slice(0, 200)}`;
  else at("note").textContent = topics.length ? `of ${topics.join(", ")}` : "";
}

records.onChange = describe;
setInterval(describe, 500);
at("pause").addEventListener("click", () => records.pause(!records.held));
at("filter").addEventListener("input", () => {
  const { text, asked } = typed();
  records.filter(asked ? "" : text);
  describe();
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target === at("filter");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (isTyping && at("filter").value) {
      at("filter").value = "";
      records.filter("");
      describe();
    } else if (isTyping) at("filter").blur();
    else records.leave();
  } else if (isTyping) {
    const { text, asked, isRunning } = typed();
    if (event.key === "Enter" && !isRunning && (asked || !text)) location.search = withFilter(query, asked ?? []);
  } else if (event.key === "/") {
    event.preventDefault();
    at("filter").focus();
  } else if (event.key === "p") {
    records.pause(!records.held);
  } else if (event.key === "ArrowDown" && !event.target.closest(".row, .rows, .detail")) {
    const first = document.querySelector("#records .row");
    if (first) event.preventDefault();
    first?.focus();
  }
});
