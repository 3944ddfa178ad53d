//! Who calls: bearer tokens (JWT), the same for every door.
//!
//! [`Verifier`] checks a token, with one [`Key`] or with a set that changes ([`Jwks`]). [`Caller`] is the extractor of the REST doors (header `Authorization`), and
//! [`StreamCaller`] that of `/v1/events`, which takes `access_token` in the query too, because a browser's
//! `EventSource` sends no header of ours. Users belong to somebody else's service: a well-formed `sub` is a user.
//! [`Actor`] is for whom a command is: the caller, or whom a service with that scope names. [`Signer`] makes tokens: on the command line, and for `POST /dev/token` where no key is configured.

mod keys;
mod jwks;
mod scopes;
mod verifier;
mod caller;
mod actor;
mod signer;
#[cfg(test)]
mod testing;

pub use self::{
    actor::Actor,
    caller::{Caller, StreamCaller, TokenUser},
    jwks::{FetchError, Jwks, JwksError, JwksSource, JwksUrl, JwksUrlError, Refresh, check_file},
    keys::{Key, KeyError, KeySet, KeySetError, Missing},
    scopes::Scopes,
    signer::{Signed, Signer},
    verifier::{TokenError, TokenRules, Verified, Verifier},
};
