//! Who calls: bearer tokens (JWT), the same for every door.
//!
//! [`Verifier`] checks a token, [`Caller`] is the extractor of the REST doors (header `Authorization`), and
//! [`StreamCaller`] that of `/v1/events`, which takes `access_token` in the query too, because a browser's
//! `EventSource` sends no header of ours. Users belong to somebody else's service: a well-formed `sub` is a user.
//! [`Signer`] makes tokens: on the command line, and for `POST /dev/token` where no key is configured.

mod caller;
mod signer;
mod verifier;

pub use self::{
    caller::{Caller, StreamCaller},
    signer::{Signed, Signer},
    verifier::{TokenError, Verified, Verifier},
};
