//! `chat-system healthcheck`: asks the server of this configuration whether it can serve.
//!
//! An image then needs no other program for it, and no shell. It reads `CHAT_LISTEN` and nothing else: a secret that
//! has been rotated away is no reason to call a server ill that runs.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

/// For each step: connecting, asking, and every piece of the answer.
const LIMIT: Duration = Duration::from_secs(3);

/// A problem is a few hundred bytes.
const MOST: u64 = 64 << 10;

/// Ok where `/readyz` says 200; otherwise its reasons.
pub fn check(listen: SocketAddr) -> anyhow::Result<()> {
    let address = reachable(listen);
    let answer = ask(address).with_context(|| format!("{address} does not answer"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next());
    match status {
        Some("200") => Ok(()),
        Some(status) => bail!("{address} is not ready ({status}): {}", body.trim()),
        None => bail!("{address} does not speak HTTP"),
    }
}

fn ask(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // In one piece: whoever answers the first one and closes would not take another.
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let read = stream.take(MOST).read_to_end(&mut answer);
    // Whoever cuts a connection after its answer has answered.
    if let Err(error) = read {
        let cut = error.kind() == io::ErrorKind::ConnectionReset && !answer.is_empty();
        ensure!(cut, error);
    }
    Ok(answer)
}

/// Where a server that listens on every address is reached from its own machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What is said of a server that answers so.
    fn said_of(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("it is asked");
            let mut asked = [0; 1024];
            let read = stream.read(&mut asked).expect("something is asked");
            stream.write_all(answer.as_bytes()).expect("it listens");
            String::from_utf8_lossy(&asked[..read]).into_owned()
        });
        let outcome = check(address).map_err(|error| format!("{error:#}"));
        let asked = server.join().expect("it does not panic");
        assert!(asked.starts_with("GET /readyz HTTP/1.1\r\n"), "{asked}");
        outcome
    }

    #[test]
    fn a_server_is_healthy_that_says_200_and_no_other() {
        assert_eq!(
            said_of("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n"),
            Ok(())
        );
        let away = said_of("HTTP/1.1 503 Service Unavailable\r\n\r\nwriter: the database is away");
        let away = away.expect_err("it is not ready");
        assert!(
            away.ends_with("is not ready (503): writer: the database is away"),
            "{away}"
        );
        for other in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 2000\r\n\r\n"] {
            said_of(other).expect_err(other);
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        drop(listener);
        let error = check(address).expect_err("nobody listens").to_string();
        assert_eq!(error, format!("{address} does not answer"));
    }

    #[test]
    fn a_server_on_every_address_is_asked_on_loopback() {
        let asked = |listen: &str| reachable(listen.parse().expect("an address")).to_string();
        assert_eq!(asked("0.0.0.0:3000"), "127.0.0.1:3000");
        assert_eq!(asked("[::]:3000"), "[::1]:3000");
        assert_eq!(asked("10.0.0.7:80"), "10.0.0.7:80");
    }
}
