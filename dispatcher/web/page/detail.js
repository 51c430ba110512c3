// A record opened: its names, its headers, and its value as it was written, indented when it is JSON. All of it is text.

import { dateAndTime } from "./times.js";

const MOST_CHARACTERS = 64 * 1024;
const MOST_INDENTED = 256 * 1024;

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
  if (value.length > MOST_CHARACTERS) {
    const words = document.createElement("p");
    words.className = "quiet";
    words.textContent = `The first ${MOST_CHARACTERS.toLocaleString("en")} of ${value.length.toLocaleString("en")} characters.`;
    detail.append(words);
  }
  detail.append(copy);
  return detail;
}

/** Topic, partition and offset as the id has them: above 2^53 the offset in the envelope is rounded. */
export function ownPair({ id }) {
  return id.split(/[,;]/, 1)[0];
}

/** What a field holds, base64 where it is not UTF-8; null where it holds nothing. */
export function textOf(holder, name) {
  return holder[name] ?? holder[`${name}_base64`] ?? null;
}

/**
 * JSON, indented, its names marked; anything else as it is.
 *
 * The text is indented, its numbers are kept: 12345678901234567890 stays what it is, which it would not by way of
 * JSON.parse.
 */
export function indented(text) {
  const isJson = text.length <= MOST_INDENTED && /^\s*[[{]/.test(text) && parses(text);
  if (!isJson) return [text.slice(0, MOST_CHARACTERS)];
  const parts = [];
  let plain = "";
  let depth = 0;
  let length = 0;
  const tokens = text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  const newLine = () => `\n${"  ".repeat(depth)}`;
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
      plain += /[{[]$/.test(plain) ? word : newLine() + word;
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
