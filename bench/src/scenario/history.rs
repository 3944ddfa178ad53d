//! Pages of history, as the log grows a thousandfold. The pages are the same ones: 50 messages of a conversation of
//! 1,000, from somewhere in it.

use std::time::Instant;

use anyhow::{Context, ensure};
use chat_tests::Server;
use hdrhistogram::Histogram;
use rand::Rng;
use serde_json::Value;

use super::Setting;
use crate::{
    fill,
    report::{Bound, Curve, histogram},
    target::{SETTINGS, token},
    window::Window,
};

const PAGE: usize = 50;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let sizes: &[usize] = setting
        .size
        .pick(&[10_000, 200_000], &[10_000, 100_000, 1_000_000, 10_000_000]);
    let mut servers = Vec::new();
    for &rows in sizes {
        let database = setting.mariadb.fresh().await;
        fill::history(&database, rows).await?;
        let server = Server::start(&database, &SETTINGS).await;
        servers.push((rows, server, database, histogram()));
    }
    // In turn, so that what disturbs the machine meets all of them; the first time warms up.
    for round in 0..=setting.size.rounds() {
        for (rows, server, _, times) in &mut servers {
            let measured = pages(server, *rows, Window::new(setting.size.length())).await?;
            if round > 0 {
                *times += measured;
            }
        }
    }
    let at = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    let mut series = [("p50", 0.5), ("p99", 0.99)].map(|(name, _)| (name.to_owned(), Vec::new()));
    for (rows, _, _, times) in &servers {
        let subject = format!("{rows} messages");
        setting.report.times("history", &subject, "page", times);
        series[0].1.push((*rows as f64, at(times, 0.5)));
        series[1].1.push((*rows as f64, at(times, 0.99)));
    }
    setting.report.curve(Curve {
        name: "history",
        title: "A page of 50 messages, as the history grows",
        x: "messages in the database",
        y: "milliseconds",
        series: series.to_vec(),
    });
    let (least, most) = servers.first().zip(servers.last()).context("there are sizes")?;
    let what = format!("p99 of a page at {} messages, beside that at {}", most.0, least.0);
    let ratio = at(&most.3, 0.99) / at(&least.3, 0.99);
    setting.report.goal(what, ratio, Bound::AtMost(1.3), None);
    Ok(())
}

/// One page after the other, each of some conversation.
async fn pages(server: &Server, rows: usize, window: Window) -> anyhow::Result<Histogram<u64>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let conversations = rows / fill::PER_CONVERSATION;
    // Of a few users, so that making tokens is no part of it.
    let users: Vec<_> = (0..200)
        .map(|_| rand::rng().random_range(0..conversations))
        .collect();
    let tokens: Vec<_> = users.iter().map(|user| token(&format!("a{user}"))).collect();
    let mut times = histogram();
    while !window.is_over() {
        let pick = rand::rng().random_range(0..users.len());
        let before = rand::rng().random_range(rows / 10..=rows);
        let (with, before) = (format!("b{}", users[pick]), before.to_string());
        let begun = Instant::now();
        let answer = http
            .get(format!("{}/v1/messages", server.url()))
            .query(&[("with", with.as_str()), ("before", &before), ("limit", "50")])
            .bearer_auth(&tokens[pick])
            .send()
            .await?;
        let page: Value = answer.error_for_status()?.json().await?;
        let taken = begun.elapsed();
        let messages = page["messages"].as_array().context("a page has messages")?;
        ensure!(messages.len() == PAGE, "a page of {}", messages.len());
        if window.counts() {
            times.saturating_record(u64::try_from(taken.as_micros())?);
        }
    }
    Ok(times)
}
