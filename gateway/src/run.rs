//! Builds every part, connects them, and runs them until a signal says stop. What the parts do is their own business;
//! in which order they start and stop is decided here.

mod host;
mod setup;

use crate::access::audit::Audit;
use crate::access::verifier::Verifier;
use crate::admin::{self, About, Admin};
use crate::clock::Clock;
use crate::config::{Config, Mistakes, Secure, Streams};
use crate::connection::Entrance;
use crate::driver::{self, Ended, Handle, Parts};
use crate::inbox::inbox;
use crate::listen::admission::Admission;
use crate::listen::coap::{Outlet, Sockets};
use crate::listen::handshake::{Door, Protocol, Spoken, Transport};
use crate::listen::{BindError, accept, dtls, serial};
use crate::memory;
use crate::notify;
use crate::priority;
use crate::restart;
use crate::store::sqlite::{self, Opened, Sizes, SqliteStore};
use crate::store::writer::{OrderError, StopError, Writer};
use crate::upstream::{self, StartError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::Engine;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How long the engine has for making everything safe after SIGTERM.
const SAFE_WITHIN: Duration = Duration::from_secs(4);

/// How long the whole end may take; what is left after [`SAFE_WITHIN`] is for closing the store.
const END_WITHIN: Duration = Duration::from_millis(4_800);

/// Why the gateway did not start, or ended by itself. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory or the store in it.
    #[error(transparent)]
    Store(#[from] sqlite::OpenError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// DTLS.
    #[error(transparent)]
    Dtls(#[from] dtls::SetUpError),
    /// An upstream.
    #[error(transparent)]
    Upstream(#[from] StartError),
    /// The operating system refuses something that every process needs.
    #[error("the operating system refuses {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The store's thread.
    #[error("{error}{}; nothing can be made safe any more. Nothing acknowledged is lost: start the gateway again", why(.reason))]
    StoreEnded {
        /// What the driver met.
        error: OrderError,
        /// What the thread says.
        reason: Option<StopError>,
    },
    /// A defect of ours.
    #[error(
        "a part of the gateway failed ({0}); nothing acknowledged is lost: start the gateway again, and report this"
    )]
    Panicked(String),
}

fn why(reason: &Option<StopError>) -> String {
    reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
}

/// Runs the gateway until SIGTERM or SIGINT. `read_again` gives the configuration anew at SIGHUP.
///
/// # Errors
/// [`RunError`], in words for the operator. An upstream that cannot be reached is no error.
pub fn run(config: Config, read_again: impl FnMut() -> Result<Config, Mistakes>) -> Result<(), RunError> {
    let panics = host::watch_panics();
    host::raise_open_files(config.limits.connections);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { what: "an event loop", source })?;
    let ended = runtime.block_on(async {
        let gateway = Gateway::start(config)?;
        // The threads for messages have been started.
        priority::give_way(priority::DOOR);
        gateway.live(read_again, panics).await
    });
    // Nothing that is still running may hold up the end.
    runtime.shutdown_background();
    ended
}

/// The running gateway.
struct Gateway {
    /// What it runs with.
    config: Config,
    driver: oneshot::Receiver<Ended<SqliteStore>>,
    handle: Handle,
    admission: Arc<Admission>,
    door: Arc<Door>,
    admin: Admin,
    /// Listeners; they end when this is dropped.
    listeners: JoinSet<()>,
    /// The administrator's side and systemd's; they end when this is dropped.
    onlookers: JoinSet<()>,
    signals: Signals,
    dtls: Vec<Arc<dtls::Server>>,
}

/// What a signal means.
enum Order {
    Stop(&'static str),
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, RunError> {
        let of = |kind| signal(kind).map_err(|source| RunError::System { what: "a signal handler", source });
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hang_up: of(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Order::Stop("SIGINT"),
            _ = self.hang_up.recv() => Order::Reload,
        }
    }

    /// Waits for the order to stop.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Order::Stop(signal) = self.recv().await {
                return signal;
            }
        }
    }
}

impl Gateway {
    fn start(config: Config) -> Result<Self, RunError> {
        // Before anything else: a signal that comes during the start must not kill.
        let signals = Signals::new()?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            gateway = %config.gateway,
            data_dir = %config.data_dir.display(),
            "tidegate starts"
        );
        for warning in &config.warnings {
            tracing::warn!("{}", warning.in_one_line());
        }

