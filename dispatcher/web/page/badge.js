// What the badge says of a stream: its state, of what it is live and of what it is not, and what to do about that.
//
// A state event names the topics that are degraded, and why. What to do is in `/status`, where that is given out.

/** Reasons for which no record of a topic arrives; others hold up a part of it. */
const SILENT = new Set(["missing", "deleted", "unauthorized"]);

const WORDS = {
  missing: "does not exist",
  deleted: "was deleted",
  unauthorized: "may not be read",
  leaderless: "has partitions without a leader",
  registry: "waits for its schema registry",
};
/** States in which records could arrive, or wait for partitions of this replica. */
const FLOWING = new Set(["live", "catching-up", "rebalancing", "waiting"]);
const MOST_NAMES = 2;

/**
 * @param told A state, as `subscribe` reports it.
 * @param details What is wrong with topics and what to do, by topic, as far as that is known.
 * @returns {{words: string, reason: string, trouble: "" | "some" | "all"}} The word in bold, the sentence, and how much is wrong.
 */
export function describeState(told, details = {}) {
  const wrong = Object.entries(told.degraded ?? {});
  if (!wrong.length) return { words: told.state + share(told), reason: told.reason, trouble: "" };
  const silent = wrong.filter(([, reason]) => SILENT.has(reason)).map(([topic]) => topic);
  const partial = wrong.filter(([, reason]) => !SILENT.has(reason)).map(([topic]) => topic);
  const topics = new Set([...Object.keys(told.assigned ?? {}), ...Object.keys(told.partitions ?? {}), ...Object.keys(told.degraded)]);
  const reason = wrong.map(([topic, why]) => details[topic] ?? `topic ${topic} ${WORDS[why] ?? `is degraded (${why})`}`).join("; ");
  // Where no broker can be reached, that is the first thing to mend.
  const isFlowing = FLOWING.has(told.state);
  if (isFlowing && silent.length === topics.size) return { words: "nothing can arrive", reason, trouble: "all" };
  const parts = [silent.length && `without ${names(silent)}`, partial.length && `${names(partial)} in part`];
  const words = `${told.state}, ${parts.filter(Boolean).join(", ")}`;
  return { words, reason: told.state === "live" ? reason : `${told.reason}; ${reason}`, trouble: "some" };
}

/** What a stream has, where it is live: ", 4 of 12 partitions". */
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
