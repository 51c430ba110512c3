// What `/status` tells: partitions, lag, subscribers.
//
// Behind a balancer each answer may come from another replica than the stream: each is shown under its own name, the
// one that the stream comes from first.

const EVERY_MS = 2000;
const STALE_MS = 7000;
const GONE_MS = 30_000;
const MOST_ROWS = 200;
const NOTABLE_LAG = 1000;

const number = new Intl.NumberFormat("en");

/** Text in a new element. */
function made(tag, text, dataset = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  Object.assign(element.dataset, dataset);
  return element;
}

/** A count, or a dash for what nobody knows. */
export function count(value) {
  return value === null || value === undefined || value < 0 ? "–" : number.format(value);
}

/** Asks for the status as long as somebody looks, and shows it. */
export class Status {
  #places;
  #answers = new Map();
  /** The replica at the other end of the stream. */
  replica = "";
  /** Records that are not committed yet, of the replica that the stream comes from. */
  lag = null;

  /** @param places Elements by what they show. */
  constructor(places) {
    this.#places = places;
    document.addEventListener("visibilitychange", () => document.hidden || this.#ask());
    this.#run();
  }

  async #run() {
    for (;;) {
      if (!document.hidden) await this.#ask();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  }

  async #ask() {
    try {
      const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(EVERY_MS) });
      if (answer.ok) {
        const status = await answer.json();
        this.#answers.set(status.replica, { status, at: Date.now() });
      }
    } catch {
      // The badge tells that the connection is lost; what was known before is shown pale.
    }
    this.show();
  }

  /** Show what is known. */
  show() {
    const now = Date.now();
    for (const [replica, { at }] of this.#answers) if (now - at > GONE_MS) this.#answers.delete(replica);
    const own = this.#answers.get(this.replica) ?? this.#answers.values().next().value;
    const all = [...this.#answers.values()].sort((a, b) => (b === own) - (a === own));
    this.lag = own ? total(own.status.partitions, "lag") : null;
    if (own) this.#figures(own.status);
    const { partitions: place } = this.#places;
    const scrolled = [...place.querySelectorAll(".rows")].map((rows) => [rows.scrollTop, rows === document.activeElement]);
    place.replaceChildren(...all.map((answer) => this.#group(answer, answer === own, now)));
    for (const [index, rows] of place.querySelectorAll(".rows").entries()) {
      const [top, isFocused] = scrolled[index] ?? [0, false];
      rows.scrollTop = top;
      if (isFocused) rows.focus({ preventScroll: true });
    }
    const { note } = this.#places;
    note.hidden = all.some(({ status }) => status.partitions.length);
    note.textContent = all.length ? "This replica has no partition now." : "not known yet";
  }

  #figures({ subscribers, partitions, records }) {
    const { lag, lagNote, subscribers: figure, subscribersNote, bar } = this.#places;
    lag.textContent = count(this.lag);
    const paused = partitions.filter((partition) => partition.paused).length;
    lagNote.textContent = `${count(records.waiting)} waiting for a subscriber, ${paused ? `${paused} paused` : "nothing paused"}`;
    const live = subscribers.live ?? 0;
    const behind = subscribers["catching-up"] ?? 0;
    figure.textContent = count(subscribers.total);
    subscribersNote.textContent = `${count(live)} live, ${count(behind)} catching up`;
    const [first, second] = bar.children;
    first.style.flexBasis = `${(100 * live) / (live + behind || 1)}%`;
    second.style.flexBasis = `${(100 * behind) / (live + behind || 1)}%`;
  }

  #group({ status, at }, isOwn, now) {
    const group = made("div");
    const isHere = isOwn && status.replica === this.replica;
    group.className = `partitions${isHere ? "" : " elsewhere"}${now - at > STALE_MS ? " stale" : ""}`;
    const title = made("h3", status.replica);
    title.append(made("span", isHere ? "sends to this page" : "another replica"));
    const cells = made("div");
    cells.className = "cells";
    cells.ariaHidden = true;
    for (const partition of status.partitions) {
      // What is committed is always a moment behind: that alone is no lag to be shown.
      const isBehind = partition.waiting_records > 0 || partition.lag >= NOTABLE_LAG;
      const tone = partition.paused ? "paused" : isBehind ? "behind" : "here";
      const cell = made("i", undefined, { tone });
      cell.title = `${partition.topic}:${partition.partition}, lag ${count(partition.lag)}`;
      cells.append(cell);
    }
    group.append(title, cells);
    if (status.partitions.length) group.append(table(status.partitions));
    return group;
  }
}

function table(partitions) {
  const rows = made("div");
  rows.className = "rows";
  rows.tabIndex = 0;
  rows.role = "region";
  rows.ariaLabel = "Partitions";
  const head = made("tr");
  for (const name of ["", "position", "committed", "lag", "waiting"]) head.append(made("th", name));
  const body = made("tbody");
  const topics = new Set(partitions.map(({ topic }) => topic));
  for (const partition of partitions.slice(0, MOST_ROWS)) {
    const { topic, partition: own, position, committed, lag, waiting_records: waiting, paused } = partition;
    const row = made("tr");
    const name = made("td", topics.size > 1 ? `${topic}:${own}` : own);
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
