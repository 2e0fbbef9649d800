//! The opening handshake (RFC 6455, 4.2): one HTTP request, bounded, answered with 101 or with a refusal that says what is wrong.
//! Decides which web pages may connect. The time that it may take is the caller's to bound.

use super::Offer;
use crate::web::{host_is_ours, host_name};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::HeaderValue;
use tungstenite::http::header::{HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT};

/// The longest request, in bytes: browsers send cookies of other services on the same host along.
const REQUEST_BYTES: usize = 8 << 10;

/// Read at a time while the request comes in, in bytes.
const READ_BYTES: usize = 1 << 10;

/// Which web pages may connect. A browser sends the page's origin and its own name (`User-Agent`), and a page can neither forge
/// nor leave out either; by default a page of the same host may connect. Programs send no `User-Agent` (some do send an
/// `Origin`) and are let in: what they may do is a matter of credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::listen) struct Origins(Vec<String>);

impl Origins {
    /// These besides the gateway's own host; `*` stands for all.
    pub(in crate::listen) fn new(allowed: &[String]) -> Self {
        Self(allowed.iter().map(|origin| origin.to_ascii_lowercase()).collect())
    }

    /// Whether a page of this origin may connect to us, called `host` by its browser.
    fn allow(&self, origin: &str, host: &str, secure: bool) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.0.iter().any(|allowed| allowed == "*" || *allowed == origin) {
            return true;
        }
        let Some((_, of_page)) = origin.split_once("://") else {
            return false; // "null": a file, or a page that hides where it is from.
        };
        // A name that somebody else controls could have been made to mean us (DNS rebinding); over TLS our certificate
        // would not have fitted it.
        host_name(of_page).eq_ignore_ascii_case(host_name(host)) && (secure || host_is_ours(host))
    }
}

/// Why there is no WebSocket connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::listen) enum Refused {
    /// The connection ended, or failed.
    #[error("the connection ended before its HTTP request: {0}")]
    Ended(#[from] std::io::Error),
    /// The request was answered with this status and reason.
    #[error("refused with {0}: {1}")]
    Answered(&'static str, String),
}

/// Does the handshake. Afterwards frames come.
pub(in crate::listen) async fn upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    offer: &Offer,
    origins: &Origins,
    secure: bool,
) -> Result<(), Refused> {
    let answer = match request(stream).await? {
        Ok(request) => answer(&request, offer, origins, secure),
        Err(refusal) => Err(refusal),
    };
    match answer {
        Ok(answer) => {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            Ok(())
        }
        Err((status, reason)) => {
            let further = if status.starts_with("426") { "Upgrade: websocket\r\n" } else { "" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\n{further}Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{reason}\n",
                reason.len() + 1
            );
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
            Err(Refused::Answered(status, reason))
        }
    }
}

