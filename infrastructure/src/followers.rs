//! Projections that follow the log outside the writer's transaction, each from a checkpoint of its own.

pub mod received_at;
