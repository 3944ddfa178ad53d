// Where not even a stream gets through. Prints what happens, one line of JSON each, and misses nothing:
// TOKEN=… node poll.mjs http://127.0.0.1:3000 [CURSOR]
const [server, start = ''] = process.argv.slice(2);
const print = (line) => console.log(JSON.stringify(line));
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
let [chain, begun] = [start, false]; // chain: the cursor of the last delivery
while (process.exitCode === undefined) await poll();
async function poll() {
  // Without a cursor only to get one, at once: "now" is the moment of this request.
  const query = new URLSearchParams({ after: chain, wait: chain ? 25 : 0 });
  const headers = { Authorization: `Bearer ${process.env.TOKEN}` };
  try {
    const answer = await fetch(`${server}/v1/events?${query}`, { headers, signal: AbortSignal.timeout(60_000) });
    const body = await answer.json();
    if (answer.ok) return follow(body);
    if (answer.status === 410) return begin('reset', body); // load by REST what is wanted
    console.error(body);
    if (answer.status < 500 && answer.status !== 429) return (process.exitCode = 1); // refused for good
    await pause(answer.headers.get('Retry-After') ?? 2);
  } catch (error) { // no answer, or not to its end
    console.error(error);
    await pause(2);
  }
}
function follow({ events, cursor: last }) {
  const now = ['', '0'].includes(chain); // what these two are called only the server knows
  if (!begun) begin('ready', { cursor: now ? (events[0]?.prev ?? last) : chain });
  for (const { cursor, prev, type, actor_id, message, up_to } of events) {
    // Each delivery names the one before it; what follows a gap is asked for again.
    if (prev !== chain) return pause(1, print({ cursor: chain, type: 'lost', prev }));
    chain = cursor;
    if (type === 'message.sent') print({ cursor, type, message });
    if (type === 'receipt.received' || type === 'receipt.read') print({ cursor, type, actor_id, up_to });
  } // Types and fields that you do not know will come: ignore them.
  chain = last;
}
function begin(type, { cursor, reason }) {
  [chain, begun] = [cursor, true];
  print({ cursor, type, reason });
}
