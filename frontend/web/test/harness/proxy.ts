/** A proxy that breaks what proxies break, in front of a server. */
import { once } from 'node:events';
import { createServer, request, type IncomingMessage, type Server as HttpServer, type ServerResponse } from 'node:http';
import { connect, type AddressInfo, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

export class Proxy {
  /** Whether websockets come through. */
  websocket = true;
  /** Whether anything of socket.io does. */
  socketIo = true;
  /** So many bytes of an answer are held back until there are more, or until it ends. */
  holdsBack = 0;
  /** Whether the page can be loaded, and nothing else. */
  blockDoors = false;
  /** Whether anything comes through. */
  open = true;
  /** The paths that were asked for, without their queries. */
  readonly asked: string[] = [];

  private readonly sockets = new Set<Duplex>();
  private constructor(
    private readonly server: HttpServer,
    private readonly target: number,
  ) {}

  static async before(target: number): Promise<Proxy> {
    const server = createServer();
    const proxy = new Proxy(server, target);
    server.on('request', (asked, answer) => proxy.forward(asked, answer));
    server.on('upgrade', (asked, socket, head) => proxy.upgrade(asked, socket, head));
    server.on('connection', (socket: Socket) => {
      if (proxy.open) proxy.keep(socket);
      else socket.destroy();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/`;
  }

  /** Ends what is open. */
  cut(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  async close(): Promise<void> {
    this.open = false;
    this.server.close();
    this.cut();
    await once(this.server, 'close');
  }

  private keep(socket: Duplex): void {
    this.sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => this.sockets.delete(socket));
  }

  private refuses(asked: IncomingMessage): boolean {
    const path = asked.url ?? '';
    const isDoor = path.startsWith('/socket.io/') || path.startsWith('/v1/');
    return !this.open || (this.blockDoors && isDoor) || (!this.socketIo && path.startsWith('/socket.io/'));
  }

  private forward(asked: IncomingMessage, answer: ServerResponse): void {
    const path = (asked.url ?? '').split('?')[0] ?? '';
    this.asked.push(path);
    if (this.refuses(asked)) {
      // As a proxy of a company's says no, and one whose server is away.
      answer.writeHead(this.blockDoors ? 502 : 403).end();
      return;
    }
    const passed = request({ host: '127.0.0.1', port: this.target, method: asked.method, path: asked.url, headers: asked.headers }, (got) => {
      answer.writeHead(got.statusCode ?? 502, got.headers);
      let held: Buffer[] = [];
      got.on('data', (chunk: Buffer) => {
        held.push(chunk);
        if (held.reduce((sum, { length }) => sum + length, 0) <= this.holdsBack) return;
        answer.write(Buffer.concat(held));
        held = [];
      });
      got.on('end', () => answer.end(Buffer.concat(held)));
      got.on('error', () => answer.destroy());
    });
    passed.on('error', () => {
      if (answer.headersSent) answer.destroy();
      else answer.writeHead(502).end();
    });
    answer.on('close', () => passed.destroy());
    asked.pipe(passed);
  }

  private upgrade(asked: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (!this.websocket || this.refuses(asked)) {
      socket.destroy();
      return;
    }
    const server = connect(this.target, '127.0.0.1');
    this.keep(server);
    server.on('connect', () => {
      const headers = asked.rawHeaders.reduce((text, word, at) => text + word + (at % 2 === 0 ? ': ' : '\r\n'), '');
      server.write(`${asked.method} ${asked.url} HTTP/1.1\r\n${headers}\r\n`);
      server.write(head);
      socket.pipe(server).pipe(socket);
    });
    const end = () => {
      socket.destroy();
      server.destroy();
    };
    for (const one of [socket, server]) {
      one.on('close', end);
      one.on('error', end);
    }
  }
}
