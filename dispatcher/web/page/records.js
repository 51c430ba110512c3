// The list of records: newest first, bounded, drawn a few times per second whatever arrives.
//
// Rules of this module:
//
// * `kept` holds the newest records that pass the filter, bounded in number and in characters, each cut to what can be
//   shown of it. The list shows the last `SHOWN` of these and holds no others, even while paused or hidden.
// * Every record of a slow stream is drawn. Above `SAMPLE_ABOVE` records per second nobody could read them: then each draw
//   shows an even sample, and `note` says so. The filter is applied before that, so rare records are not missed.
// * An open record holds the list still, as Pause does, and so does a record that was reached with the keyboard.
// * The list is one stop of the Tab key, not two hundred: arrow keys move within it.

import { bounded, detailOf, ownPair, textOf } from "./detail.js";
import { timeOfDay } from "./times.js";

const SHOWN = 200;
const KEPT = 500;
const KEPT_CHARACTERS = 8 * 1024 * 1024;
const PREVIEW_CHARACTERS = 240;
const DRAW_MS = 200;
const SAMPLE_ABOVE = 400;
const SAMPLE = 5;

/** The list of records. */
export class Records {
  #list;
  #kept = [];
  #characters = 0;
  #fresh = 0; // how many arrived since the list was drawn; the newest of them are the end of `kept`
  #matches = () => true;
  #drawing = false;
  #open = new Map();
  #paused = false;
  #walked = false;
  /** Records that passed the filter while the list was held still. */
  waiting = 0;
  /** Records per second, as measured by the page. */
  rate = 0;
  /** Called when the list was drawn, or when it holds still or continues. */
  onChange = () => {};

  constructor(list) {
    this.#list = list;
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.#toggle(row);
    });
    list.addEventListener("keydown", (event) => this.#move(event));
    list.addEventListener("focusin", ({ target }) => this.#walk(target.matches(".row:focus-visible")));
    list.addEventListener("focusout", ({ relatedTarget }) => list.contains(relatedTarget) || this.#walk(false));
  }

  get paused() {
    return this.#paused;
  }

  /** Whether the list is held still: paused, a record is open, or the keyboard is in it. */
  get held() {
    return this.#paused || this.#walked || this.#open.size > 0;
  }

  /** One in this many recent records is drawn. */
  get sampling() {
    return this.rate > SAMPLE_ABOVE ? Math.max(1, Math.round((this.rate * DRAW_MS) / 1000 / SAMPLE)) : 1;
  }

  /** Take a record that has arrived. */
  add(record) {
    if (!this.#matches(record)) return;
    if (this.held) this.waiting += 1;
    this.#keep(bounded(record));
    this.#fresh += 1;
    if (!this.#drawing && !this.held) {
      this.#drawing = true;
      setTimeout(() => requestAnimationFrame(() => this.#draw()), this.rate > 20 ? DRAW_MS : 0);
    }
  }

  /** Show only records that contain a text; `key:…` looks at the key alone. */
  filter(text) {
    const [, inKey, words] = /^\s*(key:)?\s*(.*?)\s*$/is.exec(text);
    const wanted = words.toLowerCase();
    const has = (part) => part !== null && part.toLowerCase().includes(wanted);
    if (!wanted) this.#matches = () => true;
    else if (inKey) this.#matches = (record) => has(textOf(record, "key"));
    else {
      this.#matches = (record) =>
        has(textOf(record, "key")) ||
        has(textOf(record, "value")) ||
        record.headers.some((header) => has(header.key) || has(textOf(header, "value")));
    }
    this.#kept = this.#kept.filter(this.#matches);
    this.#characters = this.#kept.reduce((sum, record) => sum + sizeOf(record), 0);
    this.#showKept();
  }

  /** Hold the list still, or let it continue with the newest records. */
  pause(paused) {
    this.#paused = paused;
    if (!paused) {
      this.#closeAll();
      this.#leaveRow();
      this.#goOn();
    }
    this.onChange();
  }

  /** Close every record that is open; if none is, let the keyboard leave the list. */
  leave() {
    if (this.#open.size) this.#closeAll();
    else this.#leaveRow();
  }

  #closeAll() {
    for (const item of [...this.#open.keys()]) this.#close(item);
  }

  #leaveRow() {
    if (this.#list.contains(document.activeElement)) this.#list.focus({ preventScroll: true });
  }

  #walk(walked) {
    if (walked === this.#walked) return;
    this.#walked = walked;
    this.#goOn();
    this.onChange();
  }

  /** Show what arrived while the list was held still, if nothing holds it now. */
  #goOn() {
    if (!this.held && this.waiting) this.#showKept();
  }

  #keep(record) {
    this.#kept.push(record);
    this.#characters += sizeOf(record);
    while (this.#kept.length > KEPT || (this.#characters > KEPT_CHARACTERS && this.#kept.length > 1)) {
      this.#characters -= sizeOf(this.#kept.shift());
    }
  }

  #draw() {
    this.#drawing = false;
    if (this.held) return;
    const fresh = this.#fresh ? this.#kept.slice(-this.#fresh) : [];
    let drawn = fresh;
    if (this.rate > SAMPLE_ABOVE && fresh.length > SAMPLE) {
      const step = fresh.length / SAMPLE;
      drawn = Array.from({ length: SAMPLE }, (_, n) => fresh[Math.floor((n + 1) * step) - 1]);
    }
    this.#fresh = 0;
    if (fresh.length) this.#prepend(drawn.slice(-SHOWN));
    this.onChange();
  }

  #showKept() {
    this.waiting = 0;
    this.#fresh = 0;
    this.#open.clear();
    this.#list.replaceChildren();
    this.#prepend(this.#kept.slice(-SHOWN));
    this.onChange();
  }

  #prepend(records) {
    const fragment = document.createDocumentFragment();
    for (let index = records.length - 1; index >= 0; index -= 1) fragment.append(itemOf(records[index]));
    this.#list.prepend(fragment);
    let characters = 0;
    for (const [n, item] of [...this.#list.children].entries()) {
      characters += sizeOf(recordOf.get(item));
      if (n >= SHOWN || (n && characters > KEPT_CHARACTERS)) item.remove();
    }
  }

  #toggle(row) {
    const item = row.parentElement;
    if (this.#open.has(item)) {
      this.#close(item);
      return;
    }
    const detail = detailOf(recordOf.get(item));
    item.append(detail);
    item.classList.add("open");
    row.ariaExpanded = "true";
    this.#open.set(item, detail);
    this.onChange();
  }

  #close(item) {
    const detail = this.#open.get(item);
    if (detail.contains(document.activeElement)) item.firstElementChild.focus();
    detail.remove();
    this.#open.delete(item);
    item.classList.remove("open");
    item.firstElementChild.ariaExpanded = "false";
    this.#goOn();
    this.onChange();
  }

  #move(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const item = event.target.closest("li");
    if (!step || !event.target.classList.contains("row")) return;
    event.preventDefault();
    item[step]?.firstElementChild.focus();
  }
}

