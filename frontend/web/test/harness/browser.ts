/** A real Chromium, and the page in it as people use it. */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium, type Browser, type BrowserContext, type Locator, type Page } from 'playwright-core';
import { token } from './server';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome'];

export async function launch(): Promise<Browser> {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const executablePath = NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find((file) => existsSync(file));
  if (executablePath === undefined) throw new Error('chromium is missing: run tests/prepare');
  return chromium.launch({
    executablePath,
    timeout: 60_000,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-proxy-server',
      '--enable-precise-memory-info',
    ],
  });
}

export interface Look {
  scheme?: 'light' | 'dark';
  phone?: boolean;
}

/** Two tabs of one browser share a context; two people have one each. */
export async function person(browser: Browser, { scheme = 'light', phone = false }: Look = {}): Promise<BrowserContext> {
  const context = await browser.newContext({
    colorScheme: scheme,
    reducedMotion: 'reduce',
    locale: 'en-GB',
    acceptDownloads: true,
    ...(phone ? { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true } : { viewport: { width: 1280, height: 800 } }),
  });
  context.setDefaultTimeout(30_000);
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', (event) => console.error(`POLICY ${event.violatedDirective} ${event.blockedURI}`));
  });
  return context;
}

export class Tab {
  /** What broke the page's policy, or was thrown and not caught. */
  readonly failures: string[] = [];

  private constructor(readonly page: Page) {
    page.on('console', (message) => {
      const text = message.text();
      if (/POLICY|Content Security|TrustedHTML|TrustedScript/.test(text)) this.failures.push(text);
    });
    page.on('pageerror', (error) => this.failures.push(String(error.stack ?? error)));
  }

  static async open(context: BrowserContext, url: string): Promise<Tab> {
    const tab = new Tab(await context.newPage());
    await tab.page.goto(url);
    return tab;
  }

  /** Signed in with a token, as in production. */
  static async signedIn(context: BrowserContext, url: string, userId: string): Promise<Tab> {
    const tab = await Tab.open(context, url);
    await tab.page.getByLabel('Token', { exact: true }).fill(token(userId));
    await tab.page.getByRole('button', { name: 'Sign in', exact: true }).click();
    await tab.page.getByRole('navigation', { name: 'Conversations' }).waitFor();
    return tab;
  }

  async state(): Promise<{ state: string; transport: string }> {
    const { state = '', transport = '' } = await this.connection.evaluate((element: HTMLElement) => ({ ...element.dataset }));
    return { state, transport };
  }

  get connection(): Locator {
    return this.page.locator('.connection');
  }

  entry(peer: string): Locator {
    return this.page.locator(`.entry[data-peer="${peer}"]`);
  }

  async unread(peer: string): Promise<number> {
    return Number((await this.entry(peer).count()) > 0 ? await this.entry(peer).getAttribute('data-unread') : -1);
  }

  async start(peer: string): Promise<void> {
    await this.page.getByRole('button', { name: 'Start a conversation' }).click();
    await this.page.getByLabel('With whom?').fill(peer);
    await this.page.keyboard.press('Enter');
    await this.composer.waitFor();
  }

  async openConversation(peer: string): Promise<void> {
    await this.entry(peer).click();
    await this.page.getByRole('region', { name: `Conversation with ${peer}` }).waitFor();
  }

  get composer(): Locator {
    return this.page.getByRole('textbox', { name: 'Message' });
  }

  async say(text: string): Promise<void> {
    await this.composer.fill(text);
    await this.composer.press('Enter');
  }

  get scroller(): Locator {
    return this.page.locator('.scroller');
  }

  get messages(): Locator {
    return this.page.locator('.message');
  }

  /** The texts that are elements at the moment, in order. */
  async texts(): Promise<string[]> {
    return this.page.locator('.message .text').allInnerTexts();
  }

  /** How far one's own messages have come, of those that are elements. */
  async marks(): Promise<string[]> {
    return this.page.locator('.message .mark').evaluateAll((marks) => marks.map((mark) => (mark as HTMLElement).dataset['mark'] ?? ''));
  }

  /** Scrolls from the end to the beginning, and gives each message by its `seq`; one that is there twice at a time is an error. */
  async all(): Promise<{ seq: number; text: string }[]> {
    return this.page.evaluate(async () => {
      const scroller = document.querySelector('.scroller');
      if (!scroller) throw new Error('no conversation is open');
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      const seen = new Map<string, { seq: number; text: string }>();
      const take = () => {
        const now = new Set<string>();
        for (const row of document.querySelectorAll<HTMLElement>('.message[data-id]')) {
          const { id = '', seq = '' } = row.dataset;
          if (now.has(id)) throw new Error(`the message ${id} is there twice`);
          now.add(id);
          seen.set(id, { seq: Number(seq), text: row.querySelector('.text')?.textContent ?? '' });
        }
      };
      scroller.scrollTop = scroller.scrollHeight;
      await frame();
      await frame();
      const end = performance.now() + 120_000;
      while (!(scroller.scrollTop === 0 && document.querySelector('.edge')?.textContent?.includes('begins'))) {
        take();
        scroller.scrollTop -= 400;
        await frame();
        if (performance.now() > end) throw new Error('the beginning was never reached');
      }
      await frame();
      take();
      return [...seen.values()].sort((a, b) => a.seq - b.seq);
    });
  }
}
