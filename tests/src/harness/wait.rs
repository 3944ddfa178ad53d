//! Waiting for a condition with a limit, which is how a test waits for anything, and free ports.

use std::{
    env,
    future::Future,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::Mutex,
    time::{Duration, Instant},
};

use rand::Rng;

use super::size::sized;

/// Asks `condition` again and again until it holds; panics with `what` when it does not within `limit`. The longer it
/// takes the less often it asks: what is asked computes for the answer.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let limit = limit.min(most());
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        let pause = begin.elapsed() / 20;
        tokio::time::sleep(pause.clamp(Duration::from_millis(10), Duration::from_millis(100))).await;
    }
}

/// In the gate the runner ends most tests after a minute. Before that the test says what it waits for, and shows its
/// servers' logs.
fn most() -> Duration {
    let is_in_the_gate = env::var_os("NEXTEST").is_some();
    let gate = if is_in_the_gate {
        Duration::from_secs(50)
    } else {
        Duration::MAX
    };
    sized(gate, Duration::MAX)
}

/// A port of 127.0.0.1 that nobody listens on and that no other test gets while this process lives, so that a server
/// finds its port again when it is restarted.
///
/// It lies below the ports that the kernel gives to outgoing connections, or one of those could take it meanwhile. A
/// program that is no test may still be faster: who binds it tries another one when it is taken.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(10_000..32_000);
        if is_claimed(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Takes a name that stands for the port, which the kernel gives to one socket of the machine at a time and takes back
/// when the process ends, however it ends. False when another test has it.
fn is_claimed(port: u16) -> bool {
    static CLAIMS: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("chat-test-port-{port}")).expect("the name is short");
    let claim = match UnixDatagram::bind_addr(&name) {
        Ok(claim) => claim,
        Err(error) if error.kind() == ErrorKind::AddrInUse => return false,
        Err(error) => panic!("no port can be claimed: {error}"),
    };
    CLAIMS.lock().expect("no panic under the lock").push(claim);
    true
}

/// Random lower-case letters and digits, for names, keys and passwords.
pub fn random_name(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..length)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{free_port, is_claimed};

    #[test]
    fn a_port_is_given_to_one_test_only() {
        let port = free_port();
        assert!(!is_claimed(port), "two have {port}");
    }
}
