/** Every rung failing in every way. A table, so that no cell is missing. */
import { describe, expect, test } from 'vitest';

import type { Transport } from '../src/index.js';
import { TRANSPORTS } from '../src/ladder.js';
import { type Observed, observe, scripted, until } from './support/observed.js';
import { FAULTS, problem, tokenOf, type Fault, type Scripted } from './support/scripted.js';

type Cell = (server: Scripted, rung: Transport) => Promise<void>;

const BELOW: Record<Transport, Transport | undefined> = {
  websocket: 'polling',
  polling: 'sse',
  sse: 'long-poll',
  'long-poll': undefined,
};

/** The rung and the one below it. */
function from(rung: Transport): Transport[] {
  return TRANSPORTS.slice(TRANSPORTS.indexOf(rung)).slice(0, 2);
}

/** Three from the past, two while it is live. */
async function talk(server: Scripted, watched: Observed): Promise<void> {
  await watched.connected();
  server.message('four');
  server.message('five');
  await watched.gave(['one', 'two', 'three', 'four', 'five']);
}

function past(server: Scripted): void {
  for (const text of ['one', 'two', 'three']) server.message(text);
}

/** It gives way to the rung below; the last one waits until the fault is over. */
const givesWay: Cell = async (server, rung) => {
  past(server);
  const watched = observe(server, { after: 'e:0', transports: from(rung) });
  if (BELOW[rung] === undefined) {
    await until(() => watched.statuses.some(({ state }) => state === 'waiting'), 'it waits');
    server.faults.clear();
  }
  await talk(server, watched);
  expect(watched.chat.status.transport).toBe(BELOW[rung] ?? rung);
  expect(watched.errors).toEqual([]);
};

/** It harms this rung in nothing. */
const staysOn: Cell = async (server, rung) => {
  past(server);
  const watched = observe(server, { after: 'e:0', transports: from(rung) });
  await talk(server, watched);
  expect(new Set(watched.transports)).toEqual(new Set([rung]));
};

/** A part comes through; the rest over the rung below. */
const breaksOff: Cell = async (server, rung) => {
  past(server);
  const watched = observe(server, { after: 'e:0', transports: from(rung) });
  await watched.gave(['one', 'two', 'three']);
  await until(() => watched.chat.status.transport === (BELOW[rung] ?? rung) && watched.chat.status.state === 'connected', 'it went down');
  await talk(server, watched);
  expect(watched.transports[0]).toBe(rung);
};

/** One fresh token, and it goes on; a second refusal is for good. */
const asksForAToken: Cell = async (server, rung) => {
  past(server);
  server.faults.clear();
  server.authorize = (token) => (token?.endsWith('.good') ? undefined : problem('token_expired', 401));
  let fetched = 0;
  const token = () => tokenOf('alice', fetched++ === 0 ? 'old' : 'good');
  const watched = observe(server, { after: 'e:0', transports: from(rung), token });
  await talk(server, watched);
  expect(fetched).toBe(2);
  expect(watched.transports).toEqual([rung]);

  server.faults.set(rung, '401');
  let asked = 0;
  const refused = observe(server, { transports: from(rung), token: () => (asked++, tokenOf('alice', 'old')) });
  await until(() => refused.chat.status.state === 'failed', 'it failed');
  expect(refused.chat.status.error?.code).toBe('token_expired');
  expect(refused.errors.map(({ code, status }) => [code, status])).toEqual([['token_expired', 401]]);
  expect(asked).toBe(2);
  // The user signs in again.
  server.faults.clear();
  refused.chat.authenticate(tokenOf('alice'));
  await refused.connected();
};

/** The server's own no is not tried elsewhere. */
const isRefused: Cell = async (server, rung) => {
  const watched = observe(server, { transports: TRANSPORTS.slice(TRANSPORTS.indexOf(rung)) });
  await until(() => watched.chat.status.state === 'failed', 'it failed');
  expect(watched.errors.map(({ code, status }) => [code, status])).toEqual([['scope_missing', 403]]);
  expect(server.tried).toEqual([rung]);
  server.faults.clear();
  past(server);
  watched.chat.authenticate(tokenOf('alice'));
  await watched.connected();
};

