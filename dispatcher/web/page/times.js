// Interprets the timestamps of records, so that any 64-bit number is shown as something sensible.
//
// Kafka's timestamps are milliseconds, but brokers keep whatever number a producer writes. The rule is the same in
// dispatcher/client/timestamps.py and described in docs/protocol.md, "Envelope".

const NONE = -1; // Kafka's value for no timestamp
const FIRST_MS = -62_135_510_400_000; // the years 1 to 9999, without the first and the last day
const LAST_MS = 253_402_214_399_999;
const Y2000_MS = 946_684_800_000;
const Y2100_MS = 4_102_444_800_000;

/**
 * The time that a number means: `{ ms, unit }`; null if there is no timestamp (null and -1), or if its unit is unknown.
 *
 * It is read as milliseconds if that gives a time in the years 1 to 9999; otherwise as microseconds or nanoseconds if
 * that gives a time in this century.
 */
export function readTimestamp(timestamp) {
  if (timestamp === null || timestamp === NONE) return null;
  if (FIRST_MS <= timestamp && timestamp <= LAST_MS) return { ms: timestamp, unit: "ms" };
  for (const [unit, divisor] of [["µs", 1000], ["ns", 1_000_000]]) {
    const ms = Math.floor(timestamp / divisor);
    if (Y2000_MS <= ms && ms < Y2100_MS) return { ms, unit };
  }
  return null;
}

/**
 * The reader's local time, to the millisecond, and the unit if it is an unusual one; the plain number if its unit is
 * unknown, null if there is no timestamp.
 */
export function timeOfDay(timestamp) {
  const moment = readTimestamp(timestamp);
  if (!moment) return plain(timestamp);
  const time = new Date(moment.ms);
  const two = (value) => String(value).padStart(2, "0");
  const thousandths = String(time.getMilliseconds()).padStart(3, "0");
  const text = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${thousandths}`;
  return moment.unit === "ms" ? text : `${text} ${moment.unit}`;
}

/** Date and time in UTC, with the number if it is not in milliseconds; null if there is no timestamp. */
export function dateAndTime(timestamp) {
  const moment = readTimestamp(timestamp);
  if (!moment) return plain(timestamp) && `${plain(timestamp)}, in an unknown unit`;
  const text = new Date(moment.ms).toISOString();
  return moment.unit === "ms" ? text : `${text}, written as ${plain(timestamp)} ${moment.unit}`;
}

/** A duration, rounded, in a unit that suits its size: `[number, unit]`. */
export function duration(ms) {
  if (ms < 1000) return [String(Math.round(ms)), "ms"];
  const units = [["s", 1000, 600], ["min", 60_000, 600], ["h", 3_600_000, 240], ["d", 86_400_000, Infinity]];
  const [unit, size] = units.find(([, size, most]) => ms / size < most);
  return [(ms / size).toFixed(1), unit];
}

/** The number as JSON.parse returns it: above 2^53 it is rounded. */
function plain(timestamp) {
  return timestamp === null || timestamp === NONE ? null : BigInt(timestamp).toString();
}
