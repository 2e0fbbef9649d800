//! The other end: takes everything from a queue of the broker and writes down what it saw.

use crate::ledger::Received;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What is bound to what, and read.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Queue {
    /// The broker, with user and password: amqp://guest:guest@127.0.0.1:5672
    #[arg(long)]
    pub(crate) amqp: Option<String>,
    #[arg(long, default_value = "amq.topic")]
    pub(crate) exchange: String,
    #[arg(long, default_value = "bench")]
    pub(crate) queue: String,
}

/// What the consumer has seen so far.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) received: Received,
    /// Since the beginning of the run.
    pub(crate) last: Duration,
}

/// A consumer that runs on a thread of its own until it is dropped.
pub(crate) struct Consumer {
    seen: Arc<Mutex<Seen>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Declares the queue, empties it and begins to consume; `None` without a broker.
    pub(crate) fn consume(&self, devices: usize, began: Instant) -> io::Result<Option<Consumer>> {
        let Some(url) = self.amqp.clone() else { return Ok(None) };
        let seen = Arc::new(Mutex::new(Seen { received: Received::new(devices), last: Duration::ZERO }));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, begun) = std::sync::mpsc::channel();
        let (queue, shared) = (self.clone(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let consuming = queue.run(&url, &ready, began, &shared);
                tokio::select! {
                    result = consuming => if let Err(error) = result { let _ = ready.send(Err(error)); },
                    _ = stopped => {}
                }
            });
        });
        begun.recv().map_err(io::Error::other)??;
        Ok(Some(Consumer { seen, stop: Some(stop), thread: Some(thread) }))
    }

    async fn run(
        &self,
        url: &str,
        ready: &std::sync::mpsc::Sender<io::Result<()>>,
        began: Instant,
        seen: &Mutex<Seen>,
    ) -> io::Result<()> {
        let other = io::Error::other::<lapin::Error>;
        let connection = Connection::connect(url, ConnectionProperties::default()).await.map_err(other)?;
        let channel = connection.create_channel().await.map_err(other)?;
        let (queue, exchange) = (self.queue.as_str(), self.exchange.as_str());
        if !exchange.starts_with("amq.") {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel
                .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default())
                .await
                .map_err(other)?;
        }
        let none = FieldTable::default;
        channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), none()).await.map_err(other)?;
        channel
            .queue_bind(queue.into(), exchange.into(), "#".into(), QueueBindOptions::default(), none())
            .await
            .map_err(other)?;
        channel.queue_purge(queue.into(), Default::default()).await.map_err(other)?;
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer =
            channel.basic_consume(queue.into(), "".into(), no_ack, none()).await.map_err(other)?;
        let _ = ready.send(Ok(()));
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery.map_err(other)?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.received.count(&delivery.data);
            seen.last = began.elapsed();
        }
        Ok(())
    }
}

impl Consumer {
    /// Waits until `distinct` messages have come, or nothing has come for `quiet`; gives what was seen.
    pub(crate) fn wait(&self, distinct: u64, quiet: Duration) -> (Received, Duration) {
        let mut progress = (0, Instant::now());
        loop {
            {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.received.all != progress.0 {
                    progress = (seen.received.all, Instant::now());
                }
                if seen.received.distinct >= distinct || progress.1.elapsed() > quiet {
                    return (seen.received.clone(), seen.last);
                }
            }
            // A poll, ended by the counts above: there is no event to wait for in another process's queue.
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
