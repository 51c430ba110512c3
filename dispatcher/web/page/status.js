// What `/status` reports: partitions, lag, subscribers.
//
// Behind a load balancer, an answer may be from a different replica than the stream. Each replica is shown by name,
// the stream's own first. The stream itself says which partitions its replica has.

import { clock } from "./timeline.js";

const EVERY_MS = 2000;
const STALE_MS = 7000;
const GONE_MS = 30_000;
const REFUSED_MS = 30_000;
const MOST_ROWS = 200;
const NOTABLE_LAG = 1000;
const EXPIRES_SECONDS = 3600; // as in the alert RecordsExpireSoon
const WAITS_SECONDS = 60; // records that have waited for less are passing through, however short the topic's retention
const HERE = "sends to this page";

const number = new Intl.NumberFormat("en");

/** Text in a new element. */
function made(tag, text, dataset = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  Object.assign(element.dataset, dataset);
  return element;
}

/** A count, or a dash if it is unknown. */
export function count(value) {
  return value === null || value === undefined || value < 0 ? "–" : number.format(value);
}

/** Requests the status while the page is visible, and shows it. */
export class Status {
  #onShow;
  #places;
  #answers = new Map();
  #refused = 0; // the HTTP status, if `/status` is refused here
  /** The replica at the other end of the stream. */
  replica = "";
  /** Its partitions, by topic. */
  assigned = {};
  /** What is wrong with topics of the stream, by topic. */
  degraded = {};
  /** How many records the stream's replica has not committed yet. */
  lag = null;

