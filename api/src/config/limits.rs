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

    /// How often a user may read in a second for long, on this node: history, lists and long polls
    #[arg(
        long,
        global = true,
        env = "CHAT_READS_PER_SECOND",
        value_name = "COUNT",
        default_value_t = 500
    )]
    pub reads_per_second: u32,

    /// How often a user may read at once, after silence
    #[arg(
        long,
        global = true,
        env = "CHAT_READS_BURST",
        value_name = "COUNT",
        default_value_t = 5000
    )]
    pub reads_burst: u32,

    /// How many conversations a user may begin in an hour, on this node; a token with the scope chat.send_as has no limit
    #[arg(
        long,
        global = true,
        env = "CHAT_NEW_CONVERSATIONS_PER_HOUR",
        value_name = "COUNT",
        default_value_t = 20
    )]
    pub new_conversations_per_hour: usize,

    /// How many bytes of answers and events may wait to be written at a time, of all connections together, half as many
    /// of an address and a quarter of a user; four of the largest always fit
    #[arg(long, global = true, env = "CHAT_ANSWERS_LIMIT", value_name = "BYTES", default_value_t = 64 << 20)]
    pub answers_limit: usize,

    /// How many bytes of request bodies and frames are read at a time, of all connections together, half as many of an
    /// address and a quarter of a user; four of the largest always fit
    #[arg(long, global = true, env = "CHAT_BODIES_LIMIT", value_name = "BYTES", default_value_t = 64 << 20)]
    pub bodies_limit: usize,
}

const MOST: usize = 1_000_000;

/// A quarter of it is a user's: room for some pages.
const ANSWERS_LEAST: usize = 4 << 20;

impl LimitArguments {
    pub(super) fn connections(&self) -> Result<Option<usize>, ConfigError> {
        let check = |count| within("CHAT_CONNECTIONS", count, 1, MOST);
        self.connections.map(check).transpose()
    }

    pub(super) fn check(
        &self,
        content_limit: usize,
        database_connections: u32,
    ) -> Result<LimitsOptions, ConfigError> {
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
            reads_per_second: within("CHAT_READS_PER_SECOND", self.reads_per_second, 1, 1_000_000)?,
            reads_burst: within("CHAT_READS_BURST", self.reads_burst, 1, 1_000_000)?,
            reads_at_work: database_connections as usize,
            new_conversations: within(
                "CHAT_NEW_CONVERSATIONS_PER_HOUR",
                self.new_conversations_per_hour,
                1,
                MOST,
            )?,
            bodies: within("CHAT_BODIES_LIMIT", self.bodies_limit, 1 << 20, 1 << 30)?,
            answers: within("CHAT_ANSWERS_LIMIT", self.answers_limit, ANSWERS_LEAST, 1 << 30)?,
            largest: NewMessage::body_limit(content_limit),
        })
    }
}
