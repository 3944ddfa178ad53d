/** How large a long or statistical test is: small in the gate, in full before a release (`make soak`). What is asserted is the same. */

/** `small`, or `full` where `SOAK=yes`. */
export function sized<T>(small: T, full: T): T {
  return process.env['SOAK'] === 'yes' ? full : small;
}
