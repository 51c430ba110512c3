/** A record as it was written to Kafka. Bytes that are not UTF-8 are in base64, under the name that says so. */
export interface KafkaRecord {
  /** Position of the stream after this record; its first pair names the record. */
  readonly id: string;
  readonly topic: string;
  readonly partition: number;
  /** Rounded above 2^53; the first pair of `id` is exact. */
  readonly offset: number;
  /** Milliseconds since the epoch, as Kafka has it; some producers write another unit. Rounded above 2^53. */
  readonly timestamp: number | null;
  readonly key?: string | null;
  readonly key_base64?: string;
  /** In Kafka's order; a name may repeat. */
  readonly headers: readonly { readonly key: string; readonly value?: string | null; readonly value_base64?: string }[];
  /** null is a tombstone. */
  readonly value?: string | null;
  readonly value_base64?: string;
  /** Of topics that the server decodes, instead of `key` and `value`. */
  readonly key_json?: unknown;
  readonly value_json?: unknown;
  /** Of the value: its id or GUID, `AVRO`, `PROTOBUF` or `JSON`, and its name, if it is known. */
  readonly schema?: { readonly id: number | string; readonly type?: string; readonly name?: string };
  readonly key_schema?: { readonly id: number | string; readonly type?: string; readonly name?: string };
  /** Why the value, or the key, was not decoded. */
  readonly decode_error?: string;
  readonly key_decode_error?: string;
}

/** Offsets `from` to `to` (inclusive) will not be sent. */
export interface Gap {
  readonly topic: string;
  readonly partition: number;
  readonly from: number;
  readonly to: number;
  readonly reason: "expired" | "truncated" | "recreated";
}

export type StateName =
  | "connecting"
  | "catching-up"
  | "live"
  | "rebalancing"
  | "waiting"
  | "standby"
  | "broker-down"
  | "reconnecting"
  | "offline"
  /** Final: the server said that trying again does not help. */
  | "closed";

export interface StreamState {
  readonly state: StateName;
  /** Why, in words that can be shown to people. */
  readonly reason: string;
  readonly transport: "sse" | "websocket";
  /** The replica at the other end, while connected. */
  readonly replica?: string;
  /** The partitions that this replica has. */
  readonly assigned?: Readonly<Record<string, readonly number[]>>;
  /** How many partitions each topic has: those that are not in `assigned` are served by other replicas, unless `scope` is "topic". */
  readonly partitions?: Readonly<Record<string, number>>;
  readonly scope?: "replica" | "topic";
  /** `false` where ids name a record's own partition only: there are too many partitions for one id. */
  readonly resumable?: boolean;
  /** What is wrong with topics of the stream, by topic, such as "missing", "leaderless" or "registry"; absent when nothing is. */
  readonly degraded?: Readonly<Record<string, string>>;
  /** Offsets `from` to `to` that are sent again although the position names them, in one state; they are dropped. */
  readonly repeats?: readonly { readonly topic: string; readonly partition: number; readonly from: number; readonly to: number }[];
  /** Time until the next attempt. */
  readonly retry_ms?: number;
  /** Failed attempts in a row. */
  readonly failures?: number;
}

export interface SubscribeOptions {
  /**
   * Called once per record, each partition in order. Errors that it throws are reported, and the stream continues. With
   * `ack` it may return a promise.
   */
  onRecord?: (record: KafkaRecord) => unknown;
  /** Called on every change, but not after `close()`. */
  onState?: (state: StreamState) => unknown;
  onGap?: (gap: Gap) => unknown;
  /**
   * "auto" (default) starts with SSE, and uses a WebSocket if SSE stays silent, as behind a proxy that buffers, or if the
   * tabs of this origin have three event streams of that server already: browsers have six connections to each host.
   */
  transport?: "sse" | "websocket" | "auto";
  /**
   * "auto": the server waits for acknowledgements, over a WebSocket (docs/delivery.md). A record is acknowledged when
   * `onRecord` has returned, or the promise that it returned resolves. If it throws, or the promise rejects, the record
   * is refused: it goes to the dead-letter topic; without one, the stream ends with 4400.
   */
  ack?: "auto";
  /** How many records the server sends ahead of the acknowledgements; 1,000 by default. Only with `ack`. */
  window?: number;
  /** How many bytes it sends ahead; the server's `ack_window_bytes` by default, and at most. One record always fits. */
  windowBytes?: number;
  /** Topics to read; by default all topics that the dispatcher serves. */
  topics?: string | readonly string[];
  /**
   * Where to start in partitions that no position names: "earliest", "now", a duration ("-10m"), an RFC 3339 time, a Date, or milliseconds since
   * 1970. Without it they start at the first record that was not dispatched yet; if no attempt brought a position, later
   * attempts ask for the records since the first one.
   */
  since?: "earliest" | "now" | (string & {}) | number | Date;
  /** Start with the newest records, at most this many of each partition; not together with `since`. */
  last?: number;
  /** "topic": every partition, whichever replica owns it. "replica": those of the replica that answers. */
  scope?: "replica" | "topic";
  /** Avro, Protobuf and JSON Schema as JSON, of topics that the replica can decode; it refuses others. */
  decode?: "json" | "avro-json";
  /** Look on only: nothing that is sent to an observer counts as dispatched. */
  observe?: boolean;
  /** Only records with one of these keys. With several of the next four options, a record has to pass each. */
  keys?: string | readonly string[];
  /** Only records whose headers have these values, by name; several values are alternatives. */
  recordHeaders?: Readonly<Record<string, string | readonly string[]>>;
  /** The same of the JSON in the value, by JSON pointer: `{ "/tenant": "t1" }`. */
  fields?: Readonly<Record<string, string | readonly string[]>>;
  /**
   * A filter in the dialect of docs/filters.md, as an object or as JSON. A position holds no filter: to resume with
   * another one is another view, without what the new one would have had before. Give each its own `storageKey`.
   */
  filter?: object | string;
  /** Where to resume: an earlier `position`. */
  position?: string;
  /** Keeps the position in sessionStorage under this key, so that a reload resumes where the page was. */
  storageKey?: string;
  /** Additional request headers; SSE only, because a browser's WebSocket cannot send any. */
  headers?: Readonly<Record<string, string>>;
  /**
   * A bearer token, or a function that returns one, which is called before each attempt, when the server refuses what it
   * returned (once in a row), and when a WebSocket's token is about to end. It is sent to no other origin.
   */
  token?: string | (() => string | Promise<string>);
  /** As for fetch; SSE only. */
  credentials?: RequestCredentials;
}

export interface Stream {
  /** Where to resume: the last offsets seen of every partition, over all replicas; with `ack`, those of what is done. */
  readonly position: string;
  /** End the stream. No callback is called afterwards. */
  close(): void;
}

/**
 * Subscribe to a dispatcher, and stay subscribed until `close()`.
 *
 * Never throws: errors are reported as a state with a reason.
 *
 * @param url The address of the dispatcher, such as "/" or "https://example.org/stream/"; a path that ends in /events or /ws is
 *   fine too.
 */
export function subscribe(url: string | URL, options?: SubscribeOptions | null): Stream;

/** What an event id says, by `topic:partition`: the last seen offset of each. Throws when it is not an id. */
export function parsePosition(id: string): Map<string, bigint>;
