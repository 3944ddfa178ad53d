/** The real server, on a free port of 127.0.0.1, with SQLite or a private MariaDB. */
import { execFile } from 'node:child_process';
import { createHmac, randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from '../../../driver/test/support/port';
import { eventually, Program, temporaryFolder } from './processes';

export type DatabaseKind = 'SQLite' | 'MariaDB';

/** `SERVER_BINARY` names another binary than the one that `cargo build` makes. */
const BINARY = process.env['SERVER_BINARY'] ?? fileURLToPath(new URL('../../../../target/debug/chat-system', import.meta.url));

const SECRET = randomBytes(32).toString('hex');

interface Listed {
  with: string;
  last_message: { _id: number };
  participants: { user_id: string; read_seq: number }[];
}

export class Server {
  private program: Program | undefined;
  private readonly folder = temporaryFolder('server');
  port = 0;
  private constructor(
    private readonly settings: Record<string, string>,
    private readonly database: MariaDb | undefined,
  ) {}

  /** Without a key it is one for development. */
  static async start(kind: DatabaseKind = 'SQLite', options: { development?: boolean; settings?: Record<string, string> } = {}): Promise<Server> {
    if (!existsSync(BINARY)) throw new Error(`${BINARY} is missing: cargo build -p chat-api --bin chat-system`);
    const database = kind === 'MariaDB' ? await MariaDb.start() : undefined;
    const settings = {
      CHAT_SENDS_PER_SECOND: '1000000',
      CHAT_SENDS_BURST: '1000000',
      CHAT_READS_PER_SECOND: '1000000',
      CHAT_READS_BURST: '1000000',
      CHAT_NEW_CONVERSATIONS_PER_HOUR: '1000000',
      ...(database ? { CHAT_DATABASE_URL: database.url } : {}),
      ...(options.development ? {} : { CHAT_JWT_SECRET: SECRET }),
      ...options.settings,
    };
    const server = new Server(settings, database);
    do server.port = await freePort();
    while (!(await server.begins()));
    return server;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** As when the machine was gone. */
  async kill9(): Promise<void> {
    await this.program?.end('SIGKILL');
  }

  async restart(): Promise<void> {
    await this.kill9();
    if (!(await this.begins())) throw new Error(`its port is taken:\n${this.program?.output()}`);
  }

  /** Starts it, and waits until it is ready. False if somebody else has its port. */
  private async begins(): Promise<boolean> {
    const program = new Program(BINARY, [], { ...this.settings, CHAT_LISTEN: `127.0.0.1:${this.port}` }, this.folder);
    this.program = program;
    await eventually('the server is ready', async () => {
      if (program.lostItsPort()) return true;
      const answer = await fetch(`${this.url}readyz`).catch(() => null);
      return answer?.status === 200;
    });
    return !program.lostItsPort();
  }

  async remove(): Promise<void> {
    await this.program?.remove();
    await this.database?.remove();
  }

  /** A message over REST. */
  async send(from: string, to: string, content: string | { data: Buffer; type: string }): Promise<{ _id: number; seq: number }> {
    const body = typeof content === 'string' ? { text: content } : { data: content.data.toString('base64'), content_type: content.type };
    const answer = await fetch(`${this.url}v1/messages`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token(from)}`, 'content-type': 'application/json' },
      body: JSON.stringify({ receiver_id: to, ...body }),
    });
    if (answer.status !== 201) throw new Error(`a send was refused: ${await answer.text()}`);
    return (await answer.json()) as { _id: number; seq: number };
  }

  /** Many, as fast as it takes them; in no order. */
  async sendMany(from: string, to: string, texts: readonly string[]): Promise<void> {
    for (let at = 0; at < texts.length; at += 200) {
      await Promise.all(texts.slice(at, at + 200).map((text) => this.send(from, to, text)));
    }
  }

  /** How far somebody has read his conversation with another, as the server has it. */
  async readMark(me: string, other: string): Promise<number> {
    const conversation = await this.conversation(me, other);
    return conversation?.participants.find(({ user_id }) => user_id === me)?.read_seq ?? 0;
  }

  /** Says that he has read all of it. */
  async markRead(me: string, other: string): Promise<void> {
    const conversation = await this.conversation(me, other);
    const answer = await fetch(`${this.url}v1/receipts`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token(me)}`, 'content-type': 'application/json' },
      body: JSON.stringify({ type: 'read', up_to: conversation?.last_message._id }),
    });
    if (!answer.ok) throw new Error(`a receipt was refused: ${await answer.text()}`);
  }

  private async conversation(me: string, other: string): Promise<Listed | undefined> {
    const answer = await fetch(`${this.url}v1/conversations?limit=200`, { headers: { authorization: `Bearer ${token(me)}` } });
    const { conversations } = (await answer.json()) as { conversations: Listed[] };
    return conversations.find((conversation) => conversation.with === other);
  }

  /** All texts between two, as the server has them, in its order. */
  async texts(me: string, other: string): Promise<string[]> {
    const texts: string[] = [];
    let path: string | null = `/v1/messages?with=${encodeURIComponent(other)}&after=0&limit=200`;
    while (path !== null) {
      const answer = await fetch(new URL(path, this.url), { headers: { authorization: `Bearer ${token(me)}` } });
      const page = (await answer.json()) as { messages: { text?: string }[]; next: string | null };
      texts.push(...page.messages.map(({ text }) => text ?? ''));
      path = page.next;
    }
    return texts;
  }
}

