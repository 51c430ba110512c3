// What has happened in ten minutes: the states of the connection as a band, gaps and rebalances as marks, and a list.

import { colour, fresh } from "./plots.js";

const SPAN_MS = 600_000;
const MOST_SPANS = 500;
const MOST_EVENTS = 40;
const SHOW_MS = 100; // so that a burst of events costs layout only once

const TONES = { live: "accent", "broker-down": "bad", offline: "bad", closed: "bad" };

/** The band, and the list under it. */
export class Timeline {
  #canvas;
  #list;
  #spans = [];
  #marks = [];
  #unshown = []; // events, the newest of them last
  #showing; // the timer of the next draw

  constructor(canvas, list) {
    this.#canvas = canvas;
    this.#list = list;
  }

  /** Note the connection's new state, with words for the list, and how much of it is wrong. */
  state(state, words, reason, trouble = "") {
    this.#spans.push({ at: Date.now(), tone: trouble ? { some: "warn", all: "bad" }[trouble] : (TONES[state] ?? "warn") });
    if (this.#spans.length > MOST_SPANS) this.#spans.shift();
    this.#say("state", words, reason);
  }

  /** Note an event: "gap" or "rebalance". */
  mark(kind, title, words) {
    this.#marks.push({ at: Date.now(), kind });
    if (this.#marks.length > MOST_SPANS) this.#marks.shift();
    this.#say(kind, title, words);
  }

  /** Draw its current state. */
  draw() {
    const { context, width, height } = fresh(this.#canvas);
    const now = Date.now();
    const x = (at) => width * (1 - (now - at) / SPAN_MS);
    const top = 12;
    context.fillStyle = colour("line");
    context.fillRect(0, top, width, height - top - 8);
    for (const [index, { at, tone }] of this.#spans.entries()) {
      const from = Math.max(0, x(at));
      const to = x(this.#spans[index + 1]?.at ?? now);
      if (to < 0) continue;
      context.fillStyle = colour(tone);
      // Even a state that lasted only a moment is visible.
      context.fillRect(Math.min(from, width - 2), top, Math.max(2, to - from), height - top - 8);
    }
    for (const { at, kind } of this.#marks) {
      const place = x(at);
      if (place < 0) continue;
      context.fillStyle = colour(kind === "gap" ? "bad" : "warn");
      context.beginPath();
      context.moveTo(place - 4.5, 1);
      context.lineTo(place + 4.5, 1);
      context.lineTo(place, 9);
      context.fill();
    }
  }

  #say(kind, title, words) {
    this.#unshown.push({ at: Date.now(), kind, title, words });
    if (this.#unshown.length > MOST_EVENTS) this.#unshown.shift();
    this.#showing ??= setTimeout(() => this.#show(), SHOW_MS);
  }

  #show() {
    this.#showing = undefined;
    for (const event of this.#unshown.splice(0)) this.#list.prepend(itemOf(event));
    while (this.#list.childElementCount > MOST_EVENTS) this.#list.lastElementChild.remove();
    this.draw();
  }
}

function itemOf({ at, kind, title, words }) {
  const item = document.createElement("li");
  item.dataset.kind = kind;
  const time = document.createElement("time");
  time.textContent = clock(at);
  const text = document.createElement("span");
  const name = document.createElement("b");
  name.textContent = title;
  text.append(name, words ? ` – ${words}` : "");
  item.append(time, text);
  return item;
}

/** Hours, minutes and seconds in the reader's time zone. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB");
}