/** It comes again, not before it was told to, and there. */
const comesAgain: Cell = async (server, rung) => {
  past(server);
  // A little more than is asserted: a timer may be a millisecond early by this clock.
  server.retryAfter = 0.205;
  const started = Date.now();
  const watched = observe(server, { after: 'e:0', transports: [rung] });
  await until(() => watched.chat.status.state === 'waiting', 'it waits');
  const { retryAt, error } = watched.chat.status;
  // An upgrade that is refused says nothing to a client but that.
  if (rung !== 'websocket') {
    expect(retryAt! - started).toBeGreaterThanOrEqual(200);
    expect(error?.temporary).toBe(true);
  }
  server.faults.clear();
  await talk(server, watched);
  expect(watched.errors).toEqual([]);
  if (rung !== 'websocket') expect(server.begun[0]!.at - started).toBeGreaterThanOrEqual(200);
};

/** It says so, once, and goes on from where the server says. */
const beginsAnew: Cell = async (server, rung) => {
  past(server);
  const watched = observe(server, { after: 'e:1', transports: [rung] });
  await until(() => watched.resets.length === 1, 'it says that it was reset');
  expect(watched.resets).toEqual([{ reason: 'other_epoch', oldest: 1 }]);
  await watched.connected();
  server.message('four');
  server.message('five');
  await watched.gave(['four', 'five']);
  server.cut();
  server.message('six');
  await watched.gave(['four', 'five', 'six']);
  expect(watched.resets.length).toBe(1);
};

/** What was lost on its way is asked for again, and the rung stays. */
const findsTheLoss: Cell = async (server, rung) => {
  past(server);
  const watched = observe(server, { after: 'e:0', transports: from(rung) });
  await talk(server, watched);
  expect(watched.transports.every((transport) => transport === rung)).toBe(true);
  const again = server.begun.filter(({ transport }) => transport === rung);
  expect(again.length).toBeGreaterThan(1);
};

/** Neither an event, nor a field, nor a name that it does not know is in its way. */
const ignoresIt: Cell = async (server, rung) => {
  server.message('one');
  server.record({ type: 'reaction.added', emoji: '+1', to: { some: ['thing'] } });
  server.message('two', { sticker: true } as object);
  server.record({ type: 'room.created' });
  server.message('three');
  const watched = observe(server, { after: 'e:0', transports: from(rung) });
  await talk(server, watched);
  expect(watched.transports).toEqual([rung]);
  expect(watched.errors).toEqual([]);
  if (rung !== 'long-poll') expect(server.begun.length).toBe(1);
};

/** What each fault is to each rung. Where the rungs differ, they differ in what passes through them. */
const TABLE: Record<Fault, Record<Transport, Cell>> = {
  refused: { websocket: givesWay, polling: givesWay, sse: givesWay, 'long-poll': givesWay },
  hanging: { websocket: givesWay, polling: givesWay, sse: givesWay, 'long-poll': givesWay },
  'half-open': { websocket: givesWay, polling: givesWay, sse: givesWay, 'long-poll': givesWay },
  // Polls that are cut while they wait do not wait any more.
  'closing mid-stream': { websocket: breaksOff, polling: breaksOff, sse: breaksOff, 'long-poll': staysOn },
  silent: { websocket: breaksOff, polling: breaksOff, sse: breaksOff, 'long-poll': staysOn },
  // What holds a stream back passes on an answer that has ended.
  buffered: { websocket: givesWay, polling: staysOn, sse: givesWay, 'long-poll': staysOn },
  '401': { websocket: asksForAToken, polling: asksForAToken, sse: asksForAToken, 'long-poll': asksForAToken },
  '403': { websocket: isRefused, polling: isRefused, sse: isRefused, 'long-poll': isRefused },
  '429': { websocket: comesAgain, polling: comesAgain, sse: comesAgain, 'long-poll': comesAgain },
  '503': { websocket: comesAgain, polling: comesAgain, sse: comesAgain, 'long-poll': comesAgain },
  reset: { websocket: beginsAnew, polling: beginsAnew, sse: beginsAnew, 'long-poll': beginsAnew },
  'broken chain': { websocket: findsTheLoss, polling: findsTheLoss, sse: findsTheLoss, 'long-poll': findsTheLoss },
  'unknown event': { websocket: ignoresIt, polling: ignoresIt, sse: ignoresIt, 'long-poll': ignoresIt },
};

// Beside each other: some faults are only told from a server that takes its time by waiting for a limit.
describe.each(TRANSPORTS)('%s', (rung) => {
  test.concurrent.each(FAULTS)('%s', async (fault) => {
    const server = await scripted();
    server.faults.set(rung, fault);
    await TABLE[fault][rung](server, rung);
  });
});

