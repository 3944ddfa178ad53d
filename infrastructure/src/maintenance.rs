//! What works on a whole log beside, or instead of, a server: holds the projections to the log, makes them anew, and begins
//! an epoch.

mod fold;
pub mod new_epoch;
pub mod rebuild;
pub mod verify;