/** What the user management would sign. */
export function token(userId: string, seconds = 3600): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: userId, exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${signed}.${createHmac('sha256', SECRET).update(signed).digest('base64url')}`;
}

class MariaDb {
  private constructor(
    private readonly program: Program,
    readonly url: string,
  ) {}

  static async start(): Promise<MariaDb> {
    const folder = temporaryFolder('mariadb');
    const run = promisify(execFile);
    const [data, socket] = [join(folder, 'data'), join(folder, 'socket')];
    const user = `--user=${userInfo().username}`;
    const password = randomBytes(16).toString('hex');
    await run('mariadb-install-db', ['--no-defaults', '--auth-root-authentication-method=normal', '--skip-test-db', user, `--datadir=${data}`], {
      env: { ...process.env, PATH: PATHS, TMPDIR: folder },
    });
    const sql = `CREATE DATABASE chat CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE USER chat@'127.0.0.1' IDENTIFIED BY '${password}';
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES ON chat.* TO chat@'127.0.0.1';
`;
    writeFileSync(join(folder, 'init.sql'), sql);
    for (;;) {
      const port = await freePort();
      const program = new Program(
        'mariadbd',
        [
          '--no-defaults',
          user,
          `--datadir=${data}`,
          `--socket=${socket}`,
          `--port=${port}`,
          '--bind-address=127.0.0.1',
          '--skip-name-resolve',
          '--innodb-flush-log-at-trx-commit=1',
          '--innodb-buffer-pool-size=64M',
          '--max-allowed-packet=64M',
          `--init-file=${join(folder, 'init.sql')}`,
        ],
        { PATH: PATHS },
        folder,
      );
      await eventually('MariaDB answers', async () => {
        if (program.lostItsPort()) return true;
        return run('mariadb-admin', ['--no-defaults', '-h127.0.0.1', `-P${port}`, '-uchat', `-p${password}`, 'ping'], {
          env: { ...process.env, PATH: PATHS },
        }).then(
          ({ stdout }) => stdout.includes('alive'),
          () => false,
        );
      });
      if (!program.lostItsPort()) return new MariaDb(program, `mysql://chat:${password}@127.0.0.1:${port}/chat`);
    }
  }

  remove(): Promise<void> {
    return this.program.remove();
  }
}

const PATHS = `${process.env['PATH'] ?? ''}:/usr/sbin:/usr/local/sbin`;
