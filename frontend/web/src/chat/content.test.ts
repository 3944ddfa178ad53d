import { describe, expect, test } from 'vitest';
import { fileName, kindOf, nameOf, pictureType, pieces, size, typeOf } from './content';

describe('what is shown how', () => {
  test.each([
    ['text/plain', true, 'text'],
    [undefined, true, 'text'],
    ['text/html', true, 'text'],
    ['application/json', true, 'text'],
    ["text/plain; name*=UTF-8''notes.txt", true, 'file'],
    ['image/svg+xml', true, 'file'],
    ['application/xml', true, 'file'],
    ['image/png', false, 'picture'],
    ['IMAGE/JPEG; q=1', false, 'picture'],
    ['image/svg+xml', false, 'file'],
    ['image/x-unknown', false, 'file'],
    ['text/html', false, 'file'],
    ['application/octet-stream', false, 'file'],
  ])('%s (text: %s) as %s', (type, isText, kind) => {
    expect(kindOf(type, isText)).toBe(kind);
  });

  test('a blob has a type that runs nothing', () => {
    expect(pictureType('image/png; x')).toBe('image/png');
    for (const type of ['text/html', 'image/svg+xml', 'application/xhtml+xml', '']) {
      expect(pictureType(type)).toBe('application/octet-stream');
    }
  });
});

describe('the name of a file', () => {
  test.each(['notes.pdf', 'Übersicht (2) *final*.pdf', "it's.txt", '文件.png', '🎉.gif'])('%s travels in the content type', (name) => {
    const type = typeOf({ name, type: 'application/pdf' });
    expect(type).toMatch(/^[\x20-\x7e]{1,127}$/);
    expect(nameOf(type)).toBe(name);
  });

  test('a long one is cut, and keeps its end', () => {
    for (const long of ['x'.repeat(300), '文'.repeat(100), '👩‍👩‍👧'.repeat(20)]) {
      const type = typeOf({ name: `${long}.pdf`, type: 'application/pdf' });
      expect(type.length).toBeLessThanOrEqual(127);
      expect(nameOf(type)).toMatch(/.\.pdf$/);
    }
  });

  test('is no path, and does not turn its end around', () => {
    expect(nameOf("a/b; name*=UTF-8''..%2F..%2Fetc%2Fpasswd")).toBe('.._.._etc_passwd');
    expect(nameOf("a/b; name*=UTF-8''x%E2%80%AEfdp.exe")).toBe('x_fdp.exe');
    for (const bad of ["a/b; name*=UTF-8''%", "a/b; name*=UTF-8''..", "a/b; name*=UTF-8''%20", 'a/b', undefined]) {
      expect(nameOf(bad)).toBeUndefined();
    }
  });

  test('a type that is none becomes one', () => {
    expect(typeOf({ name: 'a', type: '' })).toBe("application/octet-stream; name*=UTF-8''a");
    expect(typeOf({ name: 'a', type: 'text/plain;charset=utf-8' })).toMatch(/^application\/octet-stream;/);
  });

  test('without a name it follows from the type', () => {
    expect(fileName('application/pdf', 7)).toBe('file-7.pdf');
    expect(fileName('image/png', 7)).toBe('picture-7.png');
    expect(fileName(undefined, 7)).toBe('file-7.bin');
  });
});

