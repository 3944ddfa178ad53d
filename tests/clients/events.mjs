// Prints what happens, one line of JSON each, and misses nothing: TOKEN=… node events.mjs http://127.0.0.1:3000 [CURSOR]
import { EventSource } from 'eventsource'; // a browser has its own

const [server, start] = process.argv.slice(2);
const print = (line) => console.log(JSON.stringify(line));
let source, chain; // chain: the cursor of the last delivery; whoever comes back with it misses nothing

function connect(after) {
  const url = new URL('/v1/events', server);
  url.searchParams.set('access_token', process.env.TOKEN);
  if (after) url.searchParams.set('after', after);
  source = new EventSource(url); // when it is cut off it comes back by itself, with the last cursor that it has seen
  source.addEventListener('ready', (frame) => begin('ready', JSON.parse(frame.data)));
  source.addEventListener('reset', (frame) => begin('reset', JSON.parse(frame.data))); // load by REST what is wanted
  source.addEventListener('heartbeat', (frame) => follows(JSON.parse(frame.data)));
  source.onmessage = (frame) => {
    const event = JSON.parse(frame.data);
    if (!follows(event)) return;
    const { cursor, type, actor_id, message, up_to } = event;
    if (type === 'message.sent') print({ cursor, type, message });
    if (type === 'receipt.received' || type === 'receipt.read') print({ cursor, type, actor_id, up_to });
    // Types and fields that you do not know will come: ignore them.
  };
  source.onerror = ({ code, message }) => {
    if (source.readyState === EventSource.CLOSED) process.exitCode = 1; // refused for good: a token, a parameter
    print({ type: 'error', code, message });
  };
}
function begin(type, { cursor, reason }) {
  chain = cursor;
  print({ cursor, type, reason });
}
function follows({ cursor, prev }) {
  if (source.readyState === EventSource.CLOSED) return; // what was still in its buffer
  if (prev === chain) return (chain = cursor); // each delivery names the one before it
  print({ cursor: chain, type: 'lost', prev });
  source.close();
  setTimeout(connect, 1000, chain);
}
connect(start);
