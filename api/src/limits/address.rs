//! The client's address: the peer's, or, where that is a proxy of ours, the one that the proxy says.
//!
//! Each proxy adds the address of its own peer at the right end of `X-Forwarded-For`; what stands further left, the
//! client may have written itself. So the header is walked from the right for as long as addresses are trusted, and
//! the first one that is not is the client's. What is no address ends the walk: nothing left of it can be believed.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use axum::http::{HeaderMap, HeaderName};
use ipnet::{AddrParseError, IpNet, Ipv4Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Bits of an IPv6 address below those that make an IPv4 address of it (RFC 4291, section 2.5.5.2).
const MAPPED: u8 = 96;

/// Who a request comes from, in the request's extensions. An IPv4 address is never in its IPv6 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The proxies whose word is taken for whom they speak.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// Networks and addresses, with commas between. Of nothing: no proxy is trusted.
impl FromStr for TrustedProxies {
    type Err = AddrParseError;

    fn from_str(list: &str) -> Result<Self, AddrParseError> {
        let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries.map(network).collect::<Result<_, _>>().map(Self)
    }
}

fn network(entry: &str) -> Result<IpNet, AddrParseError> {
    let network = match entry.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => entry.parse::<IpNet>()?,
    };
    match (network.addr().to_canonical(), network) {
        (IpAddr::V4(address), IpNet::V6(mapped)) if mapped.prefix_len() >= MAPPED => {
            let short = Ipv4Net::new(address, mapped.prefix_len() - MAPPED);
            Ok(short.map_or(network, IpNet::V4))
        }
        _ => Ok(network),
    }
}

impl TrustedProxies {
    pub(super) fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let mut named = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        while self.trust(client) {
            match named.next().and_then(address) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }
}

/// An address as proxies write them: some add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = match text.parse::<SocketAddr>() {
        Ok(with_port) => with_port.ip(),
        Err(_) => text.trim_matches(['[', ']']).parse().ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            let value = axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(X_FORWARDED_FOR, value);
        }
        let trusted: TrustedProxies = trusted.parse().unwrap();
        trusted.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_not_trusted() {
        let trusted = "127.0.0.0/8, ::1, 10.0.0.0/8, 2001:db8:1::/48";
        for (peer, forwarded, expected) in [
            // No proxy, or one that says nothing.
            ("192.0.2.7", &[][..], "192.0.2.7"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &[""], "127.0.0.1"),
            // Who is no proxy of ours says what it likes.
            ("192.0.2.7", &["198.51.100.1"], "192.0.2.7"),
            // One proxy, two of them, two headers.
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::1", &["198.51.100.1,10.1.2.3"], "198.51.100.1"),
            ("::1", &["198.51.100.1", "10.1.2.3"], "198.51.100.1"),
            ("10.9.9.9", &["2001:db8:2::9 , 2001:db8:1::1"], "2001:db8:2::9"),
            // What the client wrote itself stands to the left of it.
            (
                "127.0.0.1",
                &["10.0.0.1, 203.0.113.9, 198.51.100.1"],
                "198.51.100.1",
            ),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
            // All are trusted: the furthest one.
            ("127.0.0.1", &["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ] {
            assert_eq!(client(trusted, peer, forwarded), expected, "{peer} {forwarded:?}");
        }
        assert_eq!(client("", "127.0.0.1", &["198.51.100.1"]), "127.0.0.1");
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        for garbage in [
            "unknown",
            "_hidden",
            "198.51.100.1 10.0.0.1",
            "256.1.1.1",
            "\u{fc}",
            "10.0.0.1,,",
        ] {
            assert_eq!(
                client("10.0.0.0/8", "10.0.0.2", &[garbage]),
                "10.0.0.2",
                "{garbage}"
            );
            let after = format!("198.51.100.1,{garbage},10.0.0.3");
            let expected = if garbage.is_ascii() {
                "10.0.0.3"
            } else {
                "10.0.0.2"
            };
            assert_eq!(client("10.0.0.0/8", "10.0.0.2", &[&after]), expected, "{garbage}");
        }
    }

    #[test]
    fn addresses_have_one_form_and_may_have_ports() {
        assert_eq!(client("", "::ffff:192.0.2.7", &[]), "192.0.2.7");
        for named in [
            "192.0.2.7",
            "192.0.2.7:4711",
            "::ffff:192.0.2.7",
            "[::ffff:192.0.2.7]",
            "[::ffff:c000:207]:80",
        ] {
            assert_eq!(
                client("127.0.0.1", "::ffff:127.0.0.1", &[named]),
                "192.0.2.7",
                "{named}"
            );
        }
        for trusted in ["::ffff:127.0.0.1", "::ffff:127.0.0.0/104"] {
            assert_eq!(
                client(trusted, "127.0.0.1", &["192.0.2.7"]),
                "192.0.2.7",
                "{trusted}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in [
            "localhost",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::1/129",
            "10.0.0.1;10.0.0.2",
        ] {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
        assert_eq!(" , ".parse(), Ok(TrustedProxies::default()));
    }
}
