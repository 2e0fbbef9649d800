//! Tidegate and its peers side by side in one run, case by case and round by round, so that a noisy machine is noisy for
//! all of them. Ratios are what counts; absolute figures belong to the machine.

use crate::consumer::Queue;
use crate::load::{Load, Protocol};
use crate::mosquitto::Mosquitto;
use crate::run::{Report, measure};
use crate::selection::Selection;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::rabbit::{self, Rabbit};

/// Tidegate beside its peers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    selection: Selection,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    protocol: Protocol,
    devices: usize,
    window: usize,
    messages: usize,
    rate: Option<f64>,
}

const MQTT: Protocol = Protocol::Mqtt;
const CASES: [Case; 6] = [
    Case {
        name: "100 clients, window 10",
        protocol: MQTT,
        devices: 100,
        window: 10,
        messages: 200_000,
        rate: None,
    },
    Case { name: "1 client, window 1", protocol: MQTT, devices: 1, window: 1, messages: 10_000, rate: None },
    Case {
        name: "1 client, window 32",
        protocol: MQTT,
        devices: 1,
        window: 32,
        messages: 50_000,
        rate: None,
    },
    Case {
        name: "1,000 clients, window 1",
        protocol: MQTT,
        devices: 1_000,
        window: 1,
        messages: 100_000,
        rate: None,
    },
    Case {
        name: "1,000 messages/s",
        protocol: MQTT,
        devices: 100,
        window: 10,
        messages: 10_000,
        rate: Some(1_000.0),
    },
    Case {
        name: "CoAP, 100 devices",
        protocol: Protocol::Coap,
        devices: 100,
        window: 1,
        messages: 50_000,
        rate: None,
    },
];

/// A server of the comparison.
enum Server {
    Gateway { name: &'static str, gateway: Box<Gateway>, queue: &'static str, exchange: &'static str },
    Plugin,
    Mosquitto(Mosquitto),
}

impl Server {
    fn name(&self) -> &'static str {
        match self {
            Self::Gateway { name, .. } => name,
            Self::Plugin => "RabbitMQ's MQTT plug-in",
            Self::Mosquitto(_) => "Mosquitto alone",
        }
    }

