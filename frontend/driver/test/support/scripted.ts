/**
 * A server that does what it is told: the four rungs over real sockets, a log of one user in memory, and faults. It
 * stands on socket.io's own server, so that what the driver meets is the protocol and not our idea of it.
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket as TcpSocket } from 'node:net';
import type { Duplex } from 'node:stream';

import { Server as Engine } from 'engine.io';
import { Server, type Socket } from 'socket.io';

import type { Problem } from '../../src/errors.js';
import type { Message, Transport } from '../../src/types.js';

export const FAULTS = [
  'refused',
  'hanging',
  'half-open',
  'closing mid-stream',
  'silent',
  'buffered',
  '401',
  '403',
  '429',
  '503',
  'reset',
  'broken chain',
  'unknown event',
] as const;
export type Fault = (typeof FAULTS)[number];

export const HEARTBEAT = 40;

export interface Recorded {
  position: number;
  type: string;
  conversation_id: string;
  actor_id: string;
  occurred_at: string;
  key?: string;
  message?: Message;
  up_to?: { _id: number; seq: number };
  [field: string]: unknown;
}

export interface Asked {
  name: string;
  payload: Record<string, unknown>;
  /** Over the socket, or by REST. */
  over: 'socket' | 'rest';
}

/** What becomes of a command: a refusal, silence, or silence after it was carried out. */
export type Verdict = Problem | 'hang' | 'lose' | undefined;

export function problem(code: string, status: number, more: Partial<Problem> = {}): Problem {
  return { type: `urn:chat-system:problem:${code}`, title: code, status, code, ...more };
}

export function tokenOf(user: string, name = 'good'): string {
  return `head.${Buffer.from(JSON.stringify({ sub: user })).toString('base64url')}.${name}`;
}

export class Scripted {
  url = '';
  readonly log: Recorded[] = [];
  readonly faults = new Map<Transport, Fault>();
  /** Each time that a rung was tried. */
  readonly tried: Transport[] = [];
  /** `resume` over a socket, and streams and polls that begin after a cursor in the middle. */
  readonly begun: { transport: Transport; after: string | undefined; at: number }[] = [];
  readonly commands: Asked[] = [];
  readonly tokens: string[] = [];
  /** What is asked about each command. */
  judge: (asked: Asked) => Verdict = () => undefined;
  /** Whether a token is taken. */
  authorize: (token: string | undefined) => Problem | undefined = () => undefined;
  epoch = 'e';
  /** What stands before every path. */
  prefix = '';
  retryAfter: number = 0.05;
  /** What `ready` says, as JSON can say it. */
  heartbeat: unknown = HEARTBEAT / 1000;
  features: unknown;
  /** What every stream ends with as soon as it was ready. */
  last: { code: string; retry_after: unknown } | undefined;
  /** Milliseconds until a command is answered. */
  delay = 0;
  /** Positions that are lost on the wire, once each for a rung. */
  readonly #lost = new Set<string>();
  readonly #keys = new Map<string, Message>();
  readonly #feeds = new Set<Feed>();
  readonly #http = createServer((request, response) => void this.#request(request, response));
  readonly #engine = new Engine({ transports: ['polling', 'websocket'], pingInterval: 25_000 });
  readonly #io = new Server({ serveClient: false });
  readonly #sockets = new Set<TcpSocket>();
  readonly #reset = new Set<string>();

  static async start(): Promise<Scripted> {
    const server = new Scripted();
    server.#io.bind(server.#engine as never);
    server.#io.use((socket, next) => server.#admit(socket, next));
    server.#io.on('connection', (socket) => server.#socket(socket));
    server.#http.on('upgrade', (request, socket, head) => server.#upgrade(request, socket, head));
    server.#http.on('connection', (socket) => {
      server.#sockets.add(socket);
      socket.on('close', () => server.#sockets.delete(socket));
    });
    await new Promise<void>((listening) => server.#http.listen(0, '127.0.0.1', listening));
    server.url = `http://127.0.0.1:${(server.#http.address() as AddressInfo).port}`;
    return server;
  }

