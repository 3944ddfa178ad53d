import { readdir, readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { gzip } from 'node:zlib';
import { promisify } from 'node:util';
import { join } from 'node:path';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The server compresses nothing itself, so what it serves is compressed here, once, where that makes it smaller. */
function compressed(): Plugin {
  return {
    name: 'compressed',
    apply: 'build',
    async writeBundle({ dir }) {
      const assets = join(dir ?? here('dist/page'), 'assets');
      for (const name of await readdir(assets)) {
        const plain = await readFile(join(assets, name));
        const smaller = await promisify(gzip)(plain, { level: 9 });
        if (smaller.length < plain.length * 0.9) await writeFile(join(assets, `${name}.gz`), smaller);
      }
    },
  };
}

/** The oldest browsers that the page is for: of autumn 2020. What else they lack is in `src/browser.ts`. */
const TARGET = ['es2020', 'chrome87', 'edge87', 'firefox83', 'safari14'];

const server = process.env['SERVER_URL'] ?? 'http://127.0.0.1:3000';

export default defineConfig({
  // Relative, so that the page works behind a proxy that adds a prefix.
  base: './',
  plugins: [compressed()],
  resolve: { alias: { 'chat-system-client': here('../driver/src/index.ts') } },
  build: {
    // Not `dist` itself: that folder is in the repository, for the build script that watches it.
    outDir: 'dist/page',
    emptyOutDir: true,
    target: TARGET,
    modulePreload: { polyfill: false },
    // What is in a file may be cached for ever. The marks of messages are needed when nothing can be fetched any more.
    assetsInlineLimit: (file) => file.includes('/marks/'),
  },
  server: {
    proxy: Object.fromEntries(
      ['/v1', '/dev', '/socket.io', '/readyz'].map((path) => [path, { target: server, ws: true }]),
    ),
  },
  test: {
    projects: [
      { extends: true, test: { name: 'unit', include: ['src/**/*.test.ts'], environment: 'node' } },
      {
        extends: true,
        test: {
          name: 'browser',
          include: ['test/**/*.test.ts'],
          exclude: ['test/large.test.ts'],
          environment: 'node',
          // Each file has its own browser and servers, and mostly waits for them.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'large',
          include: ['test/large.test.ts'],
          environment: 'node',
          // Figures are measured: alone, after the others.
          sequence: { groupOrder: 2 },
          testTimeout: 180_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
