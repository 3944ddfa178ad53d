//! The tables as SeaORM knows them, for reads that need no SQL of their own.

pub mod checkpoints;
pub mod messages;
