/** A record as it was written to Kafka. Bytes that are not UTF-8 are in base64, under the name that says so. */
export interface KafkaRecord {
  /** Position of the stream after this record; its first pair names the record. */
  readonly id: string;
  readonly topic: string;
  readonly partition: number;
  /** Rounded above 2^53; the first pair of `id` is exact. */
  readonly offset: number;
  /** Milliseconds since the epoch, as stored in Kafka; some producers write another unit. Rounded above 2^53. */
  readonly timestamp: number | null;
  readonly key?: string | null;
  readonly key_base64?: string;
  /** In Kafka's order; a name may repeat. */
  readonly headers: readonly { readonly key: string; readonly value?: string | null; readonly value_base64?: string }[];
  /** null: a tombstone. */
  readonly value?: string | null;
  readonly value_base64?: string;
  /** Instead of `key` and `value`, if the server decodes the topic. */
  readonly key_json?: unknown;
  readonly value_json?: unknown;
  /** The value's schema: its id or GUID, `AVRO`, `PROTOBUF` or `JSON`, and its name, if known. */
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
  /** Final: trying again would not help. */
  | "closed";

export interface StreamState {
  readonly state: StateName;
  /** The reason, in words that can be shown to people. */
  readonly reason: string;
  readonly transport: "sse" | "websocket";
  /** The replica at the other end, while connected. */
  readonly replica?: string;
  /** The replica's partitions, by topic. */
  readonly assigned?: Readonly<Record<string, readonly number[]>>;
  /** How many partitions each topic has: those that are not in `assigned` are served by other replicas, unless `scope` is "topic". */
  readonly partitions?: Readonly<Record<string, number>>;
  readonly scope?: "replica" | "topic";
  /** `false` if there are too many partitions for one id: then ids name only the record's own partition. */
  readonly resumable?: boolean;
  /** What is wrong with topics of the stream, by topic, such as "missing", "leaderless" or "registry"; absent if nothing is. */
  readonly degraded?: Readonly<Record<string, string>>;
  /** Offsets `from` to `to` that are sent again although the position names them; only in the first state that reports them. This client drops them. */
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
   * "auto" (default) starts with SSE. It uses a WebSocket if SSE stays silent, as behind a proxy that buffers, or if the
   * tabs of this origin already have three event streams to that server: browsers open only six connections per host.
   */
  transport?: "sse" | "websocket" | "auto";
  /**
   * "auto": the server waits for acknowledgements, over a WebSocket (docs/delivery.md). A record is acknowledged when
   * `onRecord` has returned, or the promise that it returned resolves. If it throws, or the promise rejects, the record
   * is refused: it is written to the dead-letter topic; without one, the stream ends with 4400.
   */
  ack?: "auto";
  /** How many records the server sends ahead of the acknowledgements; 1,000 by default. Only with `ack`. */
  window?: number;
  /** The same in bytes; the server's `ack_window_bytes` is the default and the maximum. One record always fits. */
  windowBytes?: number;
  /** Topics to read; by default all topics that the dispatcher serves. */
  topics?: string | readonly string[];
  /**
   * Where to start in partitions that the position does not name: "earliest", "now", a duration ("-10m"), an RFC 3339
   * time, a Date, or milliseconds since 1970. By default they start at the first record that has not been dispatched yet;
   * if no attempt has received a position, later attempts ask for records since the first attempt.
   */
  since?: "earliest" | "now" | (string & {}) | number | Date;
  /** Start with the newest records, at most this many of each partition; not together with `since`. */
  last?: number;
  /** "topic": every partition, whichever replica owns it; "replica": those of the replica that answers. The default is the dispatcher's setting. */
  scope?: "replica" | "topic";
  /** Send Avro, Protobuf and JSON Schema as JSON. Topics that the replica cannot decode are refused. */
  decode?: "json" | "avro-json";
  /** Observe only: records sent to an observer do not count as dispatched. */
  observe?: boolean;
  /** Only records with one of these keys. If several of these four options are given, a record has to match each. */
  keys?: string | readonly string[];
  /** Only records whose headers have these values, by name; several values are alternatives. */
  recordHeaders?: Readonly<Record<string, string | readonly string[]>>;
  /** The same for fields of a JSON value, by JSON pointer: `{ "/tenant": "t1" }`. */
  fields?: Readonly<Record<string, string | readonly string[]>>;
  /**
   * A filter in the dialect of docs/filters.md, as an object or as JSON. A position does not contain the filter: if you
   * resume with another filter, earlier records that it would have matched are not sent. Give each filter its own
   * `storageKey`.
   */
  filter?: object | string;
  /** Where to resume: an earlier `position`. */
  position?: string;
  /** Stores the position in sessionStorage under this key, so that a reload resumes where the page was. */
  storageKey?: string;
  /** Additional request headers; SSE only, because a browser's WebSocket cannot send any. */
  headers?: Readonly<Record<string, string>>;
  /**
   * A bearer token, or a function that returns one. It is called before each attempt, once more if the server refuses its
   * token, and when a WebSocket's token is about to expire. Tokens are not sent to another origin.
   */
  token?: string | (() => string | Promise<string>);
  /** As for fetch; SSE only. */
  credentials?: RequestCredentials;
}

export interface Stream {
  /** Where to resume: the last seen offset of every partition, over all replicas; with `ack`, the last one that is done. */
  readonly position: string;
  /** End the stream. No callback is called afterwards. */
  close(): void;
}

/**
 * Subscribe to a dispatcher, and stay subscribed until `close()`.
 *
 * Never throws: it reports errors as a state with a reason.
 *
 * @param url The address of the dispatcher, such as "/" or "https://example.org/stream/"; a path that ends in /events or /ws is
 *   fine too.
 */
export function subscribe(url: string | URL, options?: SubscribeOptions | null): Stream;

/** The last seen offset of each partition in an event id, by `topic:partition`. Throws if it is not an id. */
export function parsePosition(id: string): Map<string, bigint>;
