//! A long outage: many connected devices, many messages that wait, and then a kill -9 on top.

use crate::consumer::Queue;
use crate::load::{Load, Protocol};
use crate::process;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::rabbit::{self, Rabbit};

/// A backlog.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Backlog {
    #[arg(long, default_value_t = 1_000_000)]
    messages: usize,
    #[arg(long, default_value_t = 1_000)]
    devices: usize,
}

impl Backlog {
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut rabbit = Rabbit::start(&rabbit::Setup::default());
        rabbit.exchange("telemetry");
        rabbit.queue("backlog", "telemetry", "#", &[]);
        rabbit.stop();
        let mut gateway = Gateway::prepare("");
        std::fs::write(gateway.folder().join("password"), rabbit::PASSWORD)?;
        gateway.configure(&format!(
            "[limits]\nconnections_per_address = 4096\nconnections_unauthenticated = 4096\n\
             [upstream.cloud]\nkind = \"amqp\"\nurls = [\"{}\"]\nusername = \"{}\"\npassword_file = \"password\"\n\
             reconnect_max = \"1 s\"\n\
             exchange = {{ name = \"telemetry\", type = \"topic\", durable = true, declare = true }}\n",
            rabbit.url(),
            rabbit::USER,
        ));
        gateway.start_again();
        let linger = Arc::new(tokio::sync::Notify::new());
        let load = Load {
            target: gateway.mqtt,
            protocol: Protocol::Mqtt,
            devices: self.devices,
            window: 10,
            messages: self.messages,
            payload: 128,
            rate: None,
            username: None,
            password: None,
            limit: 600,
            linger: Some(Arc::clone(&linger)),
        };
        let began = Instant::now();
        let (devices, pid) = (self.devices, gateway.pid());
        let thread = std::thread::spawn(move || -> io::Result<_> {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(load.run(began))
        });
        let waiting = || gateway.metric("tidegate_route_waiting_messages");
        let full = tidegate_tests::wait::wait_for(Duration::from_secs(600), || {
            (waiting() >= self.messages as f64).then_some(())
        });
        full.ok_or_else(|| io::Error::other("the backlog did not build up"))?;
        println!(
            "{} messages wait, {devices} devices connected: {:.0} MiB now, {:.0} MiB at most",
            waiting(),
            process::rss_mib(&[pid]),
            process::peak_rss_mib(&[pid])
        );
        linger.notify_waiters();
        let outcome = thread.join().map_err(|_| io::Error::other("the load panicked"))??;
        println!(
            "acknowledged {} in {:.1} s: {:.0}/s, each on the disk",
            outcome.acknowledged,
            outcome.elapsed.as_secs_f64(),
            outcome.acknowledged as f64 / outcome.elapsed.as_secs_f64()
        );
        gateway.kill();
        let listening = gateway.start_again();
        println!("listens again {:.0} ms after a kill -9 and a restart", listening.as_secs_f64() * 1_000.0);
        rabbit.start_again();
        let queue = Queue {
            amqp: Some(rabbit.url_with_credentials()),
            exchange: "telemetry".to_owned(),
            queue: "backlog".to_owned(),
        };
        let began = Instant::now();
        let Some(consumer) = queue.consume(devices, began)? else { return Ok(()) };
        let (received, last) = consumer.wait(self.messages as u64, Duration::from_secs(60));
        println!(
            "drained {} in {:.0} s ({:.0}/s): lost {}, repeated {}, reordered {}; {:.0} MiB at most",
            received.distinct,
            last.as_secs_f64(),
            received.distinct as f64 / last.as_secs_f64(),
            self.messages as u64 - received.distinct,
            received.repeated,
            received.reordered,
            process::peak_rss_mib(&[gateway.pid()])
        );
        Ok(())
    }
}
