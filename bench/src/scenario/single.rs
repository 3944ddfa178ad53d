//! One client with one send in flight, beside the least that makes one message durable: an INSERT of one row.

use std::time::Instant;

use chat_tests::{Database, Server, seed};
use hdrhistogram::Histogram;
use sea_orm::{ConnectOptions, ConnectionTrait, Statement};

use super::{Setting, median};
use crate::{
    load,
    report::{Bound, histogram},
    target::{SETTINGS, Target},
    window::Window,
};

const CONTENT: usize = 200;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let (ours, bare) = (setting.mariadb.fresh().await, setting.mariadb.fresh().await);
    let server = Server::start(&ours, &SETTINGS).await;
    seed::make(&bare).await;
    let mut ratios = Vec::new();
    for round in 0..setting.size.rounds() {
        let inserts = inserts(&bare, setting).await?;
        let length = setting.size.length();
        let acks = load::alone(&Target::chat(&server), CONTENT, length).await?;
        ratios.push(acks.value_at_quantile(0.5) as f64 / inserts.value_at_quantile(0.5) as f64);
        if round == 0 {
            let report = &mut setting.report;
            report.times("single", "INSERT of one row", "commit", &inserts);
            report.times("single", "one send in flight", "ack", &acks);
        }
    }
    let what = "median ack of one send in flight, beside an INSERT of one row";
    setting
        .report
        .goal(what, median(ratios), Bound::AtMost(2.5), Some(1.5));
    Ok(())
}

async fn inserts(database: &Database, setting: &Setting) -> anyhow::Result<Histogram<u64>> {
    let mut options = ConnectOptions::new(database.url());
    options.max_connections(1).sqlx_logging(false);
    let pool = sea_orm::Database::connect(options).await?;
    let window = Window::new(setting.size.length());
    let mut times = histogram();
    while !window.is_over() {
        let insert = Statement::from_sql_and_values(
            database.backend(),
            "INSERT INTO messages (sender_id, reciver_id, sent_at, data) VALUES (?, ?, UNIX_TIMESTAMP(), ?)",
            ["u0".into(), "u1".into(), vec![b'x'; CONTENT].into()],
        );
        let begun = Instant::now();
        pool.execute_raw(insert).await?;
        if window.counts() {
            times.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
        }
    }
    Ok(times)
}
