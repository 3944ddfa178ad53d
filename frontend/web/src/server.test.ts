import { afterEach, expect, test, vi } from 'vitest';
import { serverUrl } from './server';

vi.mock('chat-system-client', () => ({ ChatError: Error }));
afterEach(() => void vi.unstubAllGlobals());

test.each([
  ['http://127.0.0.1:3000/#/bob', 'http://127.0.0.1:3000/'],
  ['https://example.com/some/chat/?x=1#/bob', 'https://example.com/some/chat/'],
  ['https://example.com/some/chat/index.html', 'https://example.com/some/chat/'],
])('the server of the page %s is at %s', (page, server) => {
  vi.stubGlobal('document', { baseURI: page });
  expect(serverUrl()).toBe(server);
});
