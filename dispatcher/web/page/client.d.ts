/** A record as it was written to Kafka. What is not UTF-8 comes in base64, under the name that says so. */
export interface KafkaRecord {
  /** Position of the stream behind this record; its first pair names the record. */
  readonly id: string;
  readonly topic: string;
  readonly partition: number;
  /** Rounded above 2^53; the first pair of `id` is exact. */
  readonly offset: number;
  /** Milliseconds since the epoch, as Kafka has it; some producers write another unit. Rounded above 2^53. */
  readonly timestamp: number | null;
  readonly key?: string | null;
  readonly key_base64?: string;
  /** In Kafka's order; one name may come many times. */
  readonly headers: readonly { readonly key: string; readonly value?: string | null; readonly value_base64?: string }[];
  /** null is a tombstone. */
  readonly value?: string | null;
  readonly value_base64?: string;
}

/** Offsets `from` to `to` (inclusive) will not come. */
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
  | "broker-down"
  | "reconnecting"
  | "offline"
  /** For good: the server said that trying again does not help. */
  | "closed";

export interface StreamState {
  readonly state: StateName;
  /** Why, in words that can be shown. */
  readonly reason: string;
  readonly transport: "sse" | "websocket";
  /** The replica at the other end, as long as there is one. */
  readonly replica?: string;
  /** The partitions that this replica has. */
  readonly assigned?: Readonly<Record<string, readonly number[]>>;
  /** Time until the next attempt. */
  readonly retry_ms?: number;
  /** Attempts in a row that brought nothing. */
  readonly failures?: number;
}

export interface SubscribeOptions {
  /** Every record once, each partition in order. What it throws is reported, and the stream goes on. */
  onRecord?: (record: KafkaRecord) => unknown;
  /** On every change. Nothing is told after `close()`. */
  onState?: (state: StreamState) => unknown;
  onGap?: (gap: Gap) => unknown;
  /** "auto" (default) begins with SSE, and takes a WebSocket where SSE stays silent, as behind a proxy that buffers. */
  transport?: "sse" | "websocket" | "auto";
  /** Topics to read; all that the dispatcher serves by default. */
  topics?: string | readonly string[];
  /**
   * Where partitions begin that no position names: "earliest", an RFC 3339 time, a Date, or milliseconds since 1970.
   * Without it they begin where the dispatcher has not dispatched yet, and attempts that follow others, of which none
   * brought a position, ask for what came since the first one.
   */
  since?: "earliest" | (string & {}) | number | Date;
  /** Where to go on: a `position` from before. */
  position?: string;
  /** Keeps the position in sessionStorage under this key, so that a reload goes on where the page was. */
  storageKey?: string;
  /** More request headers; SSE only, a browser's WebSocket has none. */
  headers?: Readonly<Record<string, string>>;
  /** As for fetch; SSE only. */
  credentials?: RequestCredentials;
}

export interface Stream {
  /** Where to go on from: what was seen of every partition, over all replicas. */
  readonly position: string;
  /** End it. No callback is called any more. */
  close(): void;
}

/**
 * Subscribe to a dispatcher, and stay subscribed until `close()`.
 *
 * Never throws: what goes wrong is a state with a reason.
 *
 * @param url Where the dispatcher is, such as "/" or "https://example.org/stream/"; a path that ends in /events or /ws is
 *   fine too.
 */
export function subscribe(url: string | URL, options?: SubscribeOptions): Stream;