    fn measure(&self, case: Case, messages: usize, rabbit: &Rabbit) -> io::Result<Option<Report>> {
        let (target, queue, pid) = match self {
            Self::Gateway { gateway, queue, exchange, .. } => {
                let target = if case.protocol == Protocol::Coap { gateway.coap } else { gateway.mqtt };
                (target, Some((*queue, *exchange)), gateway.pid())
            }
            _ if case.protocol == Protocol::Coap => return Ok(None),
            Self::Plugin => (local(rabbit.mqtt_port), Some(("plugin", "amq.topic")), 0),
            Self::Mosquitto(server) => (server.address, None, server.pid()),
        };
        let load = Load {
            target,
            protocol: case.protocol,
            devices: case.devices,
            window: case.window,
            messages,
            payload: 128,
            rate: case.rate,
            username: Some(rabbit::USER.to_owned()).filter(|_| matches!(self, Self::Plugin)),
            password: Some(rabbit::PASSWORD.to_owned()).filter(|_| matches!(self, Self::Plugin)),
            limit: 120,
            linger: None,
        };
        let queue = Queue {
            amqp: queue.map(|_| rabbit.url_with_credentials()),
            exchange: queue.map_or("", |(_, exchange)| exchange).to_owned(),
            queue: queue.map_or("", |(queue, _)| queue).to_owned(),
        };
        let broker = u32::try_from(rabbit.pid().as_raw_pid()).unwrap_or(0);
        measure(&load, &queue, &[vec![pid], vec![broker]]).map(Some)
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn gateway(rabbit: &Rabbit, durability: &str, exchange: &str) -> Box<Gateway> {
    let gateway = Gateway::prepare("");
    let _ = std::fs::write(gateway.folder().join("password"), rabbit::PASSWORD);
    gateway.configure(&format!(
        "[limits]\nconnections_per_address = 4096\nconnections_unauthenticated = 4096\n\
         [upstream.cloud]\nkind = \"amqp\"\nurls = [\"{}\"]\nusername = \"{}\"\npassword_file = \"password\"\n\
         exchange = {{ name = \"{exchange}\", type = \"topic\", durable = true, declare = true }}\n\
         [[route]]\ntopic = \"#\"\nupstream = \"cloud\"\ndurability = \"{durability}\"\n",
        rabbit.url(),
        rabbit::USER,
    ));
    let mut gateway = Box::new(gateway);
    gateway.start_again();
    gateway
}

impl Compare {
    pub(crate) fn run(&self) -> io::Result<()> {
        let rabbit = Rabbit::start(&rabbit::Setup { plugins: vec!["rabbitmq_mqtt"], config: String::new() });
        let servers = [
            Server::Gateway {
                name: "Tidegate, relay",
                gateway: gateway(&rabbit, "relay", "relay"),
                queue: "relay",
                exchange: "relay",
            },
            Server::Gateway {
                name: "Tidegate, disk",
                gateway: gateway(&rabbit, "disk", "disk"),
                queue: "disk",
                exchange: "disk",
            },
            Server::Plugin,
            Server::Mosquitto(Mosquitto::start()?),
        ];
        let rounds = self.selection.rounds;
        for case in CASES.into_iter().filter(|case| self.selection.takes(case.name)) {
            let messages = self.selection.of(case.messages);
            println!("\n{} ({messages} messages, 128 bytes, {rounds} rounds: medians)", case.name);
            println!("{:<24} {}   CPU s/million: server, broker   RSS MiB", "", Report::HEADER);
            let mut reports: Vec<Vec<Report>> = servers.iter().map(|_| Vec::new()).collect();
            for _ in 0..rounds {
                for (server, reports) in servers.iter().zip(&mut reports) {
                    reports.extend(server.measure(case, messages, &rabbit)?);
                }
            }
            let medians: Vec<Option<Report>> = reports.iter().map(|reports| median(reports)).collect();
            for (server, median) in servers.iter().zip(&medians) {
                if let Some(report) = median {
                    let (own, broker) = (report.cpu_per_million[0], report.cpu_per_million[1]);
                    println!(
                        "{:<24} {}   {own:>22.1}, {broker:>6.1}   {:>7.0}",
                        server.name(),
                        report.line(),
                        report.rss_mib[0]
                    );
                }
            }
            if let [Some(relay), Some(disk), Some(plugin), _] = &medians[..] {
                println!(
                    "relay end to end: {:.2} × the plug-in; disk acknowledges: {:.2} × the plug-in",
                    relay.end_to_end_rate / plugin.end_to_end_rate,
                    disk.acknowledged_rate / plugin.acknowledged_rate,
                );
            }
        }
        Ok(())
    }
}

/// Each figure's median; counts of what must not happen are summed.
fn median(reports: &[Report]) -> Option<Report> {
    let first = reports.first()?;
    let of = |figure: &dyn Fn(&Report) -> f64| {
        let mut figures: Vec<f64> = reports.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Some(Report {
        acknowledged: first.acknowledged,
        received: first.received,
        lost: reports.iter().map(|report| report.lost).sum(),
        repeated: reports.iter().map(|report| report.repeated).sum(),
        reordered: reports.iter().map(|report| report.reordered).sum(),
        acknowledged_rate: of(&|report| report.acknowledged_rate),
        end_to_end_rate: of(&|report| report.end_to_end_rate),
        latency_ms: [0, 1, 2].map(|index| of(&|report| report.latency_ms[index])),
        cpu_per_million: [0, 1].map(|index| of(&|report| report.cpu_per_million[index])).to_vec(),
        rss_mib: [0, 1].map(|index| of(&|report| report.rss_mib[index])).to_vec(),
    })
}
