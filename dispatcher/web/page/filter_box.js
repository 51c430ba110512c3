// The text in the filter box: words to look for in the browser, or a filter that the replica applies (docs/filters.md).
//
// A filter for the replica is written as in an address, `key=order-17&header=tenant:t1`, or as JSON in the dialect. It is
// part of the page's address, so a link has it, and the browser's Back removes it.

const NAMES = new Set(["key", "key_prefix", "partition", "header", "field", "filter"]);

/** The filter in the address of a page. */
export function filterOf(query) {
  return new URLSearchParams([...query].filter(([name]) => NAMES.has(name)));
}

/** The filter for the replica that a text spells; null if it is text to look for. */
export function readFilter(text) {
  const trimmed = text.trim();
  if (/^[{[]/.test(trimmed)) return new URLSearchParams({ filter: trimmed });
  const parameters = [...new URLSearchParams(trimmed.replaceAll("+", "%2B"))];
  const isFilter = parameters.length > 0 && parameters.every(([name, value]) => NAMES.has(name) && value);
  return isFilter ? new URLSearchParams(parameters) : null;
}

/** A filter, spelled as it would be typed. */
export function spellFilter(filter) {
  const escaped = (value) => value.replace(/[%&#]/g, encodeURIComponent);
  return [...filter].map(([name, value]) => (name === "filter" && filter.size === 1 ? value : `${name}=${escaped(value)}`)).join("&");
}

/** The address of the page with another filter. */
export function withFilter(query, filter) {
  const others = [...query].filter(([name]) => !NAMES.has(name));
  return `?${new URLSearchParams([...others, ...filter])}`;
}
