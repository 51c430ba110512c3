// Plays histories (tests/client_histories) to client.js: `node histories.js URL SEED …`. Each line of the output is
// what one stream handed out, in its order: `{"seed", "run", "events", "reason"}`.

import { subscribe } from "../../dispatcher/web/page/client.js";

const AT_ONCE = 100;

const [server, ...seeds] = process.argv.slice(2);
const paths = { sse: "events", ...(globalThis.WebSocket && { websocket: "ws" }) };

Math.random = () => 0.02; // waits are full jitter: this much of it is enough here

// A clock that is this slow lets no connection seem silent, however long this machine holds everything still.
const began = Date.now();
const { now } = Date;
Date.now = () => began + (now() - began) / 1000;

function play(seed, transport) {
  const run = `javascript-${transport}`;
  const events = [];
  return new Promise((resolve) => {
    subscribe(`${server}/${seed}/${run}/${paths[transport]}`, {
      transport,
      onRecord: ({ topic, partition, offset }) => events.push({ topic, partition, offset }),
      onGap: (gap) => events.push(gap),
      onState: ({ state, reason }) => void (state === "closed" && resolve({ seed, run, events, reason })),
    });
  });
}

const left = seeds.flatMap((seed) => Object.keys(paths).map((transport) => [seed, transport]));

async function playNext() {
  for (let next = left.pop(); next; next = left.pop()) console.log(JSON.stringify(await play(...next)));
}

await Promise.all(Array.from({ length: AT_ONCE }, playNext));
process.exit(0); // a WebSocket that was given up while it was being opened would keep Node alive