        // The store first: that another gateway has this directory explains more than that it has our port.
        let began = std::time::Instant::now();
        let mut opened = open_store(&config)?;
        opened.store.when_damaged(move || restart::anew(began));
        let audit = Audit::start(&config.data_dir)
            .map_err(|source| RunError::System { what: "the audit log in gateway.data_dir", source })?;
        let listeners = bind(&config)?;
        let mut sockets =
            Sockets::bind(&config.coap_listen, &config.coap_multicast, config.limits.coap_message_bytes)?;
        let datagrams = sockets.numbered().map(|(_, socket)| socket.local_addr()).collect();
        let secure = config.coap_dtls.iter().flat_map(|dtls| &dtls.listen);
        let secure: Vec<_> = secure
            .map(|address| dtls::Server::bind(*address, &setup::dtls(&config), audit.clone()).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let secure: Vec<_> = secure
            .into_iter()
            .map(|server| (sockets.add(Outlet::Dtls(Arc::clone(&server))), server))
            .collect();
        let serial: Vec<_> = config
            .serial
            .iter()
            .map(|line| {
                let (outbox, inlet) = serial::outbox();
                (sockets.add(Outlet::Serial(outbox)), line.clone(), inlet)
            })
            .collect();
        let admin_listener = config.admin_listen.map(admin::bind).transpose()?;

        let (inbox, facts) = inbox();
        let (entrance, attached) = Entrance::new(inbox.clone());
        let mut clock = Clock::new();
        let lanes = crate::store::Lanes { ids: opened.lanes, orphans: opened.orphans };
        let setup = setup::of(&config, &lanes, opened.epoch);
        let engine = Engine::new(setup.clone(), opened.recovered, clock.now());
        let store = Writer::start(opened.store, inbox.clone())
            .map_err(|source| RunError::System { what: "a thread for the store", source })?;
        let upstreams = (0..=u16::MAX)
            .zip(&config.upstreams)
            .map(|(id, of)| {
                upstream::start(tidegate_engine::id::UpstreamId(id), of, &config.gateway, inbox.clone())
            })
            .collect::<Result<_, _>>()?;
        let verifier = Verifier::start(inbox.clone())
            .map_err(|source| RunError::System { what: "a thread for passwords", source })?;
        audit.configured("in force");
        let parts = Parts {
            engine,
            clock,
            setup,
            inbox: facts,
            attached,
            sockets,
            store,
            verifier,
            audit: audit.clone(),
        };
        let (driver, handle) = driver::start(parts, upstreams).map_err(|source| RunError::System {
            what: "an epoll and a thread for the connections",
            source,
        })?;

        let admission = Admission::new(&config.limits);
        let door = Door::new(entrance.clone(), Arc::clone(&admission), audit, &config);
        let about = About {
            gateway: config.gateway.to_string(),
            epoch: opened.epoch,
            data_dir: config.data_dir.clone(),
            quarantined: opened.progress,
            admission: Arc::clone(&admission),
            dtls: secure.iter().map(|(_, server)| Arc::clone(server)).collect(),
        };
        let admin = Admin::new(about, handle.clone());
        let mut gateway = Self {
            config: without_devices(config),
            driver,
            handle,
            admission,
            door,
            admin,
            listeners: JoinSet::new(),
            onlookers: JoinSet::new(),
            signals,
            dtls: secure.iter().map(|(_, server)| Arc::clone(server)).collect(),
        };
        for (number, server) in secure {
            announce("CoAP over DTLS", server.local_addr());
            gateway.listeners.spawn(server.serve(number, entrance.inbox().clone()));
        }
        for (number, line, inlet) in serial {
            let longest = gateway.config.limits.coap_message_bytes;
            let inbox = entrance.inbox().clone();
            gateway.listeners.spawn(serial::serve(line, inlet, number, longest, inbox));
        }
        gateway.listen(listeners, datagrams);
        gateway.look_on(admin_listener);
        Ok(gateway)
    }

    /// Serves what the driver does not serve itself, and tells of everything that listens.
    fn listen(&mut self, streams: Vec<(Spoken, TcpListener)>, coap: Vec<io::Result<SocketAddr>>) {
        for (spoken, listener) in streams {
            announce(spoken.name(), listener.local_addr());
            self.listeners.spawn(accept::serve(listener, spoken, Arc::clone(&self.door)));
        }
        let none = self.listeners.is_empty() && coap.is_empty();
        for address in coap {
            announce("CoAP over UDP", address);
        }
        if none {
            tracing::warn!(
                "there is no listener: no device can reach this gateway (mqtt.listen, coap.listen)"
            );
        }
    }

