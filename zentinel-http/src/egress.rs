//! Calls to places outside that a setting or a user names: where they may go, and how they are signed.
//!
//! Without a guard, whoever may name a URL can reach what only the control plane can reach: itself, the cloud's
//! metadata service, the private network. [`Egress::public`] refuses all of these, by the address that is connected to, not by
//! its name: the name is resolved once and the connection goes to an address that was looked at.

use crate::extract::Network;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use sha2::Sha256;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use url::{Host, Url};
use zentinel_core::{Error, Result, Secret, Timestamp};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where calls may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    anywhere: bool,
    allowed: Arc<[Network]>,
}

impl Egress {
    /// Only to addresses of the public Internet.
    #[must_use]
    pub fn public() -> Self {
        Self { anywhere: false, allowed: Arc::default() }
    }

    /// Also to addresses in these ranges.
    #[must_use]
    pub fn allowing(ranges: impl IntoIterator<Item = Network>) -> Self {
        Self { anywhere: false, allowed: ranges.into_iter().collect() }
    }

    /// Also to this host and to private networks.
    #[must_use]
    pub fn anywhere() -> Self {
        Self { anywhere: true, allowed: Arc::default() }
    }

    /// Checks a URL as far as that goes without resolving its name.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) for another scheme than HTTP(S), for a URL with credentials or
    /// without a host, and for an address that calls may not go to.
    pub fn check(&self, url: &Url) -> Result<()> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::invalid("must be an http or https URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::invalid("must not hold credentials"));
        }
        let address = match url.host() {
            None => return Err(Error::invalid("must name a host")),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if self.allows(address) { Ok(()) } else { Err(Error::invalid(refusal(address))) }
    }

    /// A client whose connections only go where they may. It follows no redirects and uses no proxy. An address in the URL itself
    /// is not resolved: [`Egress::check`] it before each call.
    ///
    /// # Errors
    /// [`Kind::Internal`](zentinel_core::Kind::Internal) when it cannot be set up.
    pub fn client(&self, timeout: Duration) -> Result<reqwest::Client> {
        reqwest::Client::builder()
            .user_agent(concat!("zentinel-control-plane/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Guard(self.clone())))
            .build()
            .map_err(|error| Error::internal("the HTTP client could not be set up").with_source(error))
    }

    /// Whether calls may go to this address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        self.anywhere || is_public(address) || self.allowed.iter().any(|range| range.contains(address))
    }
}

fn refusal(address: IpAddr) -> String {
    format!("{address} is not an address of the public Internet, and calls to others are not allowed")
}

/// A connection that is not allowed.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Whether a call failed because its host may not be connected to.
#[must_use]
pub fn is_refusal(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<Refused>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Resolves names and keeps only what may be connected to.
struct Guard(Egress);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let first = found.first().copied();
            let allowed: Vec<SocketAddr> = found.into_iter().filter(|at| egress.allows(at.ip())).collect();
            match (allowed.is_empty(), first) {
                (true, Some(refused)) => Err(Refused(refusal(refused.ip())).into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation();
    // This network, shared address space, protocol assignments, 6to4 relays, benchmarks, reserved.
    let reserved = a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special && !reserved
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // An IPv4 address in other clothes: mapped, compatible, NAT64, 6to4.
    let segments = address.segments();
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => return is_public_v4(inner(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => return is_public_v4(inner(high, low)),
        [0x2002, high, low, ..] => return is_public_v4(inner(high, low)),
        _ => {}
    }
    // Only global unicast, without Teredo, benchmarks and the like (2001::/23) and documentation.
    let global = segments[0] & 0xe000 == 0x2000;
    let special = segments[0] == 0x2001 && (segments[1] < 0x200 || segments[1] == 0xdb8);
    global && !special
}

/// The header that says when a call was signed, in seconds since 1970.
pub const TIMESTAMP_HEADER: &str = "x-zentinel-timestamp";
/// The header with the signature of a call.
pub const SIGNATURE_HEADER: &str = "x-zentinel-signature";

/// The value of [`SIGNATURE_HEADER`]: `t=<seconds>,v1=<hex>`, HMAC-SHA256 with the secret over `<seconds>.<body>`. Receivers
/// refuse one that is more than 300 seconds old.
///
/// # Errors
/// [`Kind::Internal`](zentinel_core::Kind::Internal) when the secret is unusable as a key.
pub fn signature(secret: &Secret, at: Timestamp, body: &[u8]) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .map_err(|error| Error::internal("the signing secret is unusable").with_source(error))?;
    let seconds = at.timestamp();
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("t={seconds},v1={hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        let public = ["1.1.1.1", "93.184.216.34", "100.128.0.1", "2606:4700::1111", "2001:4860:4860::8888"];
        for address in public {
            assert!(Egress::public().allows(address.parse().unwrap()), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "192.88.99.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "64:ff9b:1::1",
            "100::1",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(!Egress::public().allows(address), "{address}");
            assert!(Egress::anywhere().allows(address), "{address}");
        }
    }

    #[test]
    fn urls_are_checked_before_anything_is_sent() {
        let check = |url: &str| Egress::public().check(&Url::parse(url).unwrap());
        check("https://lb.example/weights").unwrap();
        for refused in [
            "ftp://lb.example/",
            "file:///etc/passwd",
            "https://user:secret@lb.example/",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:169.254.169.254]/",
        ] {
            assert!(check(refused).is_err(), "{refused}");
        }
        Egress::anywhere().check(&Url::parse("http://127.0.0.1:1/").unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_when_it_is_resolved() {
        let client = Egress::public().client(Duration::from_secs(5)).unwrap();
        let error = client.get("http://localhost:9/").send().await.unwrap_err();
        assert!(format!("{error:?}").contains("not an address of the public Internet"), "{error:?}");
    }

    #[test]
    fn the_signature_is_the_one_of_the_wire_contract() {
        let at = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let signed = signature(&Secret::new("key"), at, b"{}").unwrap();
        assert_eq!(
            signed,
            "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
        );
    }
}
