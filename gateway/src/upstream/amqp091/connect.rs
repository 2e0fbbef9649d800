//! Making a connection that can publish: addresses in turn, the AMQP handshake, the exchange, confirm mode; and saying,
//! when it fails, who must do what. Credentials pass through here and are never written anywhere.

use crate::config;
use futures_util::Stream;
use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event, ExchangeKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// The frame size asked for. lapin reserves 32 frames in each direction, and a board has little memory: 2 MiB in
/// all, where the broker's usual 128 KiB would take 8 MiB. Larger bodies travel in several frames.
pub(super) const FRAME_BYTES: u32 = 32 << 10;

/// One address of the configuration, parsed.
#[derive(Clone)]
pub(super) struct Url {
    uri: AMQPUri,
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
        let mut uri: AMQPUri = text.parse()?;
        // The parser takes an IPv6 address for no host at all and would connect to the default one.
        if let Some((v6, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            uri.authority.host = v6.to_owned();
        }
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned(); // what people mean by a slash at the end
        }
        if uri.vhost.len() > 255 || config.exchange.name.len() > 255 {
            return Err("names of virtual hosts and exchanges have at most 255 bytes".into());
        }
        uri.authority.userinfo =
            AMQPUserInfo { username: config.username.clone(), password: config.password.clone() };
        uri.query.heartbeat = Some(u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX));
        uri.query.frame_max = Some(FRAME_BYTES);
        uri.query.connection_timeout = None; // ours, around the whole of it
        uri.query.auth_mechanism = None; // PLAIN
        Ok(Self { uri })
    }

    /// Where it leads, without credentials: for logs.
    pub(super) fn place(&self) -> String {
        let authority = &self.uri.authority;
        if authority.host.contains(':') {
            format!("[{}]:{}", authority.host, authority.port)
        } else {
            format!("{}:{}", authority.host, authority.port)
        }
    }
}

/// A connection that takes messages.
pub(super) struct Link {
    pub(super) channel: Arc<Channel>,
    pub(super) events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    pub(super) connection: Connection,
    /// Last, so that it is dropped last.
    _cut: Cut,
}

impl Link {
    /// Opens a fresh channel in confirm mode, after the broker closed the last one.
    pub(super) async fn reopen(&mut self) -> lapin::Result<()> {
        self.channel = Arc::new(confirming(&self.connection).await?);
        Ok(())
    }
}

/// The socket that lapin has taken over, and whether it is still wanted.
#[derive(Default)]
struct Socket {
    handle: Option<OwnedFd>,
    cut: bool,
}

/// Closes the socket when it is dropped: lapin's own thread would wait without an end for a broker that has stopped
/// answering, and each attempt would leave one more such thread behind.
struct Cut(Arc<Mutex<Socket>>);

impl Drop for Cut {
    fn drop(&mut self) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.cut = true;
        if let Some(handle) = socket.handle.take() {
            // An error says that the peer was faster.
            let _ = rustix::net::shutdown(&handle, rustix::net::Shutdown::Both);
        }
    }
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
    let authority = &url.uri.authority;
    let unresolvable = |why: &str| {
        Fault(format!(
            "cannot find the broker's host {:?}: {why}. Check `urls` and the name server of this machine",
            authority.host
        ))
    };
    let lookup = tokio::net::lookup_host((authority.host.clone(), authority.port));
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
    let (connection, cut) = handshake(url, address).await.map_err(|error| refused(&error, url, config))?;
    let events = Box::pin(connection.events_listener());
    let channel = confirming(&connection).await.map_err(|error| refused(&error, url, config))?;
    prepare_exchange(&channel, &config.exchange)
        .await
        .map_err(|error| Fault(exchange_fault(&error, &config.exchange, &config.username)))?;
    Ok(Link { channel: Arc::new(channel), events, connection, _cut: cut })
}

