//! Making a connection that can publish: addresses in turn, the AMQP handshake, the exchange, confirm mode; and saying,
//! when it fails, who must do what. Credentials pass through here and are never written anywhere.

use super::frames::{FRAME_BYTES, Frame, Frames, Stream};
use crate::config;
use amq_protocol::protocol::connection::{self, AMQPMethod as ConnectionMethod};
use amq_protocol::protocol::{AMQPClass, channel, confirm, exchange};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use amq_protocol::uri::{AMQPScheme, AMQPUri};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The one channel of a connection.
pub(super) const CHANNEL: u16 = 1;

/// What the broker said when it closed the connection or the channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn new(code: u16, text: &ShortString) -> Self {
        Self { code, text: text.as_str().to_owned() }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// One address of the configuration, parsed.
#[derive(Clone)]
pub(super) struct Url {
    secure: bool,
    host: String,
    port: u16,
    vhost: String,
}

impl Url {
    /// Parses a URL of the configuration and adds what stands elsewhere in it.
    ///
    /// # Errors
    /// What is wrong with it, in words for the operator.
    pub(super) fn parse(text: &str, config: &config::Amqp) -> Result<Self, String> {
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or("");
        if authority.is_empty() {
            return Err(
                "it must be written amqp://HOST or amqps://HOST, with :PORT and /VHOST where they differ"
                    .into(),
            );
        }
        if authority.contains('@') {
            return Err("credentials do not belong here: use `username` and `password_file`".into());
        }
        let uri: AMQPUri = text.parse()?;
        // The parser takes an IPv6 address for no host at all and would give the default one.
        let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((v6, _)) => v6.to_owned(),
            None => uri.authority.host,
        };
        // A slash at the end means the default virtual host to people.
        let vhost = if uri.vhost.is_empty() { "/".to_owned() } else { uri.vhost };
        if vhost.len() > 255 || config.exchange.name.len() > 255 {
            return Err("names of virtual hosts and exchanges have at most 255 bytes".into());
        }
        Ok(Self { secure: uri.scheme == AMQPScheme::AMQPS, host, port: uri.authority.port, vhost })
    }

    /// Where it leads, without credentials: for logs.
    pub(super) fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A connection that takes messages, its channel in confirm mode.
pub(super) struct Link {
    pub(super) frames: Frames,
    /// The distance of heartbeats that was agreed; `None` when there are none.
    pub(super) heartbeat: Option<Duration>,
    /// The broker has asked for a pause already.
    pub(super) blocked: bool,
}

/// Why there is no connection, in words for whoever must act.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault(pub(super) String);

/// Makes a connection to the first address of a URL that answers, opens a channel, and declares or checks the exchange.
///
/// # Errors
/// [`Fault`].
pub(super) async fn connect(url: &Url, config: &config::Amqp) -> Result<Link, Fault> {
    let place = url.place();
    let unresolvable = |why: &str| {
        Fault(format!(
            "cannot find the broker's host {:?}: {why}. Check `urls` and the name server of this machine",
            url.host
        ))
    };
    let lookup = tokio::net::lookup_host((url.host.clone(), url.port));
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(config.connect_timeout, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(unresolvable(&error.to_string())),
        Err(_) => return Err(unresolvable("the name server does not answer")),
    };
    let mut fault = unresolvable("it has no address");
    for address in addresses {
        let attempt = one_address(url, address, config);
        match tokio::time::timeout(config.connect_timeout, attempt).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(why)) => fault = why,
            Err(_) => {
                fault = Fault(format!(
                    "the broker at {place} ({address}) did not answer within {:?}. Check that it runs and that no firewall is in between",
                    config.connect_timeout
                ));
            }
        }
    }
    Err(fault)
}

async fn one_address(url: &Url, address: SocketAddr, config: &config::Amqp) -> Result<Link, Fault> {
    let failed = |error: Failure| refused(&error, url, config);
    let stream = TcpStream::connect(address).await.map_err(Failure::from).map_err(failed)?;
    stream.set_nodelay(true).map_err(Failure::from).map_err(failed)?;
    // No other way leads past TLS: `amqps` is never spoken in plain text.
    let mut link = if url.secure {
        let stream = secure(stream, &url.host).await.map_err(Failure::from).map_err(failed)?;
        handshake(stream, url, config).await
    } else {
        handshake(stream, url, config).await
    }
    .map_err(failed)?;
    prepare_exchange(&mut link, &config.exchange).await.map_err(|error| match error {
        Failure::Closed(reply) => Fault(exchange_fault(&reply, &config.exchange, &config.username)),
        error => refused(&error, url, config),
    })?;
    Ok(link)
}

