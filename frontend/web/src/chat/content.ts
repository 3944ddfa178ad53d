/** What a message carries, and in which of three ways it is shown: as text, as a picture, or as a file to save. */

export type Kind = 'text' | 'picture' | 'file';

/** What a browser draws without running anything. Not SVG, which is a document with scripts. */
const PICTURES = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'image/avif', 'image/bmp']);
const TOKEN = /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+$/;
/** The longest content type that a server takes. */
const LONGEST_TYPE = 127;

export const essence = (contentType: string): string => (contentType.split(';')[0] ?? '').trim().toLowerCase();

export function kindOf(contentType: string | undefined, isText: boolean): Kind {
  const type = essence(contentType ?? 'text/plain');
  if (isText) return nameOf(contentType) === undefined && (type.startsWith('text/') || type.endsWith('json')) ? 'text' : 'file';
  return PICTURES.has(type) ? 'picture' : 'file';
}

/** The type under which the browser is given a picture: one of the list, whatever parameters came with it. */
export const pictureType = (contentType: string): string => {
  const type = essence(contentType);
  return PICTURES.has(type) ? type : 'application/octet-stream';
};

/** The name of the file that was sent, from a parameter of its content type. */
export function nameOf(contentType: string | undefined): string | undefined {
  const encoded = /;\s*name\*=UTF-8''([^;\s]+)/i.exec(contentType ?? '')?.[1];
  if (encoded === undefined) return undefined;
  try {
    // A name, not a path, and nothing that turns the reading order of its end around.
    const name = decodeURIComponent(encoded).replace(/[\u0000-\u001f\u007f/\\\u202a-\u202e\u2066-\u2069]/g, '_').trim();
    return name === '' || name === '.' || name === '..' ? undefined : name;
  } catch {
    return undefined;
  }
}

/** The content type with which a file is sent, its name in it as far as there is room. */
export function typeOf(file: { name: string; type: string }): string {
  const type = TOKEN.test(file.type) && file.type.length < 100 ? file.type : 'application/octet-stream';
  const dot = file.name.lastIndexOf('.');
  let [stem, end] = dot > 0 && file.name.length - dot <= 10 ? [file.name.slice(0, dot), file.name.slice(dot)] : [file.name, ''];
  const written = () => `${type}; name*=UTF-8''${encode(stem + end)}`;
  while (stem.length > 1 && written().length > LONGEST_TYPE) stem = [...stem].slice(0, -1).join('');
  return stem !== '' && written().length <= LONGEST_TYPE ? written() : type;
}

const encode = (text: string): string =>
  encodeURIComponent(text.toWellFormed?.() ?? text).replace(/['()*]/g, (char) => `%${char.charCodeAt(0).toString(16)}`);

/** What to call a file that came without a name. */
export function fileName(contentType: string | undefined, id: number): string {
  const named = nameOf(contentType);
  if (named !== undefined) return named;
  const type = essence(contentType ?? '');
  const ends: Record<string, string> = {
    'application/pdf': '.pdf',
    'application/zip': '.zip',
    'application/json': '.json',
    'image/svg+xml': '.svg',
    'image/jpeg': '.jpg',
    'text/plain': '.txt',
    'text/csv': '.csv',
    'text/html': '.html',
  };
  const image = type.startsWith('image/') ? `.${type.slice(6).replace(/\W.*$/, '')}` : '.bin';
  return `${type.startsWith('image/') ? 'picture' : 'file'}-${id}${ends[type] ?? image}`;
}

export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} kB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}

export interface Piece {
  text: string;
  /** Where it leads, if it is a link. */
  href?: string;
}

/**
 * What may be a web address in a text. Quotes, brackets, dashes and stops of other scripts than Latin end it wherever they
 * stand, because in an address they are written as `%…`; so does what cannot be seen. Letters of all scripts belong to it.
 */
const ADDRESS =
  /\bhttps?:\/\/(?:[!#-&(-;=?-_a-z{-~]|(?![\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Pd}\p{Cc}\p{Cs}\p{Z}\u200b\u200e\u200f\u2028-\u202f\u2060-\u206f\ufeff]|(?!\u00b7)\p{Po})[^\u0000-\u007f])+/giu;
const HOST = /^(?:[\p{L}\p{M}\p{N}._-]+|\[[0-9a-f:.]+\])(?::\d+)?/iu;
/** What a sentence has after an address. */
const AFTER = '.,;:!?*';

/** A text in pieces, those that are web addresses apart. Only http and https: nothing else leads anywhere. */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let from = 0;
  for (const match of text.matchAll(ADDRESS)) {
    const address = addressIn(match[0]);
    if (address === null) continue;
    if (match.index > from) found.push({ text: text.slice(from, match.index) });
    found.push({ text: address, href: address });
    from = match.index + address.length;
  }
  if (from < text.length) found.push({ text: text.slice(from) });
  return found;
}

/** As much of it as is one, and leads to the host that a reader sees. In one pass: texts are long. */
function addressIn(text: string): string | null {
  const [, scheme = '', authority = '', rest = ''] = /^(https?:\/\/)([^/?#\\]*)(.*)$/isu.exec(text) ?? [];
  const host = HOST.exec(authority)?.[0];
  // What stands before an `@` looks like a host and is none, and `%2e` hides one.
  if (host === undefined || /[@%]/.test(authority)) return null;
  const address = withoutEnd(host === authority ? scheme + authority + rest : scheme + host);
  try {
    const { hostname } = new URL(address);
    const said = host.replace(/\.?(?::\d*)?$/, '').toLowerCase();
    // A browser reads `0x7f.1` or `a%2eb` as another one than is written there. Other scripts it spells as `xn--…`.
    return /[^\u0000-\u007f]/.test(said) || hostname.replace(/\.$/, '') === said ? address : null;
  } catch {
    return null;
  }
}

/** Without the stops after it, and without brackets that close and do not open in it. */
function withoutEnd(address: string): string {
  const count = (char: string) => address.split(char).length;
  const surplus: Record<string, number> = {
    ')': count(')') - count('('),
    ']': count(']') - count('['),
    '}': count('}') - count('{'),
  };
  let end = address.length;
  for (; end > 0; end -= 1) {
    const char = address.charAt(end - 1);
    const left = surplus[char] ?? 0;
    if (left > 0) surplus[char] = left - 1;
    else if (!AFTER.includes(char)) break;
  }
  return address.slice(0, end);
}