describe('links', () => {
  const links = (text: string) => pieces(text).flatMap(({ href }) => href ?? []);

  test.each([
    ['see https://example.com/a?b=c#d.', 'https://example.com/a?b=c#d'],
    ['(https://example.com)', 'https://example.com'],
    ['https://en.example.org/wiki/A_(b)', 'https://en.example.org/wiki/A_(b)'],
    ['(see https://en.example.org/wiki/A_(b).)', 'https://en.example.org/wiki/A_(b)'],
    ['[x](https://e.com/[1])', 'https://e.com/[1]'],
    ['<https://example.com>', 'https://example.com'],
    ['HTTP://EXAMPLE.COM!', 'HTTP://EXAMPLE.COM'],
    ['https://e.com/a,b;c:d!e?f*g', 'https://e.com/a,b;c:d!e?f*g'],
    ['**https://e.com/foo**', 'https://e.com/foo'],
    ['http://[::1]:8080/x', 'http://[::1]:8080/x'],
    ['https://example.com:8443.', 'https://example.com:8443'],
    // What stands around it in other languages belongs to the text, before a path, in it and after it.
    ['https://e.com/foo。次', 'https://e.com/foo'],
    ['https://e.com。次', 'https://e.com'],
    ['请看https://e.com/foo，谢谢', 'https://e.com/foo'],
    ['（https://e.com/foo）', 'https://e.com/foo'],
    ['「https://e.com/foo」と', 'https://e.com/foo'],
    ['https://e.com/foo？', 'https://e.com/foo'],
    ['“https://e.com/foo”', 'https://e.com/foo'],
    ['„https://e.com/foo“', 'https://e.com/foo'],
    ['‘https://e.com/foo’', 'https://e.com/foo'],
    ['«https://example.com»', 'https://example.com'],
    ['« https://example.com/a »', 'https://example.com/a'],
    ['»https://example.com«', 'https://example.com'],
    ['‹https://example.com›', 'https://example.com'],
    ['https://e.com/foo—and', 'https://e.com/foo'],
    ['https://e.com—and', 'https://e.com'],
    ['https://e.com/foo…', 'https://e.com/foo'],
    ['https://e.com/foo؟', 'https://e.com/foo'],
    ['https://e.com/foo।', 'https://e.com/foo'],
    ['https://e.com|next', 'https://e.com'],
    ['https://e.com｜next', 'https://e.com'],
    ['https://e.com/\u200bnext', 'https://e.com/'],
    // Letters of all scripts belong to it.
    ['https://ja.example.org/wiki/日本', 'https://ja.example.org/wiki/日本'],
    ['https://ca.example.org/wiki/Col·lecció.', 'https://ca.example.org/wiki/Col·lecció'],
    ['https://münchen.example/straße', 'https://münchen.example/straße'],
  ])('%s', (text, link) => {
    expect(links(text)).toEqual([link]);
  });

  test.each([
    'javascript:alert(1)',
    'data:text/html,x',
    'xhttps://a',
    'https://',
    'ftp://example.com',
    'www.example.com',
    // It would lead elsewhere than a reader sees.
    'https://example.com@evil.example/',
    'https://example.com:pass@evil.example/',
    'https://example%2ecom/',
    'https:///evil.example/',
    'https://0x7f.1/',
    'https://[1::0:0]/',
  ])('%s is none', (text) => {
    expect(links(text)).toEqual([]);
  });

  test('each leads to the host that is written in it', () => {
    const around = [...'«»‹›„“”‚‘’。、，．！？：；（）「」『』【】…—–·|｜⁄⁠​‮@:%\\^`{}[]<>"\'*~=+&$#!?/;,._- \t\n\u00a0\u3000\u0000\ud83d'];
    for (const char of around) {
      for (const text of [`${char}https://example.com${char}`, `https://example.com${char}evil.example/`, `https://example.com/a${char}b`]) {
        for (const { text: seen, href } of pieces(text)) {
          if (href === undefined) continue;
          const host = /^https:\/\/([^/?#\\:]*)/.exec(seen)?.[1] ?? '';
          if (/^[\x20-\x7e]*$/.test(host)) expect(new URL(href).hostname, text).toBe(host);
          expect(seen, text).toBe(href);
        }
      }
    }
  });

  test('a text of any form takes no time', () => {
    const many = 250_000;
    const texts = ['.', ')', '(', ').', '*', 'a.', '@', '次', '。'].flatMap((part) => [
      `https://e.com/${part.repeat(many)}x`,
      `https://${part.repeat(many)}`,
      `https://e.com/${part.repeat(many)}`,
    ]);
    const begin = performance.now();
    for (const text of texts) expect(pieces(text).map((piece) => piece.text).join('')).toBe(text);
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  test('nothing of the text is lost', () => {
    for (const text of ['', 'a https://x.y, https://z.w) b', '<script>https://a.b</script>', 'https://[', '\u202ehttps://a.b\u202c']) {
      expect(pieces(text).map((piece) => piece.text).join('')).toBe(text);
    }
  });
});

test('sizes', () => {
  expect([0, 999, 1000, 262_144, 3_100_000].map(size)).toEqual(['0 B', '999 B', '1 kB', '262 kB', '3.1 MB']);
});
