/** The token: kept as long as it is good, and fetched once for all who need a fresh one at the same time. */
import { ChatError } from './errors.js';
import { within } from './time.js';
import type { Token } from './types.js';
import { userOf } from './wire.js';

export class Tokens {
  #source: Token;
  #current: string | undefined;
  #user: string | undefined;
  #fetching: Promise<string> | undefined;

  /** `limit`: how long it may take to get one, in milliseconds. */
  constructor(
    source: Token,
    private readonly limit: number,
    private readonly userClaim?: string,
  ) {
    this.#source = source;
  }

  /** Another source, whose token is fetched when it is next needed. */
  replace(source: Token): void {
    this.#source = source;
    this.#current = this.#fetching = undefined;
  }

  /** Whose a token says it is. */
  userOf(token: string): string | undefined {
    return userOf(token, this.userClaim);
  }

  get renewable(): boolean {
    return typeof this.#source === 'function';
  }

  /** There is another one than this. */
  differs(from: string): boolean {
    return typeof this.#source === 'string' ? this.#source !== from : this.#current !== undefined && this.#current !== from;
  }

  /** What is kept is this user's, and another's token must not come near it. */
  expect(userId: string): void {
    this.#user = userId;
  }

  async get(): Promise<string> {
    return this.#current ?? this.#fetch();
  }

  /** A token in place of one that was refused or ends soon; another caller may have fetched it already. */
  async instead(of: string): Promise<string> {
    if (this.#current !== undefined && this.#current !== of) return this.#current;
    return this.#fetch();
  }

  #fetch(): Promise<string> {
    const source = this.#source;
    const fetching = (this.#fetching ??= (async () => {
      try {
        // What never answers is asked again by whoever needs it then.
        const late = () => new ChatError('token_unavailable', 'no token came in time');
        const token = typeof source === 'function' ? await within(this.limit, (async () => source())(), late) : source;
        const user = this.userOf(token);
        if (this.#user !== undefined && user !== undefined && user !== this.#user) {
          throw ChatError.of({ code: 'token_user_mismatch', status: 403, title: "The token is another user's" });
        }
        if (this.#source === source) this.#current = token;
        return token;
      } catch (cause) {
        if (cause instanceof ChatError) throw cause;
        throw new ChatError('token_unavailable', 'no token could be had', { cause });
      } finally {
        if (this.#source === source) this.#fetching = undefined;
      }
    })());
    return fetching;
  }
}
