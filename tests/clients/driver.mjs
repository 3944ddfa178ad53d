// The tests' hand on real socket.io clients: one process that holds many, told what to do in lines of JSON, and telling
// what happens to them in lines of JSON. `tests/src/sockets.rs` speaks to it, and to `driver.py` in the same words.
//
//   node driver.mjs PORT PACKAGE     connects to the test at PORT; PACKAGE is the client to drive
//   -> {"id":1,"do":"connect","name":"a","port":3000,"auth":{"token":"…"},"options":{…}}    <- {"id":1,"answer":…}
//   <- {"name":"a","event":"ready","args":[…]}     $open, $upgrade, $connect, $disconnect, $connect_error, $acked: see there
//
// Bytes are {"$binary": base64} in both directions. Options beside those of socket.io-client: `follow` comes back with the
// cursor of the last delivery, and `first` is emitted at the moment of each connect.
import { connect as dial } from 'node:net';
import { createInterface } from 'node:readline';

const [port, name] = process.argv.slice(2);
const { io } = await import(name);
const test = dial(Number(port), '127.0.0.1');
const tell = (line) => test.write(`${JSON.stringify(line)}\n`);
const sockets = new Map();

const commands = {
  connect({ name, port, auth, options: { follow, first, ...options } }) {
    let cursor;
    const give = (done) => done({ ...sockets.get(name).auth, ...(follow && cursor && { after: cursor }) });
    const socket = io(`http://127.0.0.1:${port}`, { ...options, auth: give, forceNew: true });
    const happened = (event, ...args) => tell({ name, event, args: outward(args) });
    sockets.set(name, { socket, auth, happened });
    socket.onAny((event, ...args) => {
      cursor = args[0]?.cursor ?? cursor;
      happened(event, ...args);
    });
    socket.io.on('open', () => {
      happened('$open', transport(socket));
      socket.io.engine.once('upgrade', () => happened('$upgrade', transport(socket)));
    });
    socket.on('connect', () => {
      happened('$connect');
      if (first) emit(name, first.event, first.payload);
    });
    socket.on('disconnect', (reason) => happened('$disconnect', { reason, active: socket.active }));
    socket.on('connect_error', ({ message, data, context, description }) => {
      const status = context?.status ?? (typeof description === 'number' ? description : undefined);
      happened('$connect_error', { message, data, status, active: socket.active });
    });
  },
  // What the next connects say.
  auth({ name, auth }) {
    sockets.get(name).auth = auth;
  },
  // All at once, in this order; the answer is the acks.
  emit({ name, event, payloads }) {
    return Promise.all(payloads.map((payload) => emit(name, event, payload)));
  },
  transport: ({ name }) => transport(sockets.get(name).socket),
  connected: ({ name }) => sockets.get(name).socket.connected,
  disconnect({ name }) {
    sockets.get(name).socket.disconnect();
  },
};

const transport = (socket) => socket.io.engine.transport.name;

function emit(name, event, payload) {
  const { socket, happened } = sockets.get(name);
  return new Promise((done) => {
    socket.emit(event, inward(payload), (...args) => {
      happened('$acked', event, ...args);
      done(outward(args));
    });
  });
}

function outward(value) {
  if (value instanceof ArrayBuffer) value = new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return { $binary: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') };
  if (Array.isArray(value)) return value.map(outward);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, outward(field)]));
}

function inward(value) {
  if (typeof value?.$binary === 'string') return Buffer.from(value.$binary, 'base64');
  if (Array.isArray(value)) return value.map(inward);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, inward(field)]));
}

createInterface({ input: test, crlfDelay: Infinity }).on('line', async (line) => {
  const command = JSON.parse(line);
  tell({ id: command.id, answer: (await commands[command.do](command)) ?? null });
});
// The test has ended.
test.on('close', () => process.exit());
test.on('error', () => process.exit());
