// The filter box of the page: what is text, what is a filter for the replica, and how it is spelled.

import assert from "node:assert/strict";
import { test } from "node:test";

import { filterOf, readFilter, spellFilter, withFilter } from "../../dispatcher/web/page/filter_box.js";

test("what is typed is a filter for the replica if it is spelled as one", () => {
  const cases = {
    "key=a": "key=a",
    " key=a&key=b ": "key=a&key=b",
    "key_prefix=order-&partition=3": "key_prefix=order-&partition=3",
    "header=tenant:t1&field=/a~1b:x": "header=tenant%3At1&field=%2Fa%7E1b%3Ax",
    "key=a+b": "key=a%2Bb",
    "key=a%26b": "key=a%26b",
    '{"exact":{"key":"a=b&c"}}': "filter=%7B%22exact%22%3A%7B%22key%22%3A%22a%3Db%26c%22%7D%7D",
    "[]": "filter=%5B%5D",
    "": null,
    "key": null,
    "key=": null,
    "key:a": null,
    "colour=red": null,
    "key=a&colour=red": null,
    "some words": null,
  };
  for (const [text, expected] of Object.entries(cases)) {
    assert.equal(readFilter(text)?.toString() ?? null, expected, text);
  }
});

test("a filter is spelled as it is read", () => {
  for (const text of ["key=a&key=b", "key=a%26b", "key=a+b%25", '{"exact":{"key":"a&b"}}', "header=tenant:t1", "key=a&filter={}"]) {
    const filter = readFilter(text);
    assert.equal(readFilter(spellFilter(filter)).toString(), filter.toString(), text);
  }
  assert.equal(spellFilter(new URLSearchParams()), "");
});

test("the address of the page has the filter beside what else it says", () => {
  const query = new URLSearchParams("?observe=0&key=a&topic=t&field=/a:1");
  assert.equal(filterOf(query).toString(), "key=a&field=%2Fa%3A1");
  assert.equal(withFilter(query, readFilter("header=b:c")), "?observe=0&topic=t&header=b%3Ac");
  assert.equal(withFilter(query, []), "?observe=0&topic=t");
});
