//! How large a long or statistical test is: small in the gate, in full before a release (`make soak`). It asserts the same
//! in both; a number that is counted is held to what goes with its size.

use std::env;

/// `small`, or `full` where `SOAK=yes`.
pub fn sized<T>(small: T, full: T) -> T {
    if env::var("SOAK").is_ok_and(|soak| soak == "yes") {
        full
    } else {
        small
    }
}
