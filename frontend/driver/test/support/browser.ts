/** A headless Chromium with a profile of its own, and every page's mistakes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';

import { chromium, type BrowserContext, type Page } from 'playwright-core';
import { expect } from 'vitest';

import { atEnd } from './observed.js';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run'];
const QUIET = ['--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** For each step of a page. */
const LIMIT = 60_000;

/** For a test that starts a browser. */
export const IN_A_BROWSER = { timeout: 120_000 };

export async function browser(): Promise<{ context: BrowserContext; newPage(): Promise<Page> }> {
  const profile = mkdtempSync(`${tmpdir()}/chat-chromium-`);
  atEnd(async () => rmSync(profile, { recursive: true, force: true, maxRetries: 5 }));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: [...FLAGS, ...QUIET],
    // As browsers have it.
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    timeout: LIMIT,
  });
  context.setDefaultTimeout(LIMIT);
  const mistakes: Error[] = [];
  atEnd(async () => {
    await context.close();
    expect(mistakes).toEqual([]);
  });
  const newPage = async () => {
    const page = await context.newPage();
    page.on('pageerror', (error) => mistakes.push(error));
    return page;
  };
  return { context, newPage };
}
