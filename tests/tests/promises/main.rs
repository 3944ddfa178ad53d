//! What is promised, held against the real server and real databases: one binary, so that it is linked once, with a
//! folder for each door or promise. `docs/testing.md` says which promise is held where, and how tests are run.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]
#![expect(
    clippy::print_stdout,
    reason = "the figures of a run, for those who want to see them"
)]

mod harness;

mod log {
    //! The log: what the ports promise, one order, history, coming back from any point, and the model of it.
    mod contract;
    mod history;
    mod model;
    mod order;
    mod resume;
}

mod doors {
    //! socket.io, Server-Sent Events, long-poll and REST, the clients that use them, and the proxies between.
    mod clients;
    mod engine_io;
    mod proxies;
    mod sessions;
    mod socket_io;
    mod sockets;
    mod stalled;
    mod together;
}

mod security {
    //! Who may do and see what, how much of it, and what comes of bad input.
    mod access;
    mod authorisation;
    mod fuzz;
    mod input;
    mod keys;
    mod budgets;
    mod limits;
}

mod failure {
    //! What is promised when something breaks: a node, a connection, a database, all of them at once.
    mod failover;
    mod faults;
    mod locks;
    mod proof;
    mod restore;
}

mod schema {
    //! Migrations up and down, the adoption of a legacy table, and upgrades under nodes that serve.
    mod adoption;
    mod migration;
    mod upgrade;
}

mod operation;

mod documents {
    //! OpenAPI, AsyncAPI, Swagger UI and the pages of `docs/`: they say what is.
    mod asyncapi;
    mod descriptions;
    mod docs;
    mod schemathesis;
    mod swagger;
}
