// A server whose answers a test writes byte by byte, for SSE and WebSocket.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

const TEXT = 0x1;
const CLOSE = 0x8;

/** An event stream that a test writes. */
export class Events {
  constructor(request, response) {
    this.request = request;
    this.response = response;
    this.left = once(response, "close");
  }

  /** Where the client resumes. */
  get id() {
    return this.request.headers["last-event-id"];
  }

  begin() {
    this.response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    this.response.flushHeaders();
    return this;
  }

  write(...pieces) {
    for (const piece of pieces) this.response.write(piece);
    return this;
  }

  event(type, data) {
    return this.write(`event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  state(state, heartbeat_seconds = 15) {
    return this.event("state", { state, replica: "one", assigned: { t: [0, 1] }, heartbeat_seconds });
  }

  record(id, value = "x") {
    return this.write(eventOf(id, value));
  }

  answer(status, headers = {}, body = "") {
    this.response.writeHead(status, headers).end(body);
  }

  end() {
    this.response.end();
  }

  /** End it as a crash does. */
  cut() {
    this.request.socket.resetAndDestroy();
  }
}

/** A WebSocket that a test writes. */
export class Messages {
  #rest = Buffer.alloc(0);
  said = new Told(); // what the client says

  constructor(request, socket) {
    this.request = request;
    this.socket = socket;
    this.left = once(socket, "close");
    socket.on("error", () => {});
    socket.on("data", (bytes) => this.#read(bytes));
  }

  /** Frames of a client: masked, and of less than 64 KiB. */
  #read(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (;;) {
      const short = this.#rest[1] & 0x7f;
      const at = short === 126 ? 4 : 2;
      if (this.#rest.length < at + 4) return;
      const length = short === 126 ? this.#rest.readUInt16BE(2) : short;
      if (this.#rest.length < at + 4 + length) return;
      const mask = this.#rest.subarray(at, at + 4);
      const payload = this.#rest.subarray(at + 4, at + 4 + length).map((octet, n) => octet ^ mask[n % 4]);
      const opcode = this.#rest[0] & 0xf;
      this.#rest = this.#rest.subarray(at + 4 + length);
      if (opcode === CLOSE) this.socket.end();
      else if (opcode === TEXT) this.said.push(JSON.parse(Buffer.from(payload).toString()));
    }
  }

  get id() {
    return new URL(this.request.url, "http://test").searchParams.get("last_event_id") ?? undefined;
  }

  begin() {
    const key = this.request.headers["sec-websocket-key"];
    const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
    this.socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Protocol: dispatcher.v1.json\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    return this;
  }

  send(message) {
    this.socket.write(frame(TEXT, Buffer.from(typeof message === "string" ? message : JSON.stringify(message))));
    return this;
  }

  state(state, heartbeat_seconds = 15) {
    return this.send({ type: "state", state, replica: "one", assigned: { t: [0, 1] }, heartbeat_seconds });
  }

  /** A state of a replica with these partitions. */
  assigned(...partitions) {
    return this.send({ type: "state", state: "streaming", replica: "one", assigned: { t: partitions }, scope: "replica" });
  }

  records(...ids) {
    return this.send({ type: "records", records: ids.map((id) => ({ id, ...envelope(id, "x") })) });
  }

  close(code, reason = "") {
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.socket.write(frame(CLOSE, Buffer.concat([payload, Buffer.from(reason)])));
    this.socket.end();
  }

  cut() {
    this.socket.resetAndDestroy();
  }
}

/** Listens, and hands out streams in the order in which clients asked for them. */
export class Server {
  #waiting = [];
  #asked = [];

  static async start(t) {
    const server = new Server();
    server.http = createServer((request, response) => server.#hand(new Events(request, response)));
    server.http.on("upgrade", (request, socket) => server.#hand(new Messages(request, socket)));
    server.http.listen(0, "127.0.0.1");
    await once(server.http, "listening");
    server.url = `http://127.0.0.1:${server.http.address().port}/`;
    t.after(() => {
      server.http.close();
      server.http.closeAllConnections();
    });
    return server;
  }

  /** The next stream that a client asks for. */
  next() {
    if (this.#waiting.length) return this.#waiting.shift();
    return new Promise((resolve) => this.#asked.push(resolve));
  }

  /** How many streams were asked for and not handed out yet. */
  get waiting() {
    return this.#waiting.length;
  }

  #hand(stream) {
    if (this.#asked.length) this.#asked.shift()(stream);
    else this.#waiting.push(stream);
  }
}

/** What a stream tells, as a list that can be waited for. */
export class Told {
  #changed = () => {};
  all = [];

  push = (thing) => {
    this.all.push(thing);
    this.#changed();
  };

  async until(condition) {
    for (;;) {
      const found = this.all.find(condition);
      if (found !== undefined) return found;
      await new Promise((resolve) => (this.#changed = resolve));
    }
  }

  async atLeast(number) {
    await this.until(() => this.all.length >= number);
    return this.all;
  }
}

/** A record on an event stream. */
export function eventOf(id, value = "x") {
  return `id: ${id}\ndata: ${JSON.stringify(envelope(id, value))}\n\n`;
}

function envelope(id, value) {
  const [, topic, partition, offset] = /^(.+?):(\d+)=(\d+)/.exec(id);
  return { topic, partition: +partition, offset: +offset, timestamp: 1, key: null, headers: [], value };
}

function frame(opcode, payload) {
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  head[1] = head.length === 2 ? length : head.length === 4 ? 126 : 127;
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  return Buffer.concat([head, payload]);
}
