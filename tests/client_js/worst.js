// Lets client.js suffer from the worst servers (tests/worst): `node --expose-gc worst.js SECONDS ADDRESSES`, where the
// latter is JSON, `{kind: url}`. The output is one line, `{"runs", "before", "after", "thrown"}`: what each stream did,
// bytes of the heap after a part of the time and at the end, and what nobody caught.

import { subscribe } from "../../dispatcher/web/page/client.js";

const WARM_SHARE = 0.5; // of the time, after which the heap is measured for the first time

const [seconds, addresses] = process.argv.slice(2).map((each) => JSON.parse(each));
const transports = globalThis.WebSocket ? ["sse", "websocket"] : ["sse"];
const runs = {};
const thrown = [];

for (const name of ["uncaughtException", "unhandledRejection"]) {
  process.on(name, (error) => thrown.push(`${name}: ${error?.stack ?? error}`));
}
globalThis.reportError = (error) => thrown.push(`reported: ${error?.stack ?? error}`);

for (const [kind, url] of Object.entries(addresses)) {
  for (const transport of transports) {
    const run = (runs[`${kind} ${transport}`] = { attempts: 1, ended: "", records: 0 });
    subscribe(url, {
      transport,
      onRecord: () => void (run.records += 1),
      onState({ state, reason }) {
        if (state === "reconnecting") run.attempts += 1;
        if (state === "closed") run.ended = reason;
      },
    });
  }
}

const sleep = (share) => new Promise((resolve) => setTimeout(resolve, seconds * share * 1000));

function heapBytes() {
  globalThis.gc();
  return process.memoryUsage().heapUsed;
}

await sleep(WARM_SHARE);
const before = heapBytes();
await sleep(1 - WARM_SHARE);
console.log(JSON.stringify({ runs, before, after: heapBytes(), thrown }));
process.exit(0);
