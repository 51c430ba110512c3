// An open record: its names, its headers, and its value as it was written, indented if it is JSON. All of it is text.

import { dateAndTime } from "./times.js";

const MOST_CHARACTERS = 64 * 1024;
const MOST_INDENTED = 256 * 1024;
const MOST_FIELD = 4 * 1024; // of a key, and of the name and the value of a header
const MOST_HEADERS = 100;
const MOST_NAME = 400; // characters of a schema's name, and of a reason
const MOST_DEPTH = 40; // of indentation: a record may nest thousands

/** An element with everything that a record holds. */
export function detailOf(record) {
  const detail = document.createElement("div");
  detail.className = "detail";
  const list = document.createElement("dl");
  const say = (name, text, isCode = false) => {
    const term = document.createElement("dt");
    term.textContent = name;
    const words = document.createElement("dd");
    const inner = isCode ? words.appendChild(document.createElement("code")) : words;
    inner.textContent = text;
    list.append(term, words);
  };
  say("Record", `${record.topic}, partition ${record.partition}, offset ${ownPair(record).split("=")[1]}`);
  const written = dateAndTime(record.timestamp);
  if (written !== null) say("Written", written);
  say("Key", textOf(record, "key") ?? "none", true);
  if (record.schema?.name) say("Schema", `${record.schema.name} (${record.schema.type}, ${record.schema.id})`.slice(0, MOST_NAME));
  if (record.decode_error !== undefined) say("Not decoded", String(record.decode_error).slice(0, MOST_NAME));
  for (const header of record.headers) say(`Header ${header.key}`, textOf(header, "value") ?? "null", true);
  detail.append(list);
  const value = textOf(record, "value");
  if (value === null) {
    const words = document.createElement("p");
    words.textContent = "A tombstone: the value is null.";
    detail.append(words);
    return detail;
  }
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.append(...indented(value));
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "do";
  copy.textContent = "Copy value";
  copy.hidden = navigator.clipboard === undefined;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed by the browser";
    }
  });
  detail.append(pre);
  const characters = record.characters ?? value.length;
  if (characters > MOST_CHARACTERS) {
    const words = document.createElement("p");
    words.className = "quiet";
    words.textContent = `The first ${MOST_CHARACTERS.toLocaleString("en")} of ${characters.toLocaleString("en")} characters.`;
    detail.append(words);
    copy.textContent = "Copy this part";
  }
  detail.append(copy);
  return detail;
}

/**
 * The record as the list keeps it: long fields are cut once, before anything is laid out. `characters` is the length of
 * the whole value.
 */
export function bounded(received) {
  const record = { ...received };
  for (const field of ["key", "value"]) {
    const decoded = record[`${field}_json`];
    if (decoded === undefined) continue;
    record[field] = field === "key" && typeof decoded === "string" ? decoded : JSON.stringify(decoded);
    delete record[`${field}_json`];
  }
  const name = record.value === undefined && record.value_base64 !== undefined ? "value_base64" : "value";
  const characters = record[name]?.length ?? 0;
  const headers = record.headers.slice(0, MOST_HEADERS).map((header) => {
    const field = header.value_base64 === undefined ? "value" : "value_base64";
    return { key: cut(header.key, MOST_FIELD), [field]: cut(header[field], MOST_FIELD) };
  });
  const key = record.key_base64 === undefined ? "key" : "key_base64";
  return { ...record, headers, characters, [key]: cut(record[key], MOST_FIELD), [name]: cut(record[name], MOST_CHARACTERS) };
}

/** A copy of a string: a slice of it would keep the whole string in memory. */
function cut(text, most) {
  if (!(text?.length > most)) return text;
  return new TextDecoder().decode(new TextEncoder().encode(text.slice(0, most)));
}

/** Topic, partition and offset as in the id: above 2^53 the envelope's offset is rounded. */
export function ownPair({ id }) {
  return id.split(/[,;]/, 1)[0];
}

/** The content of a field, in base64 if it is not UTF-8; null if it has none. */
export function textOf(holder, name) {
  return holder[name] ?? holder[`${name}_base64`] ?? null;
}

/**
 * JSON, indented, with its names marked; anything else unchanged.
 *
 * Only the text is indented, so numbers stay exact: JSON.parse would round 12345678901234567890.
 */
export function indented(text) {
  const isJson = text.length <= MOST_INDENTED && /^\s*[[{]/.test(text) && parses(text);
  if (!isJson) return [text.slice(0, MOST_CHARACTERS)];
  const parts = [];
  let plain = "";
  let depth = 0;
  let length = 0;
  const tokens = text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  const newLine = () => {
    const space = `\n${"  ".repeat(Math.min(depth, MOST_DEPTH))}`;
    length += space.length;
    return space;
  };
  let token = tokens.next().value;
  while (token !== undefined && length < MOST_CHARACTERS) {
    const [word] = token;
    const next = tokens.next().value;
    if (next?.[0] === ":") {
      parts.push(plain, marked(word));
      plain = "";
    } else if (word === "{" || word === "[") {
      const isEmpty = next?.[0] === "}" || next?.[0] === "]";
      depth += 1;
      plain += isEmpty ? word : word + newLine();
    } else if (word === "}" || word === "]") {
      depth -= 1;
      plain += "{[".includes(plain.at(-1) ?? " ") ? word : newLine() + word;
    } else {
      plain += word === "," ? `,${newLine()}` : word === ":" ? ": " : word;
    }
    length += word.length;
    token = next;
  }
  return [...parts, plain];
}

function parses(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function marked(word) {
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = word;
  return name;
}
