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
    ['<https://example.com>', 'https://example.com'],
    ['HTTP://EXAMPLE.COM!', 'HTTP://EXAMPLE.COM'],
  ])('%s', (text, link) => {
    expect(links(text)).toEqual([link]);
  });

  test.each(['javascript:alert(1)', 'data:text/html,x', 'xhttps://a', 'https://', 'ftp://example.com', 'www.example.com'])('%s is none', (text) => {
    expect(links(text)).toEqual([]);
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
