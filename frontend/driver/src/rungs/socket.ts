/**
 * The two upper rungs: socket.io over a websocket, and over polling. Reconnecting is the ladder's business, which goes
 * elsewhere when it does not work, so that socket.io-client has none of its own here, and does not step up by itself.
 */
import { io, type Socket } from 'socket.io-client';

import { ChatError } from '../errors.js';
import { carrying } from '../rest.js';
import { closing, jsonOf, problemIn, refusal } from '../wire.js';
import type { Delivery, Lost, Ready } from '../wire.js';
import { Link, type Opening } from './link.js';

export class SocketLink extends Link {
  readonly #socket: Socket;
  #resuming = false;
  #closing: ChatError | undefined;

  constructor(transport: 'websocket' | 'polling', at: Opening) {
    super(transport, at);
    const { origin, pathname } = new URL(at.url);
    this.#socket = io(origin, {
      path: `${pathname.replace(/\/$/, '')}/socket.io`,
      auth: { token: at.token, ...(at.after === undefined ? {} : { after: at.after }) },
      transports: [transport],
      upgrade: false,
      forceNew: true,
      reconnection: false,
      timeout: at.timing.ready,
    });
    // What one of these throws, over a frame of an unknown form, would be nobody's.
    const take =
      <T>(handler: (frame: T) => unknown) =>
      (frame: T) => {
        try {
          handler(frame);
        } catch (cause) {
          this.end(new ChatError('answer_invalid', 'a frame of an unknown form', { status: 502, cause }));
        }
      };
    this.#socket
      .on('connect_error', (error) => this.end(whyNot(error)))
      .on('disconnect', (why) => this.end(this.#closing ?? new ChatError('network', `the socket ended: ${why}`)))
      .on('ready', take((ready: Ready) => this.#resuming || this.ready(ready)))
      .on('reset', take((lost: Lost) => this.#resuming || this.lost(lost)))
      .on('event', take((event: Delivery) => this.#step(event)))
      .on('heartbeat', take((heartbeat: Delivery) => this.#step(heartbeat)))
      .on('expiring', () => this.over || at.on.expiring(this))
      .on('closing', take((frame: object) => (this.#closing = closing(frame))));
  }

  override async command(name: string, payload: Record<string, unknown>): Promise<unknown> {
    if (!this.#socket.connected) throw new ChatError('network', 'the socket is not connected');
    let answer: { result?: unknown; problem?: unknown };
    try {
      const { data, text } = payload as { data?: Uint8Array; text?: string };
      const limit = this.at.timing.answer + carrying(data?.length ?? text?.length ?? 0);
      answer = await this.#socket.timeout(limit).emitWithAck(name, payload);
    } catch (cause) {
      const late = this.#socket.connected;
      throw new ChatError(late ? 'timeout' : 'network', 'no answer over the socket', { cause });
    }
    if (answer?.result !== undefined) return answer.result;
    throw refusal(502, answer?.problem);
  }

  override async authenticate(token: string): Promise<void> {
    await this.command('authenticate', { token });
    this.at.token = token;
  }

  protected override shut(): void {
    const engine = this.#socket.io.engine as { transport?: { pollXhr?: { abort(): void } } } | undefined;
    this.#socket.removeAllListeners();
    this.#socket.disconnect();
    // A poll that hangs would hold one of the few connections that a browser has for a host.
    engine?.transport?.pollXhr?.abort();
  }

  #step(delivery: Delivery): void {
    if (this.#resuming || this.follow(delivery)) return;
    this.#resume();
  }

  /** What comes until the ack is of the broken chain. */
  #resume(): void {
    this.#resuming = true;
    this.command('resume', { after: this.chain ?? '' }).then(
      () => (this.#resuming = false),
      (error: ChatError) => this.end(error),
    );
  }
}

/** A refusal of the server has its problem with it; one of the transport may have an HTTP answer. */
function whyNot(error: Error & { data?: unknown; description?: unknown; context?: unknown }): ChatError {
  const problem = problemIn(error.data);
  if (problem) return ChatError.of(problem);
  const { description: status, context } = error;
  if (typeof status !== 'number' || status < 400) return new ChatError('network', error.message, { cause: error });
  const { responseText = '' } = (context ?? {}) as { responseText?: string };
  return refusal(status, jsonOf(responseText));
}
