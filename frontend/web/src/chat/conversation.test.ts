import { expect, test } from 'vitest';
import { Conversation, shown } from './conversation';

const message = (seq: number) =>
  shown({
    _id: seq * 10,
    conversation_id: 'alice,bob',
    seq,
    sender_id: 'bob',
    receiver_id: 'alice',
    sent_at: 1_790_000_000 + seq,
    received_at: null,
    content_type: 'text/plain',
    text: String(seq),
  });
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, n) => message(from + n));
const seqs = (conversation: Conversation) => conversation.messages.map(({ seq }) => seq);

function opened(): Conversation {
  const conversation = new Conversation('alice', 'bob');
  conversation.opened = true;
  return conversation;
}

test('its id is that of the server', () => {
  expect(new Conversation('bob', 'alice').id).toBe('alice,bob');
  expect(new Conversation('a', 'Z').id).toBe('Z,a');
  expect(new Conversation('me', 'me')).toMatchObject({ id: 'me,me', self: true });
});

test('pages and what comes make one run without a hole, each message once', () => {
  const conversation = opened();
  expect(conversation.append(message(9))).toBe(true);
  expect(conversation.merge(range(4, 8))).toBe(true);
  expect(conversation.append(message(10))).toBe(true);
  expect(conversation.append(message(10))).toBe(true);
  expect(conversation.merge(range(1, 6))).toBe(true);
  expect(conversation.merge(range(8, 12))).toBe(true);
  expect(conversation.merge([])).toBe(true);
  expect(seqs(conversation)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  expect(conversation.total.value).toBe(12);
  expect(conversation.last.value?.seq).toBe(12);
});

test('what would leave a hole is not taken', () => {
  const conversation = opened();
  conversation.merge(range(5, 6));
  expect(conversation.append(message(8))).toBe(false);
  expect(conversation.merge(range(1, 3))).toBe(false);
  expect(conversation.merge(range(8, 9))).toBe(false);
  expect(seqs(conversation)).toEqual([5, 6]);
});

test('before it is opened it has a number and its newest message, and no others', () => {
  const conversation = new Conversation('alice', 'bob');
  expect(conversation.append(message(7))).toBe(true);
  expect(conversation.messages).toEqual([]);
  conversation.myRead.value = 4;
  expect(conversation.unread.value).toBe(3);
  conversation.myRead.value = 9;
  expect(conversation.unread.value).toBe(0);
});

test('when it is left it keeps the newest', () => {
  const conversation = opened();
  conversation.merge(range(1, 500));
  conversation.older.value = false;
  conversation.myRead.value = 450;
  conversation.leave();
  expect(conversation.messages).toHaveLength(200);
  expect(conversation.messages.at(-1)?.seq).toBe(500);
  expect(conversation.older.value).toBe(true);
});

test('what is kept of it reaches from what is unread to the newest, or is not kept', () => {
  const read = (upTo: number, from: number, to: number) => {
    const conversation = opened();
    conversation.merge(range(from, to));
    conversation.total.value = 500;
    conversation.myRead.value = upTo;
    conversation.leave();
    return seqs(conversation).length;
  };
  expect(read(500, 401, 500)).toBe(100);
  expect(read(420, 401, 500)).toBe(100);
  expect(read(400, 401, 500)).toBe(100);
  // The first unread one is before the run.
  expect(read(300, 401, 500)).toBe(0);
  // The run ends before the newest, and all is read.
  expect(read(500, 1, 100)).toBe(0);
  expect(read(20, 1, 100)).toBe(100);
});

test('what comes is not put behind a run that ends before the newest', () => {
  const conversation = opened();
  conversation.merge(range(1, 100));
  conversation.total.value = 500;
  expect(conversation.newer).toBe(true);
  expect(conversation.append(message(501))).toBe(true);
  expect(seqs(conversation)).toHaveLength(100);
  expect(conversation.total.value).toBe(501);
  conversation.merge(range(101, 501));
  expect(conversation.newer).toBe(false);
  expect(conversation.append(message(502))).toBe(true);
  expect(seqs(conversation)).toHaveLength(502);
});

test('an erased message has no kind', () => {
  expect(shown({ ...{ _id: 1, conversation_id: 'a,b', seq: 1, sender_id: 'a', receiver_id: 'b' }, sent_at: 1, received_at: null }).kind).toBeNull();
});
