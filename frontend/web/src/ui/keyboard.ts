/**
 * Keys, as all inputs look at them.
 *
 * A key that belongs to an input method is none for the page: Enter takes what was composed, Escape gives it up. Safari
 * ends the composition before it tells the key, and then only the old code 229 says so.
 */

/** The key, or nothing while something is composed. */
export function keyOf(event: KeyboardEvent): string {
  return event.isComposing || event.keyCode === 229 ? '' : event.key;
}

/** For forms of one line: Enter of an input method does not submit them. */
export function holdEnter(event: KeyboardEvent): void {
  if (event.key === 'Enter' && keyOf(event) === '') event.preventDefault();
}

/** What last pointed at something: after a finger or a pen it is the keyboard on the screen that types. */
let pointer = 'mouse';
globalThis.addEventListener?.(
  'pointerdown',
  (event) => {
    pointer = (event as PointerEvent).pointerType;
  },
  { capture: true, passive: true },
);

/** Whether somebody sits before it with a mouse, and so with a keyboard. A pen beside a touch screen is no mouse. */
export const isDesk = (): boolean => matchMedia('(pointer: fine) and (hover: hover)').matches;

/**
 * Whether this Enter sends what was written. With Ctrl or Cmd it does on every keyboard; alone it does where there is a
 * mouse, and is a new line on a keyboard on the screen, whose keys have no place and so no `code`.
 */
export function sends(event: KeyboardEvent): boolean {
  if (keyOf(event) !== 'Enter' || event.shiftKey || event.altKey) return false;
  if (event.ctrlKey || event.metaKey) return true;
  return isDesk() && (pointer === 'mouse' || event.code !== '');
}
