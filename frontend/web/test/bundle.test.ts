/** The built page, held to what browsers of its target have. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const folder = fileURLToPath(new URL('../dist/page/assets/', import.meta.url));
const built = (end: string): string =>
  readdirSync(folder)
    .filter((name) => name.endsWith(end))
    .map((name) => readFileSync(folder + name, 'utf8'))
    .join('\n');
const source = (path: string): string => readFileSync(new URL(path, import.meta.url), 'utf8');

/**
 * What is newer than the target of `vite.config.ts` (Chrome 87, Firefox 83, Safari 14), in the form in which code uses it.
 * The ones with a reason are added by `src/browser.ts`, or asked for before they are used.
 */
const NEWER: [feature: string, use: RegExp, how?: string][] = [
  ['at', /\.at\(/, 'added'],
  ['Object.hasOwn', /Object\.hasOwn\b/, 'added'],
  ['toWellFormed', /\.toWellFormed(?!\?\.)\b/, 'asked for'],
  ['navigator.locks', /navigator\.locks/, 'asked for'],
  ['BroadcastChannel', /new BroadcastChannel/, 'asked for'],
  ['ResizeObserver', /new ResizeObserver/, 'asked for'],
  ['dialogs', /\.showModal\(/, 'asked for'],
  ['IDBTransaction.commit', /\.commit\(/, 'asked for'],
  ['URL.canParse', /URL\.(?:canParse|parse)\b/],
  ['findLast', /\.findLast(?:Index)?\(/],
  ['copies of arrays', /\.(?:toSorted|toReversed|toSpliced)\(/],
  ['groups', /\b(?:Object|Map)\.groupBy\b/],
  ['Promise.withResolvers', /\bPromise\.(?:withResolvers|try)\b/],
  ['Array.fromAsync', /Array\.fromAsync/],
  ['AbortSignal', /AbortSignal\.(?:any|timeout)\b|\.throwIfAborted\(/],
  ['structuredClone', /\bstructuredClone\(/],
  ['crypto.randomUUID', /\.randomUUID\b/],
  ['isWellFormed', /\.isWellFormed\b/],
  ['sets', /\.(?:isSubsetOf|isSupersetOf|symmetricDifference|isDisjointFrom)\(/],
  ['iterators', /\bIterator\.(?:from|prototype)\b/],
  ['Intl', /\bIntl\.(?:Segmenter|DurationFormat|supportedValuesOf)\b/],
  ['idle callbacks', /\brequestIdleCallback\b/],
  ['scheduler', /\bscheduler\.(?:yield|postTask)\b/],
  ['weak references', /\bnew (?:WeakRef|FinalizationRegistry)\b/],
  ['navigation', /\bnavigation\.(?:navigate|addEventListener)\b/],
  ['Error.cause read', /\bError\.(?:isError)\b/],
  ['views', /\bstartViewTransition\b/],
  ['popovers', /\.(?:show|toggle|hide)Popover\(/],
  ['base64', /Uint8Array\.from(?:Base64|Hex)\b|\.toBase64\(/],
  // Of WebTransport alone, which socket.io asks for.
  ['streams', /\.pipeThrough\(|\b(?:De)?CompressionStream\b/, 'asked for'],
];

test('it uses nothing that browsers of its target lack, but what is added or asked for', () => {
  const script = built('.js');
  expect(script.length).toBeGreaterThan(50_000);
  const used = NEWER.filter(([, use, how]) => how === undefined && use.test(script)).map(([feature]) => feature);
  expect(used).toEqual([]);
});

test('what is added is what is said to be', () => {
  const added = source('../src/browser.ts');
  for (const [feature, , how] of NEWER) if (how === 'added') expect(added, feature).toMatch(new RegExp(`add\\([^)]*'${feature.split('.').pop()}'`));
});

test('its syntax is that of its target', () => {
  const script = built('.js');
  // Looking behind in a pattern, and sets of patterns, end the whole script in Safari 14; so do private names, blocks of
  // classes, and assignments that the build brings down.
  for (const newer of [/\(\?<[=!]/, /\/[dgimsuy]*v[dgimsuy]*\.(?:test|exec)/, /(?:\?\?=|\|\|=|&&=)/, /\bstatic\s*\{/, /[{;]\s*#[a-z]\w*\s*[=;(]/i, /\bthis\.#/]) {
    expect(newer.exec(script)?.[0] ?? null, String(newer)).toBeNull();
  }
});

test('the marks of messages are in the style, and nothing else has to be fetched for them', () => {
  const style = built('.css');
  expect(style.match(/url\(["']?data:image\/svg\+xml/g)?.length).toBe(4);
  expect(style).not.toMatch(/url\(["']?(?!["']?data:)/);
  // Chrome had it under this name alone until 2023.
  expect(style).toContain('-webkit-mask:');
});
