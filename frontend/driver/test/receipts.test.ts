/** What others are told of what was received and read here, and what is known here without them. */
import { expect, test } from 'vitest';

import { observe, scripted, shelf, until } from './support/observed.js';
import { problem, type Scripted } from './support/scripted.js';

const told = (server: Scripted) => server.commands.filter(({ name }) => name === 'receipt').map(({ payload }) => [payload['type'], payload['up_to']]);
const unread = async (chat: ReturnType<typeof observe>['chat']) => {
  for await (const { unread, participants } of chat.conversations()) return [unread, participants.find(({ user_id }) => user_id === 'alice')!.read_seq];
  return undefined;
};

test('what is switched off is told to nobody, and what is unread is counted all the same', async () => {
  const server = await scripted();
  const [one, two] = ['one', 'two', 'three'].map((text) => server.message(text));
  const watched = observe(server, { load: true, autoReceived: true, receipts: { received: false, read: false } });
  await watched.connected();
  expect(await unread(watched.chat)).toEqual([3, 0]);
  await watched.chat.received(one!);
  // What was loaded was received by itself.
  expect(await watched.chat.read(two!)).toEqual({ user_id: 'alice', received_seq: 3, read_seq: 2 });
  expect(await unread(watched.chat)).toEqual([1, 2]);
  // As if it had come from the server, once.
  await watched.chat.read(two!);
  await watched.chat.read(one!);
  await until(() => watched.receipts.length > 0, 'it is given');
  expect(watched.receipts).toEqual([{ type: 'read', conversation_id: 'alice,bob', user_id: 'alice', up_to: { _id: 2, seq: 2 } }]);
  server.message('four');
  await watched.gave(['four']);
  expect(await unread(watched.chat)).toEqual([2, 2]);
  // Without its `seq` it is known where it is the last one.
  await watched.chat.read({ _id: 4, conversation_id: 'alice,bob' });
  expect(await unread(watched.chat)).toEqual([0, 4]);
  expect(told(server)).toEqual([]);
});

test('without `read`, what is read is told as received', async () => {
  const server = await scripted();
  const [one] = ['one', 'two'].map((text) => server.message(text));
  const watched = observe(server, { receipts: { read: false } });
  expect(watched.chat.receipts).toEqual({ received: true, read: false });
  await watched.connected();
  await watched.chat.read(one!);
  await until(() => told(server).length === 1, 'it is told');
  expect(told(server)).toEqual([['received', 1]]);
});

test('it is switched while it runs, also for what waits; what is switched on tells what was before too', async () => {
  const server = await scripted();
  const [one, two] = ['one', 'two'].map((text) => server.message(text));
  server.judge = ({ name }) => (name === 'receipt' ? problem('overloaded', 503, { retry_after: 0.01 }) : undefined);
  const watched = observe(server);
  await watched.connected();
  const said = watched.chat.read(one!);
  await until(() => told(server).length > 0, 'it is tried');
  watched.chat.setReceipts({ received: false, read: false });
  expect((await said).read_seq).toBe(1);
  server.judge = () => undefined;
  server.commands.length = 0;
  await watched.chat.received(two!);
  expect(told(server)).toEqual([]);
  watched.chat.setReceipts({ read: true });
  expect(watched.chat.receipts).toEqual({ received: false, read: true });
  await watched.chat.read(two!);
  expect(told(server)).toEqual([['read', 2]]);
});

test('what was read outlives a reload, and goes once the server knows as much, or the log is another', async () => {
  const server = await scripted();
  const [one, two] = ['one', 'two', 'three'].map((text) => server.message(text));
  const store = shelf();
  const options = { store, after: 'e:0', transports: ['websocket'], receipts: { read: false, received: false } } as const;
  const kept = () => [...store.values.keys()].filter((key) => key.includes('/read/'));
  const first = observe(server, options);
  await first.connected();
  await first.chat.read(two!);
  await until(() => kept().length === 1, 'it is kept');
  await first.chat.close();
  const second = observe(server, options);
  await second.connected();
  expect(await unread(second.chat)).toEqual([1, 2]);
  // A mark that is told elsewhere, not as far; and one that is further.
  server.record({ type: 'receipt.read', actor_id: 'alice', up_to: { _id: one!._id, seq: one!.seq } });
  await until(() => second.receipts.length === 1, 'it is given');
  expect(kept().length).toBe(1);
  server.record({ type: 'receipt.read', actor_id: 'alice', up_to: { _id: 3, seq: 3 } });
  await until(() => kept().length === 0, 'it is not needed any more');
  server.message('four');
  await second.gave(['four']);
  await second.chat.read(second.messages[0]!);
  await until(() => kept().length === 1, 'the next one is kept');
  server.faults.set('websocket', 'reset');
  server.cut();
  await until(() => second.resets.length === 1, 'the log is another');
  await until(() => kept().length === 0, 'it says nothing about this log');
});
