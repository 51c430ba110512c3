// What the page shows of a record is cut before it is laid out, whatever the record holds.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bounded, indented } from "../../dispatcher/web/page/detail.js";

globalThis.document = { createElement: () => ({ className: "", textContent: "" }) };

const record = (more) => ({ topic: "t", partition: 0, offset: 1, id: "t:0=1", headers: [], key: null, value: null, ...more });
const length = (parts) => parts.reduce((sum, part) => sum + (part.textContent ?? part).length, 0);

for (const [open, close] of ["[]", ['{"a":', "}"]]) {
  test(`15,000 times ${open} is laid out in bounds`, () => {
    const text = open.repeat(15_000) + (open === "[" ? "" : "1") + close.repeat(15_000);
    assert.equal(length(indented(text)) < 300_000, true);
  });
}

test("what is large is cut, and says how large it was", () => {
  const large = "é".repeat(1_000_000);
  const headers = Array.from({ length: 1000 }, () => ({ key: large, value: large }));
  const kept = bounded(record({ value: large, key: large, headers }));
  assert.equal(kept.characters, 1_000_000);
  assert.equal(kept.value.length, 65_536);
  assert.equal(JSON.stringify(kept).length < 1_000_000, true);
});

test("what is small stays as it is", () => {
  const headers = [{ key: "a", value: null }, { key: "b", value_base64: "/w==" }];
  for (const more of [{ value: "x" }, { value_base64: "/w==", value: undefined }, { value: null }, { key_base64: "/w==", key: undefined }]) {
    const { characters, ...kept } = bounded(record({ headers, ...more }));
    assert.deepEqual(JSON.parse(JSON.stringify(kept)), JSON.parse(JSON.stringify(record({ headers, ...more }))));
    assert.equal(characters, (more.value ?? more.value_base64 ?? "").length);
  }
});
