//! From the tail to the readers: the hub knows who is subscribed, a subscription is one reader's stream of
//! deliveries.

pub mod hub;
pub mod subscription;
pub mod written;

#[cfg(test)]
mod tests;