    fn look_on(&mut self, listener: Option<TcpListener>) {
        self.onlookers.spawn(self.admin.clone().sample());
        self.onlookers.spawn(memory::give_back_now_and_then(self.handle.clone()));
        self.onlookers.spawn(notify::keep_telling(self.admin.clone()));
        match admin::local::bind(&self.config.data_dir) {
            Ok(listener) => {
                let serving = admin::local::serve(listener, self.admin.clone());
                self.onlookers.spawn(async { _ = serving.await });
            }
            Err(error) => tracing::warn!(
                %error,
                "there is no local socket in the data directory: commands that change things cannot reach this gateway"
            ),
        }
        if let Some(listener) = listener {
            announce("HTTP for administrators", listener.local_addr());
            let serving = admin::serve(listener, self.admin.clone());
            self.onlookers.spawn(async {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "the administrator's port is closed");
                }
            });
        }
    }

    /// Until something ends it.
    async fn live(
        mut self,
        mut read_again: impl FnMut() -> Result<Config, Mistakes>,
        mut panics: host::Panics,
    ) -> Result<(), RunError> {
        notify::ready();
        let panicked = loop {
            tokio::select! {
                order = self.signals.recv() => match order {
                    Order::Stop(signal) => {
                        tracing::info!(signal, "stopping: making everything safe");
                        break None;
                    }
                    Order::Reload => {
                        notify::reloading();
                        let problem = self.reload(read_again()).await;
                        let result = problem.clone().unwrap_or_else(|| "reloaded, in force".to_owned());
                        self.handle.audit_configuration(result).await;
                        self.admin.set_reload_problem(problem);
                        notify::ready();
                    }
                },
                ended = &mut self.driver => return Err(gone(ended)),
                panic = panics.recv() => break Some(panic),
            }
        };
        notify::stopping();
        let ended = self.end().await;
        match panicked {
            None => ended,
            Some(panic) => Err(RunError::Panicked(panic)),
        }
    }

    /// Makes everything safe and closes everything.
    async fn end(mut self) -> Result<(), RunError> {
        let asked = Instant::now();
        self.listeners.shutdown().await; // Nobody new.
        let Self { driver, handle, signals, .. } = &mut self;
        // A driver that hangs may not even take the question.
        let stopped = async {
            handle.stop().await;
            driver.await
        };
        let ended = tokio::select! {
            ended = timeout_at(asked + SAFE_WITHIN, stopped) => ended,
            signal = signals.stop() => {
                tracing::warn!(signal, "a second signal: ending at once; what was not acknowledged will be sent again by its device");
                return Ok(());
            }
        };
        let Ok(ended) = ended else {
            tracing::warn!(
                "not everything could be made safe in {SAFE_WITHIN:?}; what was not acknowledged will be sent again by its device"
            );
            return Ok(());
        };
        let store = match ended {
            Ok(Ended { store, failure: None }) => store,
            other => return Err(gone(other)),
        };
        let closing = tokio::task::spawn_blocking(move || store.stop().map(SqliteStore::close));
        match timeout_at(asked + END_WITHIN, closing).await {
            Ok(Ok(Ok(()))) => tracing::info!("stopped; everything is safe"),
            Ok(Ok(Err(error))) => {
                tracing::error!(%error, "the store did not close in order; what it acknowledged is safe")
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the store did not close in order; what it acknowledged is safe")
            }
            Err(_) => tracing::warn!("the store takes long to close; what it acknowledged is safe"),
        }
        Ok(())
    }

    /// Takes over a configuration that was read again; gives back what is wrong with it or needs a restart.
    async fn reload(&mut self, read: Result<Config, Mistakes>) -> Option<String> {
        let wanted = match read {
            Ok(config) => config,
            Err(mistakes) => {
                for mistake in &mistakes.0 {
                    tracing::error!("{}", mistake.in_one_line());
                }
                tracing::error!(
                    mistakes = mistakes.0.len(),
                    "the configuration was not reloaded; going on with the old one"
                );
                return Some(format!(
                    "the configuration on the disk has {} mistakes; `tidegate check` shows them",
                    mistakes.0.len()
                ));
            }
        };
        match self.adopt(wanted).await {
            Ok(None) => {
                tracing::info!("the configuration was reloaded");
                None
            }
            Ok(Some(restart)) => {
                tracing::warn!("the configuration was reloaded, except for what needs a restart: {restart}");
                Some(format!("the configuration has changes that need a restart: {restart}"))
            }
            Err(problem) => {
                tracing::error!("the configuration was not reloaded; going on with the old one: {problem}");
                Some(format!("the configuration on the disk cannot be used: {problem}"))
            }
        }
    }

    async fn adopt(&mut self, wanted: Config) -> Result<Option<String>, String> {
        let restart = setup::needs_restart(&self.config, &wanted);
        let config = setup::adoptable(&self.config, wanted)?;
        let names = config.routes.iter().map(|r| (r.name.clone(), config.upstreams[r.upstream].name.clone()));
        let lanes = self.handle.lanes(names.collect()).await.map_err(|fault| match fault {
            Some(fault) => format!("the store cannot give its routes their place: {fault:?}"),
            None => "the gateway is stopping".to_owned(),
        })?;
        // The engine keeps the epoch and the random seed of this life.
        self.handle.reload(setup::of(&config, &lanes, 0)).await;
        self.admission.set_limits(&config.limits);
        self.door.reload(&config);
        for server in &self.dtls {
            server.reload(&setup::dtls(&config)).map_err(|error| error.to_string())?;
        }
        self.config = without_devices(config);
        Ok((!restart.is_empty()).then(|| restart.join(", ")))
    }
}

