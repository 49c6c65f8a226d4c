//! Who is at the other end.

use crate::error::ApiError;
use crate::services::Api;
use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{Extensions, HeaderMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use zentinel_core::Error;

/// A range of addresses in CIDR notation, for example `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address lies in the range. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(its)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Ipv4Addr::to_bits(mine) & mask == Ipv4Addr::to_bits(its) & mask
            }
            (IpAddr::V6(mine), IpAddr::V6(its)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Ipv6Addr::to_bits(mine) & mask == Ipv6Addr::to_bits(its) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::invalid(format!("{text:?} is no address range such as 10.0.0.0/8"));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| bad())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.trim().parse().map_err(|_| bad())?,
            None => longest,
        };
        if prefix > longest {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The client's address: the peer's, or what trusted proxies say. `None` without a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientIp(pub(crate) Option<IpAddr>);

impl FromRequestParts<Api> for ClientIp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Ok(Self::of_parts(parts, api))
    }
}

impl ClientIp {
    /// Reads it off a request whose connection put [`ConnectInfo`] into the extensions.
    pub(crate) fn of(headers: &HeaderMap, extensions: &Extensions, trusted: &[Network]) -> Self {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        Self(peer.map(|ConnectInfo(peer)| resolve(peer.ip().to_canonical(), headers, trusted)))
    }

    /// The same for a request's head.
    pub(crate) fn of_parts(parts: &Parts, api: &Api) -> Self {
        Self::of(&parts.headers, &parts.extensions, &api.options.trusted_proxies)
    }

    /// For keys of limits: an IPv4 address, or the /64 that one IPv6 subscriber is free to use.
    pub(crate) fn subscriber(self) -> String {
        match self.0 {
            Some(IpAddr::V6(address)) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64));
                format!("{network}/64")
            }
            _ => self.text(),
        }
    }

    /// For logs.
    pub(crate) fn text(self) -> String {
        self.0.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    }
}

/// Walks `X-Forwarded-For` from the right as long as the hop that wrote it is trusted: what is
/// further left can be made up by anyone.
fn resolve(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    if trusted.is_empty() {
        return peer;
    }
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let values: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let mut client = peer;
    for hop in values.into_iter().rev() {
        if !is_trusted(client) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn client(peer: &str, forwarded: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        resolve(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_hops_are_believed() {
        assert_eq!(client("203.0.113.9", "1.2.3.4"), "203.0.113.9");
        assert_eq!(client("10.0.0.1", "1.2.3.4"), "1.2.3.4");
        assert_eq!(client("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9"), "1.2.3.4");
        assert_eq!(client("::1", "garbage"), "::1");
        assert_eq!(client("10.0.0.1", ""), "10.0.0.1");
    }

    #[test]
    fn an_ipv6_subscriber_is_a_64() {
        let subscriber = |text: &str| ClientIp(Some(text.parse().unwrap())).subscriber();
        assert_eq!(subscriber("203.0.113.9"), "203.0.113.9");
        assert_eq!(subscriber("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(subscriber("2001:db8:1:2::"), subscriber("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(subscriber("2001:db8:1:2::"), subscriber("2001:db8:1:3::"));
        assert_eq!(ClientIp(None).subscriber(), "unknown");
    }

    #[test]
    fn ranges_parse_and_match() {
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("2001:db8::1".parse().unwrap()));
        let v6: Network = "2001:db8::/32".parse().unwrap();
        assert!(
            v6.contains("2001:db8:1::1".parse().unwrap()) && !v6.contains("2001:db9::1".parse().unwrap())
        );
        let mapped: IpAddr = "::ffff:10.1.1.1".parse().unwrap();
        assert!("10.0.0.0/8".parse::<Network>().unwrap().contains(mapped));
        for bad in ["", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
