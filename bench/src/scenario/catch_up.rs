//! One reader from the beginning of the log: how fast events come from the database.

use std::time::Instant;

use chat_tests::Server;

use super::{Setting, median};
use crate::{
    fill,
    report::{Bound, Curve},
    stream::Stream,
    target::{SETTINGS, token},
};

const CONTENT: usize = 100;
/// Once in each message's event, and never in its content.
const MARK: &[u8] = b"\"_id\":";

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let sizes: &[usize] = setting
        .size
        .pick(&[20_000, 100_000], &[10_000, 100_000, 1_000_000]);
    let mut points = Vec::new();
    let mut last = 0.0;
    for &events in sizes {
        let database = setting.mariadb.fresh().await;
        fill::send(&database, events, CONTENT, |n| {
            ("reader".into(), format!("u{}", n % 100))
        })
        .await?;
        let server = Server::start(&database, &SETTINGS).await;
        let mut rates = Vec::new();
        for _ in 0..=setting.size.rounds() {
            let begun = Instant::now();
            let mut stream = Stream::open(server.port(), &token("reader"), Some("0")).await?;
            stream.count(MARK, events).await?;
            rates.push(events as f64 / begun.elapsed().as_secs_f64());
        }
        // Without the first, which warms up.
        last = median(rates.split_off(1));
        let subject = format!("one stream, {events} events");
        setting.report.figure("catch-up", subject, "events", "/s", last);
        points.push((events as f64, events as f64 / last));
    }
    setting.report.curve(Curve {
        name: "catch-up",
        title: "One stream from the beginning of the log",
        x: "events",
        y: "seconds",
        series: vec![("all events".into(), points)],
    });
    let what = "events/s from the database to one stream";
    setting.report.goal(what, last, Bound::AtLeast(50_000.0), None);
    Ok(())
}