/** The record of each item of the list, kept only as long as the item. */
const recordOf = new WeakMap();

function itemOf(record) {
  const item = document.createElement("li");
  recordOf.set(item, record);
  item.dataset.id = ownPair(record);
  const row = document.createElement("button");
  row.type = "button";
  row.className = "row";
  row.tabIndex = -1;
  row.ariaExpanded = "false";
  const name = piece("name", "");
  name.title = item.dataset.id;
  const place = piece("place", `${record.partition} · `);
  place.append(Object.assign(document.createElement("b"), { textContent: item.dataset.id.split("=")[1] }));
  name.append(piece("topic", record.topic), place);
  const value = piece("value", (record.value ?? "").slice(0, PREVIEW_CHARACTERS));
  if (record.value_base64 !== undefined) value.append(piece("chip", "binary"), ` ${record.value_base64.slice(0, 80)}`);
  else if (record.value === null) value.append(piece("chip", "tombstone"));
  if (record.decode_error !== undefined) value.prepend(piece("chip", "undecoded"), " ");
  else if (record.schema?.name) value.prepend(piece("chip", record.schema.name.slice(0, 80)), " ");
  const time = piece("time", timeOfDay(record.timestamp) ?? "–");
  time.title = time.textContent; // a plain number may be too long for its column
  row.append(
    time,
    name,
    piece("key", (textOf(record, "key") ?? "").slice(0, PREVIEW_CHARACTERS)),
    value,
  );
  item.append(row);
  return item;
}

function piece(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

function sizeOf(record) {
  const size = (holder, name) => textOf(holder, name)?.length ?? 0;
  const headers = record.headers.reduce((sum, header) => sum + header.key.length + size(header, "value") + 50, 0);
  return size(record, "value") + size(record, "key") + headers + 200;
}