/// What stays here of a configuration: of the devices, of which there may be thousands, those who judge them have what they need.
fn without_devices(config: Config) -> Config {
    Config { devices: Vec::new(), keys: Vec::new(), ..config }
}

/// Takes every address for streams.
fn bind(config: &Config) -> Result<Vec<(Spoken, TcpListener)>, BindError> {
    let mqtt = ["mqtt.listen", "mqtt.tls.listen", "mqtt.websocket.listen", "mqtt.websocket.tls.listen"];
    let coap = ["coap.tcp.listen", "coap.tls.listen", "coap.websocket.listen", "coap.websocket.tls.listen"];
    let mut bound = bind_streams(Protocol::Mqtt, mqtt, &config.mqtt)?;
    bound.extend(bind_streams(Protocol::Coap, coap, &config.coap_streams)?);
    Ok(bound)
}

/// Takes the addresses of one protocol; `keys` say where they stand.
fn bind_streams(
    protocol: Protocol,
    keys: [&'static str; 4],
    streams: &Streams,
) -> Result<Vec<(Spoken, TcpListener)>, BindError> {
    let of = |secure: &Option<Secure>| secure.as_ref().map(|s| s.listen.clone()).unwrap_or_default();
    let listeners = [
        (Transport::Tcp, streams.listen.clone()),
        (Transport::Tls, of(&streams.tls)),
        (Transport::WebSocket, streams.websocket.listen.clone()),
        (Transport::SecureWebSocket, of(&streams.websocket.tls)),
    ];
    let mut bound = Vec::new();
    for (key, (transport, addresses)) in keys.into_iter().zip(listeners) {
        for address in addresses {
            bound.push((Spoken { protocol, transport }, accept::bind(key, address)?));
        }
    }
    Ok(bound)
}

fn announce(protocol: &'static str, address: io::Result<SocketAddr>) {
    if let Ok(address) = address {
        tracing::info!(protocol, %address, "listening");
    }
}

fn open_store(config: &Config) -> Result<Opened, RunError> {
    let routes: Vec<_> =
        config.routes.iter().map(|r| (r.name.as_str(), config.upstreams[r.upstream].name.as_str())).collect();
    let opened = sqlite::open(&config.data_dir, &routes, Sizes::for_spool(config.limits.spool_bytes))?;
    let waiting: u64 = opened.recovered.lanes.iter().map(|l| l.rows).sum();
    tracing::info!(epoch = opened.epoch, waiting, "the store is open");
    if let Some(moved_to) = &opened.quarantined {
        tracing::error!(
            moved_to = %moved_to.display(),
            "the store was damaged and has been moved away: what is whole in it is salvaged and forwarded, marked as such; \
             look at the kernel's log, and replace the medium if it fails"
        );
    }
    if opened.damaged_records > 0 {
        tracing::error!(
            records = opened.damaged_records,
            "damaged session records were moved away: those sessions begin anew"
        );
    }
    Ok(opened)
}

/// Why the driver ended without being asked.
fn gone(ended: Result<Ended<SqliteStore>, oneshot::error::RecvError>) -> RunError {
    match ended {
        Ok(Ended { failure: None, .. }) => RunError::Panicked("the driver ended by itself".to_owned()),
        Ok(Ended { store, failure: Some(error) }) => {
            RunError::StoreEnded { error, reason: store.stop().err() }
        }
        Err(_) => RunError::Panicked("the driver; the log says where".to_owned()),
    }
}
