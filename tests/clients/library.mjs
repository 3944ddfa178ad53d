// The tests' hand on the client library (`frontend/driver`): one `connect`, which is told in lines of JSON what to send, and
// tells in lines of JSON what it gives, each thing with the cursor before it. `tests/src/proof/library.rs` speaks to it.
//
//   TOKEN=… node library.mjs PORT URL     connects to the test at PORT, and follows the server at URL from the beginning
//   -> {"key":"…","to":"…","text":"…"}    <- {"sent":"…","message":{…}}    {"failed":"…","status":…,"code":"…"}
//   <- {"ready":CURSOR}    {"event":{…}}    {"passed":CURSOR,"prev":CURSOR}    {"reset":REASON,"cursor":CURSOR}
import { connect as dial } from 'node:net';
import { createInterface } from 'node:readline';

import { connect } from '../../frontend/driver/dist/index.js';

const [port, url] = process.argv.slice(2);
const test = dial(Number(port), '127.0.0.1');
const plain = (_, value) => (value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value);
const tell = (line) => test.write(`${JSON.stringify(line, plain)}\n`);
const timing = { ready: 3000, answer: 5000, silence: 5000, poll: 2000, retry: 50, retryMax: 1000, climb: 500, climbMax: 5000 };
const chat = connect({ url, token: process.env.TOKEN, after: '0', timing });

createInterface({ input: test, crlfDelay: Infinity }).on('line', (line) => {
  const { key, to, text } = JSON.parse(line);
  chat.send({ key, to, text }).sent.then(
    (message) => tell({ sent: key, message }),
    ({ status = 0, code }) => tell({ failed: key, status, code }),
  );
});
// The test has ended.
test.on('close', () => process.exit());
test.on('error', () => process.exit());

// Where the application is, and why it was reset since.
let at;
let lost;

const parts = (cursor) => [cursor.slice(0, cursor.lastIndexOf(':')), Number(cursor.slice(cursor.lastIndexOf(':') + 1))];

// A connection that takes over from another may begin a little before it: that is no place where anything was given.
function isBefore(cursor) {
  if (at === undefined || lost !== undefined) return false;
  const [[epoch, position], [last, reached]] = [parts(cursor), parts(at)];
  return epoch === last && position < reached;
}

function reached() {
  const { cursor } = chat;
  if (cursor === undefined || cursor === '0' || cursor === at || isBefore(cursor)) return;
  if (lost !== undefined) tell({ reset: lost, cursor });
  else tell(at === undefined ? { ready: cursor } : { passed: cursor, prev: at });
  [at, lost] = [cursor, undefined];
}

function given(_, event) {
  reached();
  tell({ event: { ...event, prev: at } });
  at = event.cursor;
}

chat.on('message', given);
chat.on('receipt', given);
// Its cursor is that of the reset as soon as this handler is done.
chat.on('reset', ({ reason }) => {
  lost = reason;
  setImmediate(reached);
});
chat.on('error', (error) => console.error(error));
setInterval(reached, 100);