type Refusal = (&'static str, String);

fn bad<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(("400 Bad Request", reason.into()))
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Result<Request, Refusal>> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::with_capacity(READ_BYTES);
    // The end is looked for once in each byte, and the request parsed once: byte by byte they would take time in the square of
    // its length.
    let mut looked = 0_usize;
    while !bytes
        .get(looked.saturating_sub(END.len())..)
        .unwrap_or_default()
        .windows(END.len())
        .any(|end| end == END)
    {
        looked = bytes.len();
        let room = REQUEST_BYTES - bytes.len();
        if room == 0 {
            return Ok(Err((
                "431 Request Header Fields Too Large",
                "the request is longer than 8 KiB".to_owned(),
            )));
        }
        bytes.reserve(room.min(READ_BYTES));
        if (&mut *stream).take(room as u64).read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(match Request::try_parse(&bytes) {
        Ok(Some((length, request))) if length == bytes.len() => Ok(request),
        Ok(_) => bad("nothing may follow the request before its answer"),
        Err(_) => bad("this is not an HTTP request"),
    })
}

fn answer(request: &Request, offer: &Offer, origins: &Origins, secure: bool) -> Result<Vec<u8>, Refusal> {
    let text = |name| request.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    if text(UPGRADE).is_none() {
        return Err(("426 Upgrade Required", format!("this port speaks {} over WebSocket", offer.name)));
    }
    if let Some(path) = offer.path.filter(|path| *path != request.uri().path()) {
        return Err(("404 Not Found", format!("{} is spoken at {path}", offer.name)));
    }
    if let Some(origin) = text(ORIGIN)
        && text(USER_AGENT).is_some()
        && !origins.allow(origin, text(HOST).unwrap_or(""), secure)
    {
        return Err(("403 Forbidden", format!("this web page is not among {}", offer.origins)));
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let Some(chosen) = offer.subprotocols.iter().find(|known| offered.contains(known)) else {
        let name = offer.subprotocols.first().copied().unwrap_or_default();
        return bad(format!("offer the subprotocol {name} (Sec-WebSocket-Protocol)")); // [MQTT-6.0.0-3]
    };
    let Ok(mut response) = create_response(request) else {
        return bad("this is not an opening handshake of WebSocket version 13");
    };
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen)); // [MQTT-6.0.0-4]
    let mut answer = Vec::new();
    if write_response(&mut answer, &response).is_err() {
        return bad("the answer cannot be written");
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::super::{COAP, MQTT, Offer};
    use super::{Origins, Refused, upgrade};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const WELL: &str = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:8083\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    async fn answered(offer: &Offer, request: &str) -> (Result<(), Refused>, String) {
        let (mut ours, mut theirs) = duplex(64 << 10);
        theirs.write_all(request.as_bytes()).await.unwrap();
        let result = upgrade(&mut ours, offer, &Origins::default(), false).await;
        drop(ours);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).await.unwrap();
        (result, answer)
    }

    #[tokio::test]
    async fn a_client_gets_the_subprotocol_that_it_offered() {
        for (offered, chosen) in
            [("mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1"), ("chat, mqttv3.1, mqtt", "mqtt")]
        {
            let request = format!("{WELL}Sec-WebSocket-Protocol: {offered}\r\n\r\n");
            let (result, answer) = answered(&MQTT, &request).await;
            assert!(result.is_ok(), "{answer}");
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            let answer = answer.to_ascii_lowercase();
            assert!(answer.contains(&format!("sec-websocket-protocol: {chosen}\r\n")), "{answer}");
            // The example of RFC 6455, 1.3.
            assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn coap_is_spoken_under_its_name_at_its_path() {
        let well = WELL.replace("/mqtt", "/.well-known/coap");
        for (request, subprotocol, status) in
            [(&well[..], "coap", "101"), (WELL, "coap", "404"), (&well, "mqtt", "400")]
        {
            let request = format!("{request}Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n");
            let (_, answer) = answered(&COAP, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_no_handshake_is_told_so() {
        let long = format!("{WELL}Cookie: {}\r\n\r\n", "x".repeat(9_000));
        let early = format!("{WELL}Sec-WebSocket-Protocol: mqtt\r\n\r\n\x10");
        let bare = format!("{WELL}\r\n");
        let wrong_version =
            format!("{WELL}Sec-WebSocket-Protocol: mqtt\r\n\r\n").replace("Version: 13", "Version: 8");
        for (request, status) in [
            (bare.as_str(), "400"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "426"),
            ("\x16\x03\x01 garbage\r\n\r\n", "400"),
            (&wrong_version, "400"),
            (&early, "400"),
            (&long, "431"),
        ] {
            let (result, answer) = answered(&MQTT, request).await;
            assert!(matches!(result, Err(Refused::Answered(..))), "{request}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
    }

    #[test]
    fn a_page_may_connect_to_its_own_host_and_others_by_the_operators_word() {
        let none = Origins::default();
        let some = Origins::new(&["https://Dashboard.example".to_owned(), "null".to_owned()]);
        for (origins, origin, host, secure, allowed) in [
            (&none, "http://127.0.0.1:8080", "127.0.0.1:8083", false, true),
            (&none, "http://localhost", "localhost:8083", false, true),
            (&none, "http://[::1]:8080", "[::1]:8083", false, true),
            (&none, "http://evil.example", "127.0.0.1:8083", false, false),
            // A name that was made to mean us.
            (&none, "http://evil.example:8083", "evil.example:8083", false, false),
            (&none, "https://gateway.example", "gateway.example:8084", true, true),
            (&none, "https://evil.example", "gateway.example:8084", true, false),
            (&none, "null", "127.0.0.1:8083", false, false),
            (&none, "", "", true, false),
            (&some, "https://dashboard.example", "127.0.0.1:8083", false, true),
            (&some, "http://dashboard.example", "127.0.0.1:8083", false, false),
            (&some, "null", "127.0.0.1:8083", false, true),
            (&Origins::new(&["*".to_owned()]), "http://evil.example", "127.0.0.1:8083", false, true),
        ] {
            assert_eq!(origins.allow(origin, host, secure), allowed, "{origin} at {host}");
        }
    }
}
