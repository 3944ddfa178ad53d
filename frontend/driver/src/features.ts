/**
 * What is asked of the server. It refuses what it does not know, and an older one knows less: a field that is newer than
 * the first version stands here with its feature, and goes out only to a server that names that feature in `ready`.
 */

/** For each command its fields: `true`, or the feature that it came with. */
type Fields = Record<string, Record<string, true | string>>;

const FIELDS: Fields = {
  send: { receiver_id: true, text: true, data: true, content_type: true, key: true },
  receipt: { type: true, up_to: true },
  history: { with: true, before: true, after: true, limit: true },
  conversations: { before: true, limit: true },
};

/** Those fields of a command that have a value and that a server with these features knows. */
export function fields(name: string, given: Record<string, unknown>, features: readonly string[], all: Fields = FIELDS): Record<string, unknown> {
  const known = new Map(Object.entries(all[name] ?? {}));
  const goes = (field: string) => known.get(field) === true || features.includes(known.get(field) as string);
  return Object.fromEntries(Object.entries(given).filter(([field, value]) => value !== undefined && goes(field)));
}

/** What `ready` says; a server that says nothing of it has none. */
export function featuresIn(told: unknown): readonly string[] {
  return Array.isArray(told) ? told.filter((feature) => typeof feature === 'string') : [];
}
