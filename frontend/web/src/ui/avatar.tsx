const HUES = 8;

/** The first letter on a colour that follows from the id. */
export function Avatar({ id }: { id: string }) {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  return (
    <span class={`avatar hue-${hash % HUES}`} aria-hidden="true">
      {(/[A-Za-z0-9]/.exec(id)?.[0] ?? id.charAt(0)).toUpperCase()}
    </span>
  );
}
