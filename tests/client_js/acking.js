// Works on records of a real dispatcher, which takes random times, and refuses some: tests/web/test_client_js.py.

import { subscribe } from "../../dispatcher/web/page/client.js";

const [url, refused] = process.argv.slice(2);
const taken = [];
globalThis.reportError = () => {}; // refusals are wanted here
const stream = subscribe(url, {
  ack: "auto",
  window: 5,
  async onRecord({ partition, offset }) {
    taken.push([partition, offset]);
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
    if (offset === +refused) throw new Error("cannot be read");
  },
});
// The server ends the program's input when all that it waits for is committed.
process.stdin.on("end", () => {
  stream.close();
  console.log(JSON.stringify(taken));
});
process.stdin.resume();
