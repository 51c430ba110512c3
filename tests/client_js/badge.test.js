// What the badge of the page says, by state and by what is wrong with topics.

import assert from "node:assert/strict";
import { test } from "node:test";

import { describeState } from "../../dispatcher/web/page/badge.js";

const LIVE = {
  state: "live",
  reason: "records arrive as they are written",
  assigned: { assets: [0, 1, 2], orders: [0] },
  partitions: { assets: 3, orders: 1 },
  scope: "topic",
};

test("a stream with nothing wrong says of how many partitions it is live", () => {
  assert.deepEqual(describeState(LIVE), { words: "live, all 4 partitions", reason: LIVE.reason, trouble: "" });
  const part = { ...LIVE, scope: "replica", assigned: { assets: [1] } };
  assert.equal(describeState(part).words, "live, 1 of 4 partitions");
  assert.equal(describeState({ ...LIVE, partitions: {} }).words, "live, the whole topic");
  assert.equal(describeState({ ...part, partitions: undefined }).words, "live, 1 partition");
  assert.equal(describeState({ state: "reconnecting", reason: "lost" }).words, "reconnecting");
});

test("a topic that sends nothing is named, with what to do as far as that is known", () => {
  for (const [why, words] of [
    ["missing", "topic orders does not exist"],
    ["deleted", "topic orders was deleted"],
    ["unauthorized", "topic orders may not be read"],
  ]) {
    const told = { ...LIVE, degraded: { orders: why } };
    assert.deepEqual(describeState(told), { words: "live, without orders", reason: words, trouble: "some" });
    assert.equal(describeState(told, { orders: "grant READ" }).reason, "grant READ");
    assert.equal(describeState({ ...told, partitions: { assets: 3 }, assigned: { assets: [0] } }).words, "live, without orders");
  }
});

test("a topic that sends a part is named as well, and reasons of later servers are shown as they are", () => {
  const told = { ...LIVE, degraded: { orders: "leaderless", assets: "cursed" } };
  assert.equal(describeState(told).words, "live, orders and assets in part");
  assert.equal(describeState(told).reason, "topic orders has partitions without a leader; topic assets is degraded (cursed)");
  const both = { ...LIVE, degraded: { orders: "registry", assets: "missing" } };
  assert.equal(describeState(both).words, "live, without assets, orders in part");
});

test("where no topic sends anything, nothing is called live", () => {
  const degraded = { assets: "unauthorized", orders: "missing" };
  for (const state of ["live", "catching-up", "rebalancing", "waiting"]) {
    const { words, reason, trouble } = describeState({ ...LIVE, state, degraded });
    assert.deepEqual([words, trouble], ["nothing can arrive", "all"]);
    assert.equal(reason, "topic assets may not be read; topic orders does not exist");
  }
  const lost = describeState({ ...LIVE, state: "broker-down", reason: "no broker", degraded });
  assert.equal(lost.reason, "no broker; topic assets may not be read; topic orders does not exist");
  assert.equal(lost.words, "broker-down, without assets and orders");
});

test("many topics are counted", () => {
  const degraded = Object.fromEntries(["a", "b", "c", "d"].map((name) => [name, "missing"]));
  assert.equal(describeState({ ...LIVE, degraded }).words, "live, without a and b and 2 more");
});