  async stop(): Promise<void> {
    this.faults.clear();
    for (const feed of this.#feeds) feed.end();
    this.cut();
    this.#io.disconnectSockets(true);
    this.#engine.close();
    await new Promise((closed) => this.#http.close(closed));
  }

  /** Breaks every connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** What goes out of its own accord, to whoever listens. */
  say(name: string, frame: object): void {
    for (const feed of [...this.#feeds]) feed.write(name, frame);
  }

  /** Every stream that is open stays so, and brings nothing any more. */
  hush(): void {
    for (const feed of [...this.#feeds]) feed.stop();
  }

  /** The last word of every stream, and its end. */
  dismiss(code: string, retry_after: number): void {
    for (const feed of [...this.#feeds]) {
      feed.write('closing', { code, retry_after });
      feed.stop();
      feed.finish();
    }
  }

  /** How many streams are open. */
  get listeners(): number {
    return this.#feeds.size;
  }

  record(fields: Partial<Recorded> & { type: string }): Recorded {
    const position = this.log.length + 1;
    const event: Recorded = {
      position,
      conversation_id: 'alice,bob',
      actor_id: 'bob',
      occurred_at: new Date().toISOString(),
      ...fields,
    };
    this.log.push(event);
    for (const feed of [...this.#feeds]) feed.pump();
    return event;
  }

  /** A message of bob to alice, or what is given. */
  message(text: string, more: Partial<Message> = {}, key?: string): Message {
    const conversation_id = more.conversation_id ?? 'alice,bob';
    const seq = 1 + this.messages(conversation_id).length;
    const message: Message = {
      _id: this.log.length + 1,
      conversation_id,
      seq,
      sender_id: 'bob',
      receiver_id: 'alice',
      sent_at: 1_790_000_000,
      received_at: null,
      content_type: 'text/plain',
      text,
      ...more,
    };
    const keyed = key === undefined ? {} : { key };
    this.record({ type: 'message.sent', conversation_id, actor_id: message.sender_id, message, ...keyed });
    return message;
  }

  messages(conversation_id: string): Message[] {
    return this.log.flatMap(({ message }) => (message?.conversation_id === conversation_id ? [message] : []));
  }

  // --- Faults ---

  /** What a rung does at once when somebody comes to it; true if it is done with. */
  #stumble(transport: Transport, stream: Duplex, refuse: (problem: Problem) => void): boolean {
    switch (this.faults.get(transport)) {
      case 'refused':
        stream.destroy();
        return true;
      case 'hanging':
        return true;
      case '401':
        if (!isSocket(transport)) refuse(problem('token_expired', 401));
        return !isSocket(transport);
      case '403':
        if (!isSocket(transport)) refuse(problem('scope_missing', 403));
        return !isSocket(transport);
      case '429':
        refuse(problem('rate_limited', 429, { retry_after: this.retryAfter }));
        return true;
      case '503':
        refuse(problem('starting', 503, { retry_after: this.retryAfter }));
        return true;
      default:
        return false;
    }
  }

  // --- Requests ---

  async #request(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.#unprefix(request)) return void response.writeHead(404).end();
    const url = new URL(request.url!, this.url);
    response.on('error', () => {});
    if (url.pathname.startsWith('/socket.io')) return this.#polling(url, request, response);
    const body = await readAll(request);
    const token = request.headers.authorization?.replace('Bearer ', '');
    if (token !== undefined) this.tokens.push(token);
    if (url.pathname === '/v1/events') return this.#events(url, request, response, token);
    const refused = this.authorize(token);
    if (refused) return refuse(response, refused);
    const query: Record<string, unknown> = Object.fromEntries(url.searchParams);
    for (const name of ['before', 'after', 'limit']) if (name in query) query[name] = Number(query[name]);
    const name = url.pathname === '/v1/messages' ? (request.method === 'POST' ? 'send' : 'history') : url.pathname.slice(4);
    const fields = request.method === 'POST' ? JSON.parse(body) : query;
    const key = request.headers['idempotency-key'];
    const asked: Asked = { name: name === 'receipts' ? 'receipt' : name, payload: { ...fields, ...(key ? { key } : {}) }, over: 'rest' };
    const answer = this.#carryOut(asked);
    if (answer === undefined) return;
    if (this.delay > 0) await new Promise((later) => setTimeout(later, this.delay));
    if ('problem' in answer) return refuse(response, answer.problem);
    json(response, request.method === 'POST' ? 201 : 200, answer.result);
  }

  #unprefix(request: IncomingMessage): boolean {
    if (!request.url!.startsWith(this.prefix)) return false;
    request.url = request.url!.slice(this.prefix.length);
    return true;
  }

  #polling(url: URL, request: IncomingMessage, response: ServerResponse): void {
    const fresh = !url.searchParams.has('sid');
    if (fresh) {
      this.tried.push('polling');
      if (this.#stumble('polling', request.socket, (problem) => refuse(response, problem))) return;
    }
    const fault = this.faults.get('polling');
    // The answer to the handshake came; what follows it is lost.
    if (!fresh && fault === 'half-open' && request.method === 'GET') return;
    if (!fresh && fault === 'refused') return void request.socket.destroy();
    this.#engine.handleRequest(request as never, response);
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (!this.#unprefix(request)) return void socket.destroy();
    this.tried.push('websocket');
    socket.on('error', () => {});
    const refuse = ({ status }: Problem) => socket.end(`HTTP/1.1 ${status} No\r\nRetry-After: 1\r\nConnection: close\r\n\r\n`);
    if (this.#stumble('websocket', socket, refuse)) return;
    const fault = this.faults.get('websocket');
    if (fault === 'buffered' || fault === 'half-open') {
      // Taken by something that lets nothing through; or, half open, nothing but the transport's own first word.
      const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
      const accept = createHash('sha1').update(key).digest('base64');
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
      );
      const open = `0${JSON.stringify({ sid: 'half', upgrades: [], pingInterval: 25000, pingTimeout: 20000, maxPayload: 1e6 })}`;
      if (fault === 'half-open') socket.write(Buffer.concat([Buffer.from([0x81, open.length]), Buffer.from(open)]));
      socket.resume();
      return;
    }
    this.#engine.handleUpgrade(request as never, socket as never, head);
  }

  #events(url: URL, request: IncomingMessage, response: ServerResponse, token: string | undefined): void {
    const streamed = request.headers.accept === 'text/event-stream';
    const transport = streamed ? 'sse' : 'long-poll';
    this.tried.push(transport);
    const fault = this.faults.get(transport);
    const later = (fault === '503' || fault === '429') && streamed;
    if (!later && this.#stumble(transport, request.socket, (problem) => refuse(response, problem))) return;
    const refused = this.authorize(token);
    if (refused) return refuse(response, refused);
    const after = (request.headers['last-event-id'] as string | undefined) ?? url.searchParams.get('after') ?? undefined;
    if (!streamed) return this.#poll(after, Number(url.searchParams.get('wait')), response);
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    response.flushHeaders();
    const write = (name: string, frame: object) => {
      if (fault === 'half-open' || fault === 'buffered') return;
      response.write(`${name === 'event' ? '' : `event: ${name}\n`}data: ${JSON.stringify(frame)}\n\n`);
    };
    if (later) {
      const code = fault === '503' ? 'starting' : 'rate_limited';
      write('closing', { code, retry_after: this.retryAfter });
      return void response.end();
    }
    const feed = this.feed('sse', after, write, () => response.destroy(), () => response.end());
    response.on('close', () => feed.end());
  }

  #poll(after: string | undefined, wait: number, response: ServerResponse): void {
    const fault = this.faults.get('long-poll');
    this.begun.push({ transport: 'long-poll', after, at: Date.now() });
    if (fault === 'reset' && after !== undefined && !this.#reset.has('long-poll')) {
      this.#reset.add('long-poll');
      this.epoch += '+';
      const reset = { cursor: this.head, reason: 'other_epoch', oldest: 1 };
      return refuse(response, problem('cursor_reset', 410, reset));
    }
    const deadline = Date.now() + (wait > 0 ? 300 : 0);
    const answer = () => {
      if (response.destroyed) return;
      let prev = after === undefined ? this.head : after;
      const events = this.log
        .filter(({ position }) => position > this.positionOf(prev))
        .slice(0, 5)
        .map((event) => {
          const cursor = this.cursorOf(event.position);
          const given = { cursor, prev, ...event };
          prev = cursor;
          return given;
        });
      if (events.length === 0 && Date.now() < deadline) return void setTimeout(answer, 5);
      if (fault === 'silent' && wait > 0) return;
      if (fault === 'broken chain' && events.length > 1 && !this.#lost.has('long-poll')) {
        this.#lost.add('long-poll');
        events.splice(1, 1);
        if (events.length === 1) return answer();
      }
      const body = { events, cursor: prev, head: this.log.length, more: this.log.length > this.positionOf(prev) };
      const text = JSON.stringify(body);
      if ((fault === 'closing mid-stream' && wait > 0) || fault === 'half-open') {
        response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': text.length });
        response.write(text.slice(0, 10));
        if (fault !== 'half-open') setTimeout(() => response.destroy(), 5);
        return;
      }
      json(response, 200, body);
    };
    answer();
  }

  // --- Sockets ---

  #admit(socket: Socket, next: (error?: Error) => void): void {
    const transport = socket.conn.transport.name as Transport;
    const token = socket.handshake.auth['token'] as string | undefined;
    if (token !== undefined) this.tokens.push(token);
    const fault = this.faults.get(transport);
    const refused =
      fault === '401' ? problem('token_expired', 401) : fault === '403' ? problem('scope_missing', 403) : this.authorize(token);
    if (refused) return next(Object.assign(new Error(refused.code), { data: refused }));
    next();
  }

  #socket(socket: Socket): void {
    const transport = socket.conn.transport.name as 'websocket' | 'polling';
    const begin = (after: string | undefined) =>
      this.feed(
        transport,
        after,
        (name, frame) => socket.emit(name, frame),
        () => socket.conn.close(),
        () => socket.disconnect(true),
      );
    let feed = begin(socket.handshake.auth['after'] as string | undefined);
    socket.on('disconnect', () => feed.end());
    socket.onAny((name: string, payload: Record<string, unknown>, ack?: (answer: object) => void) => {
      if (name === 'resume') {
        feed.stop();
        ack?.({ result: {} });
        feed = begin(payload['after'] as string);
        return;
      }
      if (name === 'authenticate') {
        this.tokens.push(payload['token'] as string);
        return ack?.({ result: { expires_at: 0 } });
      }
      const answer = this.#carryOut({ name, payload, over: 'socket' });
      if (answer) setTimeout(() => ack?.(answer), this.delay);
    });
  }

  // --- The log ---

  get head(): string {
    return this.cursorOf(this.log.length);
  }

  cursorOf(position: number): string {
    return `${this.epoch}:${position}`;
  }

  positionOf(cursor: string): number {
    return Number(cursor.split(':').at(-1));
  }

  feed(transport: Transport, after: string | undefined, write: Feed['send'], close: () => void, finish: () => void): Feed {
    this.begun.push({ transport, after, at: Date.now() });
    const feed = new Feed(this, transport, write, close, finish, () => this.#feeds.delete(feed));
    this.#feeds.add(feed);
    const lost = this.faults.get(transport) === 'reset' && after !== undefined && !this.#reset.has(transport);
    if (lost) {
      this.#reset.add(transport);
      this.epoch += '+';
    }
    feed.begin(lost ? undefined : after, lost);
    return feed;
  }

  /** Loses an event on its way, once for each rung. */
  loses(transport: Transport, position: number): boolean {
    if (this.faults.get(transport) !== 'broken chain' || position % 3 !== 0) return false;
    if (this.#lost.has(transport)) return false;
    this.#lost.add(transport);
    return true;
  }

  // --- Commands ---

  #carryOut(asked: Asked): { result: unknown } | { problem: Problem } | undefined {
    this.commands.push(asked);
    const verdict = this.judge(asked);
    if (verdict === 'hang') return undefined;
    if (typeof verdict === 'object') return { problem: verdict };
    const { name, payload } = asked;
    const result = this.#result(name, payload);
    if (verdict === 'lose') return undefined;
    return result;
  }

  #result(name: string, payload: Record<string, unknown>): { result: unknown } | { problem: Problem } {
    switch (name) {
      case 'send': {
        const key = payload['key'] as string;
        const receiver_id = payload['receiver_id'] as string;
        const before = this.#keys.get(key);
        if (before) return { result: before };
        const conversation_id = ['alice', receiver_id].sort().join(',');
        const content = payload['data'] === undefined ? {} : { text: undefined as never, data: payload['data'] as Uint8Array };
        const message = this.message(payload['text'] as string, { conversation_id, sender_id: 'alice', receiver_id, ...content }, key);
        this.#keys.set(key, message);
        return { result: message };
      }
      case 'receipt': {
        const { message } = this.log[(payload['up_to'] as number) - 1]!;
        const { conversation_id, seq, _id } = message!;
        this.record({ type: `receipt.${payload['type']}`, conversation_id, actor_id: 'alice', up_to: { _id, seq } });
        return { result: { conversation_id, user_id: 'alice', received_seq: seq, read_seq: payload['type'] === 'read' ? seq : 0 } };
      }
      case 'history': {
        const conversation = ['alice', payload['with'] as string].sort().join(',');
        const { after, before = Infinity, limit = 50 } = payload as { after?: number; before?: number; limit?: number };
        const cursor = this.head;
        let messages = this.messages(conversation).filter(({ _id }) => _id > (after ?? 0) && _id < before);
        if (after === undefined) messages.reverse();
        const more = messages.length > limit;
        messages = messages.slice(0, limit);
        return { result: { messages, next: more ? `/v1/messages?before=${messages.at(-1)!._id}` : null, prev: null, cursor } };
      }
      case 'conversations': {
        const { before = Infinity, limit = 50 } = payload as { before?: number; limit?: number };
        const last = new Map<string, Message>();
        for (const { message } of this.log) if (message) last.set(message.conversation_id, message);
        const all = [...last.values()].sort((one, other) => other._id - one._id).filter(({ _id }) => _id < before);
        const conversations = all.slice(0, limit).map((last_message) => {
          const { conversation_id, seq } = last_message;
          const users = conversation_id.split(',');
          const participants = users.map((user_id) => ({ user_id, received_seq: 0, read_seq: 0 }));
          return { conversation_id, with: users.find((user) => user !== 'alice')!, seq, unread: seq, last_message, participants };
        });
        const next = all.length > limit ? `/v1/conversations?before=${conversations.at(-1)!.last_message._id}&limit=${limit}` : null;
        return { result: { conversations, next, cursor: this.head } };
      }
      default:
        return { problem: problem('event_unknown', 400) };
    }
  }
}

/** One stream from one cursor. */
class Feed {
  #prev = '';
  #position = 0;
  #given = 0;
  #stopped = false;
  #beat: ReturnType<typeof setInterval> | undefined;

  constructor(
    private readonly server: Scripted,
    private readonly transport: Transport,
    readonly send: (name: string, frame: object) => void,
    private readonly close: () => void,
    readonly finish: () => void,
    private readonly gone: () => void,
  ) {}

  begin(after: string | undefined, lost: boolean): void {
    const { server } = this;
    this.#position = after === undefined || after === '' ? server.log.length : server.positionOf(after);
    const cursor = after === undefined || after === '' || after === '0' ? server.cursorOf(this.#position) : after;
    this.#prev = cursor;
    if (lost) this.write('reset', { cursor, reason: 'other_epoch', oldest: 1 });
    else {
      const { heartbeat: heartbeat_s, features } = server;
      this.write('ready', { cursor, head: server.log.length, user_id: 'alice', heartbeat_s, ...(features === undefined ? {} : { features }) });
    }
    if (server.last) {
      this.write('closing', server.last);
      this.stop();
      return void setTimeout(() => this.finish(), 1);
    }
    this.#beat = setInterval(() => this.#heartbeat(), HEARTBEAT);
    this.pump();
  }

  write(name: string, frame: object): void {
    if (!this.#stopped) this.send(name, frame);
  }

  pump(): void {
    const { server, transport } = this;
    const fault = server.faults.get(transport);
    while (!this.#stopped && this.#position < server.log.length) {
      if (fault === 'silent' && this.#given > 0) return;
      const event = server.log[this.#position++]!;
      const cursor = server.cursorOf(event.position);
      const frame = { cursor, prev: this.#prev, ...event };
      this.#prev = cursor;
      if (server.loses(transport, event.position)) continue;
      if (fault === 'unknown event') this.write('presence', { user_id: 'bob', state: 'typing' });
      this.write('event', frame);
      if (++this.#given === 1 && fault === 'closing mid-stream') {
        setTimeout(() => this.close(), 10);
        this.stop();
      }
    }
  }

  #heartbeat(): void {
    if (this.#stopped || this.server.faults.get(this.transport) === 'silent') return;
    const cursor = this.server.cursorOf(this.#position);
    this.write('heartbeat', { cursor, prev: this.#prev });
    this.#prev = cursor;
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#beat);
    this.gone();
  }

  end(): void {
    this.stop();
  }
}

function isSocket(transport: Transport): boolean {
  return transport === 'websocket' || transport === 'polling';
}

function json(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body, (_, value) =>
    value?.type === 'Buffer' ? Buffer.from(value.data).toString('base64') : value,
  );
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(text);
}

function refuse(response: ServerResponse, problem: Problem): void {
  const later = problem.retry_after === undefined ? {} : { 'Retry-After': problem.retry_after };
  response.writeHead(problem.status, { 'Content-Type': 'application/problem+json', ...later });
  response.end(JSON.stringify(problem));
}

async function readAll(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}
