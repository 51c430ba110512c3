// What the badge says about a stream: its state, for which topics it is live and for which it is not, and what to do.
//
// A state event names the degraded topics, and why. What to do about them is in `/status`, if the page may read it.

/** Reasons for which no record of a topic arrives; others affect only some of its records. */
const SILENT = new Set(["missing", "deleted", "unauthorized"]);

const WORDS = {
  missing: "does not exist",
  deleted: "was deleted",
  unauthorized: "may not be read",
  leaderless: "has partitions without a leader",
  registry: "waits for its schema registry",
};
/** States in which records can arrive, or could if this replica had partitions. */
const FLOWING = new Set(["live", "catching-up", "rebalancing", "waiting"]);
const MOST_NAMES = 2;

/**
 * @param told A state, as `subscribe` reports it.
 * @param details What is wrong with topics and what to do, by topic, if known.
 * @returns {{words: string, reason: string, trouble: "" | "some" | "all"}} The word in bold, the sentence, and how much is wrong.
 */
export function describeState(told, details = {}) {
  const wrong = Object.entries(told.degraded ?? {});
  if (!wrong.length) return { words: told.state + share(told), reason: told.reason, trouble: "" };
  const silent = wrong.filter(([, reason]) => SILENT.has(reason)).map(([topic]) => topic);
  const partial = wrong.filter(([, reason]) => !SILENT.has(reason)).map(([topic]) => topic);
  const topics = new Set([...Object.keys(told.assigned ?? {}), ...Object.keys(told.partitions ?? {}), ...Object.keys(told.degraded)]);
  const reason = wrong.map(([topic, why]) => details[topic] ?? `topic ${topic} ${WORDS[why] ?? `is degraded (${why})`}`).join("; ");
  // If no broker can be reached, that has to be fixed first.
  const isFlowing = FLOWING.has(told.state);
  if (isFlowing && silent.length === topics.size) return { words: "nothing can arrive", reason, trouble: "all" };
  const parts = [silent.length && `without ${names(silent)}`, partial.length && `${names(partial)} in part`];
  const words = `${told.state}, ${parts.filter(Boolean).join(", ")}`;
  return { words, reason: told.state === "live" ? reason : `${told.reason}; ${reason}`, trouble: "some" };
}

/** The partitions of a live stream: ", 4 of 12 partitions". */
function share({ state: name, assigned, partitions, scope: told }) {
  if (name !== "live") return "";
  const whole = Object.values(partitions ?? {}).reduce((sum, number) => sum + number, 0);
  const own = told === "topic" ? whole : Object.values(assigned ?? {}).flat().length;
  const noun = Math.max(own, whole) === 1 ? "partition" : "partitions";
  if (!whole) return told === "topic" ? ", the whole topic" : `, ${own} ${noun}`;
  return own < whole ? `, ${own} of ${whole} ${noun}` : `, all ${whole} ${noun}`;
}

function names(topics) {
  const shown = topics.slice(0, MOST_NAMES).join(" and ");
  return topics.length > MOST_NAMES ? `${shown} and ${topics.length - MOST_NAMES} more` : shown;
}