/// TLS over a connection; the certificate must be valid for the host and signed by an authority that this machine trusts.
async fn secure(stream: TcpStream, host: &str) -> io::Result<impl Stream + use<>> {
    let mut roots = RootCertStore::empty();
    // Read at each attempt: an operator may mend them while the gateway runs. Those that cannot be read vouch for nobody.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Why a step of the handshake failed.
#[derive(Debug)]
enum Failure {
    Io(io::Error),
    /// The broker closed the connection or the channel and said why.
    Closed(Reply),
    /// The other side does not keep to the protocol.
    Protocol(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Waits for the answer that `pick` takes. Heartbeats and pauses may come in between, and nothing else.
async fn answer<T>(
    link: &mut Link,
    awaited: &str,
    mut pick: impl FnMut(&AMQPClass) -> Option<T>,
) -> Result<T, Failure> {
    loop {
        while let Some(frame) = link.frames.next().map_err(Failure::Protocol)? {
            match frame {
                Frame::Heartbeat => {}
                Frame::Method { method: AMQPClass::Connection(ConnectionMethod::Blocked(_)), .. } => {
                    link.blocked = true;
                }
                Frame::Method { method: AMQPClass::Connection(ConnectionMethod::Unblocked(_)), .. } => {
                    link.blocked = false;
                }
                Frame::Method { method: AMQPClass::Connection(ConnectionMethod::Close(close)), .. } => {
                    return Err(Failure::Closed(Reply::new(close.reply_code, &close.reply_text)));
                }
                Frame::Method { method: AMQPClass::Channel(channel::AMQPMethod::Close(close)), .. } => {
                    return Err(Failure::Closed(Reply::new(close.reply_code, &close.reply_text)));
                }
                Frame::Method { method, .. } if let Some(answer) = pick(&method) => return Ok(answer),
                other => return Err(Failure::Protocol(format!("it sent {other} instead of {awaited}"))),
            }
        }
        link.frames.turn().await?;
    }
}

/// From the protocol header to a channel in confirm mode (AMQP 0-9-1, 2.2.4).
async fn handshake(stream: impl Stream + 'static, url: &Url, config: &config::Amqp) -> Result<Link, Failure> {
    use AMQPClass::{Channel, Confirm, Connection};
    let mut link = Link { frames: Frames::new(stream), heartbeat: None, blocked: false };
    link.frames.output().extend_from_slice(b"AMQP\x00\x00\x09\x01");
    answer(&mut link, "connection.start", |method| {
        matches!(method, Connection(ConnectionMethod::Start(_))).then_some(())
    })
    .await?;
    let start_ok = connection::StartOk {
        client_properties: client_properties(),
        mechanism: "PLAIN".into(),
        response: LongString::from(format!("\0{}\0{}", config.username, config.password)),
        locale: "en_US".into(),
    };
    link.frames.method(0, Connection(ConnectionMethod::StartOk(start_ok)))?;
    let tune = answer(&mut link, "connection.tune", |method| match method {
        Connection(ConnectionMethod::Tune(tune)) => Some(tune.clone()),
        _ => None,
    })
    .await
    .map_err(|failure| match failure {
        // AMQP 0-9-1 has no word for a wrong password: brokers without the extension just hang up (2.2.4).
        Failure::Io(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            Failure::Closed(Reply { code: 403, text: "it hung up when it had the password".into() })
        }
        failure => failure,
    })?;
    if tune.frame_max != 0 && tune.frame_max < FRAME_BYTES {
        return Err(Failure::Protocol(format!(
            "it takes frames of at most {} bytes and {FRAME_BYTES} are needed: raise its `frame_max`",
            tune.frame_max
        )));
    }
    let heartbeat = agreed_heartbeat(config.heartbeat, tune.heartbeat);
    let tune_ok = connection::TuneOk { channel_max: CHANNEL, frame_max: FRAME_BYTES, heartbeat };
    link.frames.method(0, Connection(ConnectionMethod::TuneOk(tune_ok)))?;
    let virtual_host = ShortString::try_new(url.vhost.as_str()).map_err(io::Error::other)?;
    link.frames.method(0, Connection(ConnectionMethod::Open(connection::Open { virtual_host })))?;
    answer(&mut link, "connection.open-ok", |method| {
        matches!(method, Connection(ConnectionMethod::OpenOk(_))).then_some(())
    })
    .await?;
    link.frames.method(CHANNEL, Channel(channel::AMQPMethod::Open(channel::Open {})))?;
    link.frames.method(CHANNEL, Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })))?;
    answer(&mut link, "channel.open-ok", |method| {
        matches!(method, Channel(channel::AMQPMethod::OpenOk(_))).then_some(())
    })
    .await?;
    answer(&mut link, "confirm.select-ok", |method| {
        matches!(method, Confirm(confirm::AMQPMethod::SelectOk(_))).then_some(())
    })
    .await?;
    link.heartbeat = (heartbeat > 0).then(|| Duration::from_secs(heartbeat.into()));
    Ok(link)
}

