/**
 * How often a command is tried. What passes by itself is waited for, but not without end: behind it others wait, and a
 * command that is answered with a failure each time may be the reason itself, whatever the answer says.
 */
import { ChatError } from './errors.js';

/** Each answer costs of this: ten that say nothing of "later", or fifty by which the server asks for patience. */
const PATIENCE = 50;
const COST = 5;

export class Tries {
  /** In a row. */
  failures = 0;
  #spent = 0;
  #failedAt = Infinity;

  /**
   * Whether this failure was the last one that is waited for. `heardAt` is when a connection last brought anything:
   * where something came since the failure before, an answer that is missing counts too, for there is a network.
   */
  spent({ status, code, problem, temporary, unauthorized }: ChatError, heardAt: number): boolean {
    this.failures++;
    if (status > 0) this.#spent += problem && status !== 500 && (temporary || unauthorized) ? 1 : COST;
    else if ((code === 'network' || code === 'timeout') && heardAt > this.#failedAt) this.#spent++;
    this.#failedAt = Date.now();
    return this.#spent >= PATIENCE;
  }
}

/**
 * Whether the same command may be taken later. A token that is refused, or too large, is the connection's business. What
 * stands between says no to a body that is too large for it, for good; whatever else it says may pass.
 */
export function mayPass(error: ChatError): boolean {
  if (error.temporary || error.unauthorized || error.code === 'head_too_large') return true;
  return error.problem === undefined && ![400, 413, 422].includes(error.status);
}
