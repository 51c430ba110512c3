// Shows the stream as it flows. Everything from a record is text, never markup.

const SHOWN = 200;
const records = document.getElementById("records");
const count = document.getElementById("count");
const state = document.getElementById("state");
const empty = document.getElementById("empty");
let seen = 0;
let waiting = [];

function show(text, detail = "") {
  state.dataset.state = text;
  state.textContent = detail ? `${text}: ${detail}` : text;
}

// One change of the page a frame, however many records come.
function draw() {
  const fragment = document.createDocumentFragment();
  for (const { id, kind, data } of waiting.reverse().slice(0, SHOWN)) {
    const item = document.createElement("li");
    const name = document.createElement("code");
    name.textContent = id.split(/[,;]/, 1)[0];
    const value = document.createElement("span");
    value.textContent = kind === "message" ? data.slice(0, 2000) : `(${kind}) ${data.slice(0, 2000)}`;
    item.append(name, value);
    fragment.append(item);
  }
  waiting = [];
  records.prepend(fragment);
  while (records.childElementCount > SHOWN) records.lastElementChild.remove();
  count.textContent = seen.toLocaleString("en");
}

function take(event) {
  seen += 1;
  empty.hidden = true;
  if (waiting.push({ id: event.lastEventId, kind: event.type, data: event.data }) === 1) requestAnimationFrame(draw);
  if (waiting.length > 2 * SHOWN) waiting = waiting.slice(-SHOWN);
}

const source = new EventSource("/events");
for (const kind of ["message", "tombstone", "binary"]) source.addEventListener(kind, take);
source.addEventListener("state", (event) => show(JSON.parse(event.data).state));
source.addEventListener("goodbye", (event) => show("reconnecting", JSON.parse(event.data).reason));
source.addEventListener("error", () => {
  show(source.readyState === EventSource.CLOSED ? "closed" : "reconnecting");
});
