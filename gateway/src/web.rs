//! What web pages of others can make a browser do to a gateway, and how that is told apart. No protocol, no state.

use std::net::IpAddr;

/// Whether a host, with or without a port, is one that nobody else controls. An attacker's name can be made to resolve to us
/// (DNS rebinding); an address literal and `localhost` cannot be made to mean another site.
pub(crate) fn host_is_ours(host: &str) -> bool {
    let name = host_name(host);
    let literal = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    literal.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

/// A host without its port.
pub(crate) fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::host_is_ours;

    #[test]
    fn a_name_that_somebody_else_controls_is_refused() {
        for ours in ["127.0.0.1:8080", "localhost", "LocalHost:80", "[::1]:8080", "[::1]", "192.0.2.7"] {
            assert!(host_is_ours(ours), "{ours}");
        }
        for theirs in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", ""]
        {
            assert!(!host_is_ours(theirs), "{theirs}");
        }
    }
}
