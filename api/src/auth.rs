//! Who calls: bearer tokens (JWT), the same for every door.
//!
//! [`Verifier`] checks a token, with one [`Key`] or with a set that changes ([`Jwks`]). [`Caller`] is the extractor of the REST doors (header `Authorization`), and
//! [`StreamCaller`] that of `/v1/events`, which takes `access_token` in the query too, because a browser's
//! `EventSource` sends no header of ours. Users belong to somebody else's service: a well-formed `sub` is a user.
//! [`Signer`] makes tokens: on the command line, and for `POST /dev/token` where no key is configured.

mod keys;
mod jwks;
mod verifier;
mod caller;
mod signer;
#[cfg(test)]
mod testing;

pub use self::{
    caller::{Caller, StreamCaller},
    jwks::{FetchError, Jwks, JwksError, JwksSource, JwksUrl, JwksUrlError, Refresh, check_file},
    keys::{Key, KeyError, KeySet, KeySetError, Missing},
    signer::{Signed, Signer},
    verifier::{TokenError, TokenRules, Verified, Verifier},
};
