//! Which hosts are asked without the proxy, as Go has it.

use std::net::{IpAddr, Ipv6Addr};

/// The hosts of a `NO_PROXY` (`golang.org/x/net/http/httpproxy`), and the machine itself, for which Go never asks a proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exempt {
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    All,
    /// A network, by its first address and the number of its bits.
    Network(u128, u32),
    Address(IpAddr, Option<u16>),
    /// What a name ends with, dot included; and whether without the dot it is itself the name.
    Domain(String, bool, Option<u16>),
}

impl Exempt {
    /// Understands a list separated by commas. What makes no sense exempts nothing.
    pub(super) fn new(list: &str) -> Self {
        Self { entries: list.split(',').filter_map(|entry| Entry::new(&entry.trim().to_lowercase())).collect() }
    }

    /// Whether no proxy is asked for a host. `host` can be in the brackets of IPv6.
    pub(super) fn contains(&self, host: &str, port: u16) -> bool {
        let host = host.to_lowercase();
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        host == "localhost"
            || ip.is_some_and(|ip| ip.is_loopback())
            || self.entries.iter().any(|entry| entry.contains(&host, ip, port))
    }
}

impl Entry {
    fn new(text: &str) -> Option<Self> {
        if text.is_empty() || text == "*" {
            return (text == "*").then_some(Self::All);
        }
        if let Some((ip, bits)) = network(text) {
            return Some(Self::Network(ip, bits));
        }
        // A port that is no number is that of no request.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port.parse().unwrap_or(0))),
            _ => (text, None),
        };
        if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Address(ip.to_canonical(), port));
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        match host.chars().next()? {
            '.' => Some(Self::Domain(host.to_owned(), false, port)),
            _ => Some(Self::Domain(format!(".{host}"), true, port)),
        }
    }

    fn contains(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let at = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::All => true,
            Self::Network(first, bits) => ip.is_some_and(|ip| masked(number(ip), *bits) == *first),
            Self::Address(address, wanted) => ip == Some(*address) && at(wanted),
            Self::Domain(end, whole, wanted) => {
                (host.ends_with(end.as_str()) || *whole && host == &end[1..]) && at(wanted)
            }
        }
    }
}

/// A network such as `10.0.0.0/8`.
fn network(text: &str) -> Option<(u128, u32)> {
    let (ip, bits) = text.split_once('/')?;
    let (ip, bits): (IpAddr, u32) = (ip.parse().ok()?, bits.parse().ok()?);
    let bits = match ip {
        IpAddr::V4(_) => (bits <= 32).then_some(bits + 96)?,
        IpAddr::V6(_) => (bits <= 128).then_some(bits)?,
    };
    Some((masked(number(ip), bits), bits))
}

fn number(ip: IpAddr) -> u128 {
    let ip: Ipv6Addr = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    ip.to_bits()
}

fn masked(number: u128, bits: u32) -> u128 {
    number & u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_exempt_where_go_exempts_them() {
        // From the tests of Go's package (`UseProxyTests`), and what pipelines have.
        const LIST: &str = "foobar.com, .barbaz.net,192.168.1.1,192.168.1.2:81,192.168.1.3:80,10.0.0.0/30,\
            2001:db8::52:0:1,[2001:db8::52:0:2]:443,[2002:db8:a::45]:80,2001:DB8::/120, *.wild.example ,port.example:8080,:1,/,x:y";
        let exempt = Exempt::new(LIST);
        for (host, port) in [
            ("localhost", 80),
            ("127.0.0.1", 80),
            ("127.0.0.2", 80),
            ("[::1]", 80),
            ("foobar.com", 80),
            ("FooBar.com", 443),
            ("www.foobar.com", 80),
            ("foo.barbaz.net", 80),
            ("192.168.1.1", 80),
            ("192.168.1.3", 80),
            ("10.0.0.2", 80),
            ("[2001:db8::52:0:1]", 80),
            ("[2001:db8::52:0:2]", 443),
            ("[2002:db8:a::45]", 80),
            ("[2001:db8::1]", 80),
            ("a.wild.example", 443),
            ("port.example", 8080),
            ("a.port.example", 8080),
        ] {
            assert!(exempt.contains(host, port), "{host} {port}");
        }
        for (host, port) in [
            ("local.localhost", 80),
            ("foofoobar.com", 80),
            ("baz.com", 80),
            ("barbaz.net", 80),
            ("192.168.1.2", 80),
            ("192.168.1.4", 80),
            ("10.0.0.4", 80),
            ("[2001:db8::52:0:2]", 80),
            ("[2001:db8::52:0:3]", 80),
            ("[2001:db8:1::1]", 80),
            ("wild.example", 443),
            ("port.example", 443),
            ("x", 80),
        ] {
            assert!(!exempt.contains(host, port), "{host} {port}");
        }
        for (list, exempts) in [("*", true), ("a.example, *", true), ("", false), (",", false), ("0.0.0.0/0", true)] {
            assert_eq!(Exempt::new(list).contains("169.254.169.254", 80), exempts, "{list}");
        }
        assert!(Exempt::new("*").contains("any.example", 1) && !Exempt::new("0.0.0.0/0").contains("any.example", 1));
    }
}
