// TOKEN=… node socket.mjs http://127.0.0.1:3000 send USER TEXT    sends, and prints the message once it is durable
// TOKEN=… node socket.mjs http://127.0.0.1:3000 follow [CURSOR]   prints what happens, JSON a line; misses nothing
import { io } from 'socket.io-client';
const [server, command, ...words] = process.argv.slice(2);
const print = (line) => console.log(JSON.stringify(line));
let chain = command === 'follow' ? words[0] : undefined; // the cursor of the last delivery
let resuming = false; // until it is acked, what comes is of the broken chain

// When it is cut off it comes back by itself, with what `auth` gives at that moment.
const socket = io(server, { auth: (give) => give({ token: process.env.TOKEN, after: chain }) });
socket.on('connect_error', ({ message }) => failed(message)).on('disconnect', failed);
function failed(why) {
  console.error(why);
  resuming = false;
  if (!socket.active) process.exit(1); // refused or sent away for good: a token, a cursor
}
const begin = (type) => ({ cursor, reason }) => resuming || print({ cursor: (chain = cursor), type, reason });
const follow = () => socket.on('ready', begin('ready')).on('reset', begin('reset')).on('heartbeat', follows)
  .on('event', (event) => {
    if (!follows(event)) return;
    const { cursor, type, actor_id, message, up_to } = event; // message.data is a Buffer, in browsers an ArrayBuffer
    if (type === 'message.sent') print({ cursor, type, message });
    if (type === 'receipt.received' || type === 'receipt.read') print({ cursor, type, actor_id, up_to });
  }); // Types and fields that you do not know will come: ignore them.
function follows({ cursor, prev }) {
  if (!resuming && prev === (chain ??= prev)) return (chain = cursor); // each delivery names the one before it
  if (!resuming) resume(print({ cursor: chain, type: 'lost', prev }));
}
function resume() {
  const acked = (error) => ((resuming = false), error && socket.connected && resume());
  resuming = true;
  socket.timeout(10_000).emit('resume', { after: chain }, acked);
}
async function send(receiver_id, text, key = crypto.randomUUID()) { // the same key until it is answered: one message
  const ack = await socket.timeout(10_000).emitWithAck('send', { receiver_id, text, key }).catch(() => ({}));
  if (!ack.result && !(ack.problem?.status < 429)) return setTimeout(send, 1000, receiver_id, text, key);
  process.exitCode = ack.result ? print(ack.result) : (console.error(ack.problem), 1);
  socket.off().disconnect();
}
command === 'send' ? send(...words) : follow();