/// TCP, TLS where the URL says so, and the AMQP handshake.
async fn handshake(url: &Url, address: SocketAddr) -> lapin::Result<(Connection, Cut)> {
    let socket = Arc::new(Mutex::new(Socket::default()));
    let cut = Cut(socket.clone());
    let properties = ConnectionProperties::default().with_connection_name("tidegate publisher".into());
    let connection = Connection::connector(
        url.uri.clone(),
        lapin::runtime::default_runtime()?,
        async move |uri, runtime| {
            let stream = AsyncTcpStream::connect(&runtime, address).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let handle = plain.get_ref().as_fd().try_clone_to_owned()?;
                let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
                if socket.cut {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
                }
                socket.handle = Some(handle);
            }
            if uri.scheme == AMQPScheme::AMQP {
                return Ok(stream);
            }
            // A certificate that the system's roots do not vouch for is an error, never a link in plain text; and without
            // rustls among lapin's features, which would pass the plain stream through, this does not compile.
            let secured = stream.into_tls(&uri.authority.host, OwnedTLSConfig::default().as_ref()).await?;
            match secured {
                AsyncTcpStream::Rustls(_) => Ok(secured),
                _ => Err(std::io::Error::other("the connection is not encrypted").into()),
            }
        },
        properties,
    )
    .await?;
    Ok((connection, cut))
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Declares the exchange, or checks that it is there. The default exchange is always there and cannot be declared.
async fn prepare_exchange(channel: &Channel, exchange: &config::Exchange) -> lapin::Result<()> {
    if exchange.name.is_empty() {
        return Ok(());
    }
    let kind = match exchange.kind.as_str() {
        "topic" => ExchangeKind::Topic,
        "direct" => ExchangeKind::Direct,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.to_owned()),
    };
    let options = ExchangeDeclareOptions {
        passive: !exchange.declare,
        durable: exchange.durable,
        ..ExchangeDeclareOptions::default()
    };
    let name = ShortString::try_new(exchange.name.as_str()).map_err(std::io::Error::other)?;
    channel.exchange_declare(name, kind, options, FieldTable::default()).await
}

/// The number and text of what the broker said; `None` when the fault is not the broker's word.
pub(super) fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(said) => Some((said.get_id(), said.get_message().to_string())),
        _ => None,
    }
}

/// What a failed connection means.
fn refused(error: &lapin::Error, url: &Url, config: &config::Amqp) -> Fault {
    let place = url.place();
    let user = &config.username;
    Fault(match reply(error) {
        Some((403, said)) => format!(
            "the broker at {place} refuses user {user:?} ({said}). Check `username` and `password_file` here, or the user at the broker"
        ),
        Some((530, said)) => format!(
            "the broker at {place} does not let user {user:?} use virtual host {:?} ({said}). Check the path in `urls`, or the permissions at the broker",
            url.uri.vhost
        ),
        Some((code, said)) => format!("the broker at {place} closed the connection: {code} {said}"),
        None => match error.kind() {
            ErrorKind::IOError(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => {
                format!("nothing listens at {place}. Check that the broker runs, and the port in `urls`")
            }
            _ if url.uri.scheme == AMQPScheme::AMQPS => format!(
                "no secure connection to {place}: {error}. Check the port, and that the broker's certificate is valid for this host name and signed by an authority that this machine trusts"
            ),
            _ => format!("no connection to {place}: {error}"),
        },
    })
}

/// What the broker's answer about the exchange means.
pub(super) fn exchange_fault(error: &lapin::Error, exchange: &config::Exchange, user: &str) -> String {
    let name = &exchange.name;
    match reply(error) {
        Some((404, _)) => format!(
            "exchange {name:?} does not exist at the broker. Create it there, or let `exchange.declare = true` do it"
        ),
        Some((403, said)) => format!(
            "the broker denies user {user:?} what it needs at exchange {name:?} ({said}). Grant write permission (and configure permission with `exchange.declare = true`) at the broker"
        ),
        Some((406, said)) => format!(
            "exchange {name:?} exists at the broker and is another than `exchange` describes ({said}). Make `type` and `durable` agree, or set `exchange.declare = false`"
        ),
        Some((code, said)) => format!("exchange {name:?} cannot be used: {code} {said}"),
        None => format!("exchange {name:?} cannot be used: {error}"),
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
        let parse = |text: &str| Url::parse(text, &config()).map(|u| (u.place(), u.uri.vhost));
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