/// The shorter of what both wish for, in seconds; zero wishes for none (AMQP 0-9-1, connection.tune).
fn agreed_heartbeat(ours: Duration, theirs: u16) -> u16 {
    let ours = u16::try_from(ours.as_secs()).unwrap_or(u16::MAX);
    if ours == 0 || theirs == 0 { ours.max(theirs) } else { ours.min(theirs) }
}

/// Who we are, for the broker's list of connections, and which extensions we understand.
fn client_properties() -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for capability in
        ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"]
    {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), text("tidegate"));
    properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    properties.insert("platform".into(), text("Rust"));
    properties.insert("connection_name".into(), text("tidegate publisher"));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

/// Declares the exchange, or checks that it is there. The default exchange is always there and cannot be declared.
async fn prepare_exchange(link: &mut Link, exchange: &config::Exchange) -> Result<(), Failure> {
    if exchange.name.is_empty() {
        return Ok(());
    }
    let declare = exchange::Declare {
        exchange: ShortString::try_new(exchange.name.as_str()).map_err(io::Error::other)?,
        kind: ShortString::try_new(exchange.kind.as_str()).map_err(io::Error::other)?,
        passive: !exchange.declare,
        durable: exchange.durable,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    link.frames.method(CHANNEL, AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)))?;
    answer(link, "exchange.declare-ok", |method| {
        matches!(method, AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(_))).then_some(())
    })
    .await
}

/// What a failed connection means.
fn refused(error: &Failure, url: &Url, config: &config::Amqp) -> Fault {
    let place = url.place();
    let user = &config.username;
    Fault(match error {
        Failure::Closed(Reply { code: 403, text }) => format!(
            "the broker at {place} refuses user {user:?} ({text}). Check `username` and `password_file` here, or the user at the broker"
        ),
        Failure::Closed(Reply { code: 530, text }) => format!(
            "the broker at {place} does not let user {user:?} use virtual host {:?} ({text}). Check the path in `urls`, or the permissions at the broker",
            url.vhost
        ),
        Failure::Closed(reply) => format!("the broker at {place} closed the connection: {reply}"),
        Failure::Protocol(why) => {
            format!("{place} is no broker to talk to: {why}. Check host and port in `urls`")
        }
        Failure::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("nothing listens at {place}. Check that the broker runs, and the port in `urls`")
        }
        Failure::Io(error) if url.secure => format!(
            "no secure connection to {place}: {error}. Check the port, and that the broker's certificate is valid for this host name and signed by an authority that this machine trusts"
        ),
        Failure::Io(error) => format!("no connection to {place}: {error}"),
    })
}

/// What the broker's answer about the exchange means.
pub(super) fn exchange_fault(reply: &Reply, exchange: &config::Exchange, user: &str) -> String {
    let name = &exchange.name;
    let said = &reply.text;
    match reply.code {
        404 => format!(
            "exchange {name:?} does not exist at the broker. Create it there, or let `exchange.declare = true` do it"
        ),
        403 => format!(
            "the broker denies user {user:?} what it needs at exchange {name:?} ({said}). Grant write permission (and configure permission with `exchange.declare = true`) at the broker"
        ),
        406 => format!(
            "exchange {name:?} exists at the broker and is another than `exchange` describes ({said}). Make `type` and `durable` agree, or set `exchange.declare = false`"
        ),
        _ => format!("exchange {name:?} cannot be used: {reply}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config() -> config::Amqp {
        config::Amqp {
            urls: Vec::new(),
            username: "site-a".into(),
            password: "geheim".into(),
            exchange: config::Exchange {
                name: "telemetry".into(),
                kind: "topic".into(),
                durable: true,
                declare: true,
            },
            heartbeat: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_secs(30),
        }
    }

    #[test]
    fn urls_are_read_as_operators_mean_them() {
        let parse = |text: &str| Url::parse(text, &config()).map(|u| (u.place(), u.vhost));
        let root = || "/".to_owned();
        assert_eq!(parse("amqp://broker.example"), Ok(("broker.example:5672".into(), root())));
        assert_eq!(parse("amqps://broker.example/"), Ok(("broker.example:5671".into(), root())));
        assert_eq!(parse("amqp://127.0.0.1:5673/plant"), Ok(("127.0.0.1:5673".into(), "plant".into())));
        assert_eq!(parse("amqp://[::1]:5673/%2f"), Ok(("[::1]:5673".into(), root())));
    }

    #[test]
    fn urls_with_credentials_or_without_a_host_are_refused() {
        for text in ["amqp://user:pass@host", "amqp://", "amqp:///vhost", "http://host", "host:5672", ""] {
            assert!(Url::parse(text, &config()).is_err(), "{text}");
        }
    }
}