  /**
   * @param onShow Called when there may be news about what is wrong.
   * @param places The elements, by what they show.
   */
  constructor(onShow, places) {
    this.#onShow = onShow;
    this.#places = places;
    document.addEventListener("visibilitychange", () => document.hidden || this.#askForOwn());
    this.#run();
  }

  /** What is wrong with topics of the stream and what to do, by topic, as its replica says. */
  get details() {
    const told = Object.entries(this.#answers.get(this.replica)?.status.topic_health ?? {});
    return Object.fromEntries(
      told.filter(([topic, { reason, detail }]) => detail && reason === this.degraded[topic]).map(([topic, { detail }]) => [topic, detail]),
    );
  }

  async #run() {
    for (;;) {
      if (!document.hidden) await this.#askForOwn().catch(reportError); // a later request may succeed
      await new Promise((resolve) => setTimeout(resolve, this.#refused ? REFUSED_MS : EVERY_MS));
    }
  }

  /** Ask until the stream's own replica has answered, or one answers for the second time. */
  async #askForOwn() {
    const answered = new Set([undefined]);
    for (;;) {
      const replica = await this.#ask();
      if (answered.has(replica) || replica === this.replica || !this.replica) return;
      answered.add(replica);
    }
  }

  async #ask() {
    try {
      const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
      this.#refused = answer.status >= 400 && answer.status < 500 ? answer.status : 0;
      if (answer.ok) {
        const status = await answer.json();
        this.#answers.set(status.replica, { status, at: Date.now() });
        try {
          this.show();
          this.#onShow();
        } catch (error) {
          this.#answers.delete(status.replica); // from another kind of server, or from a later version
          throw error;
        }
        return status.replica;
      }
    } catch {
      // The badge says that the connection is lost; the last known figures are shown pale.
    }
    this.show();
    return undefined;
  }

  /** Show what is known. */
  show() {
    const now = Date.now();
    for (const [replica, { at }] of this.#answers) if (now - at > GONE_MS) this.#answers.delete(replica);
    const own = this.#answers.get(this.replica);
    const all = [...this.#answers.values()].sort((a, b) => (b === own) - (a === own));
    // A sum that leaves out the partitions with an unknown lag would be wrong.
    this.lag = own?.status.partitions.every(({ lag }) => lag !== null) ? total(own.status.partitions, "lag") : null;
    if (own) this.#figures(own.status);
    const { partitions: place, lag, subscribers } = this.#places;
    for (const figure of [lag, subscribers]) figure.parentElement.classList.toggle("stale", now - own?.at > STALE_MS);
    const scrolled = [...place.querySelectorAll(".rows")].map((rows) => [rows.scrollTop, rows === document.activeElement]);
    const others = this.replica ? "another replica" : "";
    place.replaceChildren(...all.map((answer) => group(answer, answer === own ? HERE : others, now)));
    if (!own && this.replica) place.prepend(this.#toldByTheStream());
    for (const [index, rows] of place.querySelectorAll(".rows").entries()) {
      const [top, isFocused] = scrolled[index] ?? [0, false];
      rows.scrollTop = top;
      if (isFocused) rows.focus({ preventScroll: true });
    }
    const { note } = this.#places;
    note.hidden = place.childElementCount > 0 && !this.#refused;
    note.textContent = this.#refused ? `No figures available here: /status answers HTTP ${this.#refused}.` : "not known yet";
  }

  #toldByTheStream() {
    const partitions = Object.entries(this.assigned).flatMap(([topic, numbers]) =>
      numbers.map((partition) => ({ topic, partition })),
    );
    const health = Object.entries(this.degraded).map(([topic, reason]) => [topic, { health: "degraded", reason }]);
    return group({ status: { replica: this.replica, partitions, topic_health: Object.fromEntries(health) }, at: null }, HERE);
  }

  #figures({ subscribers, partitions, records }) {
    const { lag, lagNote, subscribers: figure, subscribersNote, bar } = this.#places;
    lag.textContent = count(this.lag);
    const paused = partitions.filter((partition) => partition.paused).length;
    const unknown = partitions.filter((partition) => partition.lag === null).length;
    const more = unknown ? `unknown for ${count(unknown)} of ${count(partitions.length)}` : paused ? `${paused} paused` : "nothing paused";
    lagNote.textContent = `${count(records.waiting)} waiting for a subscriber, ${more}`;
    const live = subscribers.live ?? 0;
    const behind = subscribers["catching-up"] ?? 0;
    figure.textContent = count(subscribers.total);
    subscribersNote.textContent = `${count(live)} live, ${count(behind)} catching up`;
    const [first, second] = bar.children;
    first.style.flexBasis = `${(100 * live) / (live + behind || 1)}%`;
    second.style.flexBasis = `${(100 * behind) / (live + behind || 1)}%`;
  }

}

/** One replica; while `at` is null, only the names of its partitions are known. */
function group({ status, at }, who, now) {
  const { replica, partitions } = status;
  const element = made("div");
  const isStale = at !== null && now - at > STALE_MS;
  element.className = `partitions${who === HERE ? "" : " elsewhere"}${isStale ? " stale" : ""}`;
  const title = made("h3", replica);
  title.append(made("span", isStale ? `as of ${clock(at)}` : who));
  element.append(title);
  const wrong = troubles(status);
  if (wrong.childElementCount) element.append(wrong);
  if (partitions.length) element.append(strip(partitions));
  else element.append(made("p", whyNone(status, wrong.childElementCount)));
  if (partitions.length && at !== null) element.append(table(partitions, replica));
  const put = delivery(status);
  if (put) element.append(made("p", put, { kind: "delivery" }));
  const known = facts(status);
  if (known.length) element.append(list(known));
  return element;
}

/** More about a replica, as pairs of a name and a text; empty ones are left out. */
function facts({ subscribers = {}, records = {}, partitions, compression }) {
  const kinds = { observers: "only look", filtered: "filter", acknowledging: "acknowledge" };
  const some = Object.entries(kinds).filter(([name]) => subscribers[name]);
  const readers = Object.entries(subscribers.topics ?? {}).map(([topic, one]) => `${topic} ${count(one)}`);
  const settled = sum(Object.values(records.unmatched ?? {}));
  const parked = sum(partitions.map((partition) => partition.parked?.offsets ?? 0));
  const { input_bytes: plain, output_bytes: sent } = compression ?? {};
  const found = [
    ["subscribers", readers.join(", ")],
    ["of them", some.map(([name, verb]) => `${count(subscribers[name])} ${verb}`).join(", ")],
    ["settled", settled && `${count(settled)} records that no subscriber wanted`],
    ["parked", parked && `${count(parked)} records wait in Kafka for a subscriber that may have them`],
    ["compressed", plain && `${count(Math.round(plain / 1000))} kB to ${Math.round((100 * sent) / plain)} %`],
  ];
  return found.filter(([, text]) => text);
}

function list(pairs) {
  const element = made("dl");
  element.className = "facts";
  for (const [name, text] of pairs) element.append(made("dt", name), made("dd", text));
  return element;
}

function sum(numbers) {
  return numbers.reduce((all, one) => all + one, 0);
}

/** What is wrong with topics and the group, with what to do about it. */
function troubles({ group: name, topic_health: topics = {}, group_health: own = {}, partitions, dead_letters: letters = {} }) {
  const list = made("ul");
  list.className = "troubles";
  for (const [subject, { health, reason, detail }] of [...Object.entries(topics), [`group ${name}`, own]]) {
    if (health !== "degraded") continue;
    const item = made("li");
    item.append(made("b", subject), ` ${reason}${detail ? `: ${detail}` : ""}`);
    list.append(item);
  }
  for (const [subject, text] of [...expiring(partitions), ...unwritten(letters)]) {
    const item = made("li");
    item.append(made("b", subject), ` ${text}`);
    list.append(item);
  }
  return list;
}

/** Topics whose waiting records Kafka will soon delete. */
function expiring(partitions) {
  const soonest = new Map();
  for (const { topic, retention_headroom_seconds: left, oldest_waiting_seconds: age } of partitions) {
    if (left !== null && left < EXPIRES_SECONDS && age > WAITS_SECONDS) soonest.set(topic, Math.min(left, soonest.get(topic) ?? left));
  }
  return [...soonest].map(([topic, left]) => [topic, `expires: Kafka deletes waiting records in ${count(Math.ceil(left / 60))} min`]);
}

/** Dead-letter topics that refuse letters. */
function unwritten({ waiting, failing = {} }) {
  return Object.entries(failing).map(([topic, reason]) => [topic, `takes no dead letters, ${count(waiting)} wait: ${reason}`]);
}

/** Acknowledgements and dead letters; empty if there are none of either. */
function delivery({ acks = {}, dead_letters: letters = {} }) {
  const said = [];
  const { subscribers, outstanding_records: outstanding, nacked, timeouts } = acks;
  if (subscribers || nacked || timeouts) {
    said.push(`Acknowledgements: ${count(subscribers)} subscribers, ${count(outstanding)} records outstanding, ${count(nacked)} refused, ${count(timeouts)} timeouts.`);
  }
  if (letters.written || letters.waiting) said.push(`Dead letters: ${count(letters.written)} written, ${count(letters.waiting)} waiting.`);
  return said.join(" ");
}

function whyNone({ joined, broker_reachable: reachable }, isWrong) {
  if (reachable === false) return "No partitions: no Kafka broker can be reached.";
  if (joined === false) return "No partitions: this replica has not joined its group yet.";
  return isWrong ? "No partitions." : "No partitions: other replicas have all of them.";
}

function strip(partitions) {
  const cells = made("div");
  cells.className = "cells";
  cells.role = "img";
  cells.ariaLabel = `${partitions.length} partition${partitions.length === 1 ? "" : "s"}`;
  for (const { topic, partition, waiting_records: waiting, lag, paused } of partitions) {
    // Commits always lag by a moment, which is not worth showing.
    const tone = lag === null ? "unknown" : paused ? "paused" : waiting > 0 || lag >= NOTABLE_LAG ? "behind" : "here";
    const cell = made("i", undefined, { tone });
    cell.title = `${topic}:${partition}, lag ${count(lag)}`;
    cells.append(cell);
  }
  return cells;
}

function table(partitions, replica) {
  const rows = made("div");
  rows.className = "rows";
  rows.tabIndex = 0;
  rows.role = "region";
  rows.ariaLabel = `Partitions of ${replica}`;
  const head = made("tr");
  for (const name of ["partition", "position", "committed", "lag", "waiting"]) head.append(made("th", name));
  const body = made("tbody");
  const topics = new Set(partitions.map(({ topic }) => topic));
  let last;
  for (const partition of partitions.slice(0, MOST_ROWS)) {
    const { topic, partition: own, position, committed, lag, waiting_records: waiting, paused } = partition;
    const row = made("tr");
    if (topics.size > 1 && topic !== last) {
      last = topic;
      const title = made("th", topic);
      title.colSpan = 5;
      title.scope = "rowgroup";
      title.title = topic;
      body.append(made("tr"));
      body.lastChild.append(title);
    }
    const name = made("th", own);
    name.scope = "row";
    name.title = `${topic}:${own}`;
    if (paused) name.append(" ", made("em", "paused"));
    row.append(name, ...[position, committed, lag, waiting].map((value) => made("td", count(value))));
    body.append(row);
  }
  const element = made("table");
  const header = made("thead");
  header.append(head);
  element.append(header, body);
  rows.append(element);
  return rows;
}

function total(partitions, name) {
  return partitions.reduce((sum, partition) => sum + Math.max(0, partition[name] ?? 0), 0);
}
