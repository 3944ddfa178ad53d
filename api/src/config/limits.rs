//! The options of the limits.

use clap::Args;

use super::{ConfigError, value, within};
use crate::{
    limits::{LimitsOptions, TrustedProxies},
    wire::NewMessage,
};

#[derive(Debug, Args)]
pub struct LimitArguments {
    /// How many connections all clients together may have open at a time, idle ones included [default: as many as the
    /// limit on open files leaves]
    #[arg(long, global = true, env = "CHAT_CONNECTIONS", value_name = "COUNT")]
    pub connections: Option<usize>,

    /// How many streams, long polls and sockets a user may have open at a time on this node
    #[arg(
        long,
        global = true,
        env = "CHAT_CONNECTIONS_PER_USER",
        value_name = "COUNT",
        default_value_t = 100
    )]
    pub connections_per_user: usize,

    /// How many connections an address may have open, an IPv6 address with all of its /64, and no more than half of all.
    /// An address that is itself a trusted proxy is not limited: everybody has it behind a proxy that sends no
    /// X-Forwarded-For
    #[arg(
        long,
        global = true,
        env = "CHAT_CONNECTIONS_PER_ADDRESS",
        value_name = "COUNT",
        default_value_t = 1000
    )]
    pub connections_per_address: usize,

    /// The proxies whose X-Forwarded-For is believed: networks and addresses, with commas between; empty for none
    #[arg(
        long,
        global = true,
        env = "CHAT_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "127.0.0.0/8,::1"
    )]
    pub trusted_proxies: String,

    /// How many messages a user may send in a second for long, on this node
    #[arg(
        long,
        global = true,
        env = "CHAT_SENDS_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 200
    )]
    pub sends_per_second: u32,

    /// How many messages a user may send at once, after silence
    #[arg(
        long,
        global = true,
        env = "CHAT_SENDS_BURST",
        value_name = "COUNT",
        default_value_t = 4000
    )]
    pub sends_burst: u32,

    /// How many bytes of request bodies are read at a time, of all requests together, and half as many of an address; four
    /// of the largest always fit
    #[arg(long, global = true, env = "CHAT_BODIES_LIMIT", value_name = "BYTES", default_value_t = 64 << 20)]
    pub bodies_limit: usize,
}

const MOST: usize = 1_000_000;

impl LimitArguments {
    pub(super) fn connections(&self) -> Result<Option<usize>, ConfigError> {
        let check = |count| within("CHAT_CONNECTIONS", count, 1, MOST);
        self.connections.map(check).transpose()
    }

    pub(super) fn check(&self, content_limit: usize) -> Result<LimitsOptions, ConfigError> {
        let trusted_proxies = self.trusted_proxies.parse::<TrustedProxies>();
        Ok(LimitsOptions {
            connections_per_user: within("CHAT_CONNECTIONS_PER_USER", self.connections_per_user, 1, MOST)?,
            connections_per_address: within(
                "CHAT_CONNECTIONS_PER_ADDRESS",
                self.connections_per_address,
                1,
                MOST,
            )?,
            trusted_proxies: trusted_proxies.map_err(|error| value("CHAT_TRUSTED_PROXIES", error))?,
            sends_per_second: within("CHAT_SENDS_PER_SECOND", self.sends_per_second, 1, 1_000_000)?,
            sends_burst: within("CHAT_SENDS_BURST", self.sends_burst, 1, 1_000_000)?,
            bodies: within("CHAT_BODIES_LIMIT", self.bodies_limit, 1 << 20, 1 << 30)?,
            body: NewMessage::body_limit(content_limit),
        })
    }
}
