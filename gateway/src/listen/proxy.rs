//! The PROXY protocol, version 2 (haproxy's proxy-protocol.txt): a load balancer's first words on a connection, which say for
//! whom it speaks. Reads exactly the header and not a byte of what follows. Whom to believe is the caller's to decide.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The longest body (addresses and extensions) that is taken, in bytes. Extensions are skipped; the longest in use carry a
/// client's certificate.
const BODY_BYTES: u16 = 4 << 10;

/// What a load balancer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// It connects on its own behalf, to see whether we live; or it does not know for whom.
    Local,
    /// It speaks for a client at this address.
    For(SocketAddr),
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    /// The connection ended, or failed.
    #[error("the connection ended before its PROXY header: {0}")]
    Ended(#[from] io::Error),
    /// Something else came.
    #[error(
        "the connection does not begin with a PROXY header of version 2; turn it on at the load balancer (haproxy: send-proxy-v2)"
    )]
    Missing,
    /// It is not what we understand.
    #[error("the PROXY header {0}")]
    Wrong(&'static str),
}

/// Reads the header.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, Malformed> {
    let mut fixed = [0; 16];
    // The signature first: who speaks plain MQTT sends less than a header and then waits.
    let (signature, rest) = fixed.split_at_mut(SIGNATURE.len());
    for (byte, wanted) in signature.iter_mut().zip(SIGNATURE) {
        *byte = stream.read_u8().await?;
        if byte != wanted {
            return Err(Malformed::Missing);
        }
    }
    stream.read_exact(rest).await?;
    let [.., version_and_command, family, high, low] = fixed;
    let length = u16::from_be_bytes([high, low]);
    if version_and_command >> 4 != VERSION {
        return Err(Malformed::Wrong("is not of version 2"));
    }
    if length > BODY_BYTES {
        return Err(Malformed::Wrong("is longer than 4 KiB"));
    }
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await?;
    header(version_and_command & 0x0f, family, &body)
}

fn header(command: u8, family: u8, body: &[u8]) -> Result<Header, Malformed> {
    match (command, family) {
        (LOCAL, _) | (PROXY, UNSPECIFIED) => Ok(Header::Local),
        (PROXY, TCP_OVER_IPV4) => match body {
            [a, b, c, d, _, _, _, _, high, low, ..] if body.len() >= 12 => {
                let address = Ipv4Addr::new(*a, *b, *c, *d);
                Ok(Header::For(SocketAddr::new(address.into(), u16::from_be_bytes([*high, *low]))))
            }
            _ => Err(Malformed::Wrong("is too short for its addresses")),
        },
        (PROXY, TCP_OVER_IPV6) => match (body.first_chunk::<16>(), body.get(32..36)) {
            (Some(source), Some([high, low, ..])) => {
                let address = IpAddr::V6(Ipv6Addr::from(*source)).to_canonical();
                Ok(Header::For(SocketAddr::new(address, u16::from_be_bytes([*high, *low]))))
            }
            _ => Err(Malformed::Wrong("is too short for its addresses")),
        },
        (PROXY, _) => Err(Malformed::Wrong("speaks for something that is not TCP")),
        _ => Err(Malformed::Wrong("has an unknown command")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Malformed, SIGNATURE, read};

    async fn parse(bytes: &[u8]) -> (Result<Header, Malformed>, usize) {
        let mut rest = bytes;
        let header = read(&mut rest).await;
        (header, rest.len())
    }

    fn written(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x07, 0x5b];

    #[tokio::test]
    async fn the_client_and_nothing_behind_the_header_is_read() {
        let mut bytes = written(0x21, 0x11, &[&V4[..], &[4, 0, 1, 0]].concat());
        bytes.extend_from_slice(b"MQTT");
        let (header, rest) = parse(&bytes).await;
        assert_eq!(header.unwrap(), Header::For("192.0.2.7:4660".parse().unwrap()));
        assert_eq!(rest, 4);

        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0x12, 0x34]);
        let (header, _) = parse(&written(0x21, 0x21, &v6)).await;
        assert_eq!(header.unwrap(), Header::For("[2001:db8::7]:4660".parse().unwrap()));
        // IPv4 in IPv6's clothes counts as IPv4: rules about addresses must not be got round.
        v6[..16].copy_from_slice(&"::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let (header, _) = parse(&written(0x21, 0x21, &v6)).await;
        assert_eq!(header.unwrap(), Header::For("192.0.2.7:4660".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_health_check_speaks_for_itself() {
        for bytes in [written(0x20, 0, &[]), written(0x20, 0x11, &V4), written(0x21, 0, &[1, 2, 3])] {
            assert_eq!(parse(&bytes).await.0.unwrap(), Header::Local);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let missing: [&[u8]; 3] =
            [b"\x10\x0c\0\x04MQTT\x04", b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n", b"\r\n\r\nGET"];
        for bytes in missing {
            assert!(matches!(parse(bytes).await.0, Err(Malformed::Missing)), "{bytes:?}");
        }
        for bytes in [
            written(0x11, 0x11, &V4),
            written(0x22, 0x11, &V4),
            written(0x21, 0x12, &V4),
            written(0x21, 0x31, &[0; 216]),
            written(0x21, 0x11, &V4[..11]),
            written(0x21, 0x21, &V4),
            written(0x21, 0x11, &[0; 5_000]),
        ] {
            assert!(matches!(parse(&bytes).await.0, Err(Malformed::Wrong(_))), "{bytes:?}");
        }
        let whole = written(0x21, 0x11, &V4);
        for length in 0..whole.len() {
            assert!(matches!(parse(&whole[..length]).await.0, Err(Malformed::Ended(_))), "{length}");
        }
    }
}
