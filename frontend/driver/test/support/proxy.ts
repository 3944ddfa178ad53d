/** What stands between a client and the server in some networks; it also serves files, so that a page has one origin. */
import { createServer, request as ask, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

import { atEnd } from './observed.js';

/** What passes. */
export interface Rules {
  websocket?: 'refused' | 'swallowed';
  /** Refuses it with an answer of its own. */
  socketIo?: 'refused';
  /** Bytes of an answer that are held back, until there are more of them or it ends. */
  holdsBack?: number;
  /** Nothing passes but the files. */
  offline?: boolean;
}

export class Proxy {
  rules: Rules = {};
  readonly files = new Map<string, { type: string; body: string | Buffer }>();
  readonly #sockets = new Set<Duplex>();
  readonly #http = createServer((request, response) => this.#request(request, response));

  private constructor(private readonly target: { port: number }) {}

  static async before(target: { port: number }, rules: Rules = {}): Promise<Proxy> {
    const proxy = new Proxy(target);
    proxy.rules = rules;
    proxy.#http.on('upgrade', (request, socket) => proxy.#upgrade(request, socket as Socket));
    proxy.#http.on('connection', (socket) => proxy.#keep(socket));
    await new Promise<void>((listening) => proxy.#http.listen(0, '127.0.0.1', listening));
    atEnd(async () => {
      proxy.cut();
      await new Promise((closed) => proxy.#http.close(closed));
    });
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  /** Breaks every connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  #keep(socket: Duplex): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
  }

  #request(request: IncomingMessage, response: ServerResponse): void {
    const file = this.files.get(request.url!.split('?')[0]!);
    if (file) return void response.writeHead(200, { 'Content-Type': file.type }).end(file.body);
    if (this.rules.offline) return void request.socket.destroy();
    if (this.rules.socketIo && request.url!.startsWith('/socket.io')) {
      return void response.writeHead(403, { 'Content-Type': 'text/html' }).end('<h1>Blocked</h1>');
    }
    const { method, headers, url: path } = request;
    const onward = ask({ host: '127.0.0.1', port: this.target.port, method, headers, path }, (answer) => {
      const { holdsBack = 0 } = this.rules;
      let held: Buffer[] | undefined = holdsBack > 0 ? [] : undefined;
      const begin = () => response.writeHead(answer.statusCode!, answer.headers);
      if (!held) begin();
      answer.on('data', (chunk: Buffer) => {
        if (!held) return void response.write(chunk);
        held.push(chunk);
        if (Buffer.concat(held).length < holdsBack) return;
        begin().write(Buffer.concat(held));
        held = undefined;
      });
      answer.on('end', () => {
        if (held) begin().write(Buffer.concat(held));
        response.end();
      });
      answer.on('error', () => response.destroy());
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  }

  #upgrade(request: IncomingMessage, socket: Socket): void {
    const { websocket, socketIo, offline } = this.rules;
    if (offline) return void socket.destroy();
    if (websocket === 'refused' || socketIo) return void socket.end('HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n');
    const onward = connect(this.target.port, '127.0.0.1', () => {
      const lines = [`${request.method} ${request.url} HTTP/1.1`];
      for (let at = 0; at < request.rawHeaders.length; at += 2) lines.push(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}`);
      onward.write(`${lines.join('\r\n')}\r\n\r\n`);
      if (websocket !== 'swallowed') return void socket.pipe(onward).pipe(socket);
      // The answer that it is one, and nothing any more.
      onward.once('data', (head) => socket.write(head));
      socket.resume();
    });
    this.#keep(onward);
    onward.on('close', () => socket.destroy());
    socket.on('close', () => onward.destroy());
  }
}
