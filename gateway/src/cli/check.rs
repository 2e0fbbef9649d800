//! `tidegate check`: what a configuration that is right means, in a few lines.

use super::Exit;
use crate::config::{Config, Route, Secure, Streams, Upstream, UpstreamKind, show_duration, show_size};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use tidegate_engine::event::{Anonymous, Durability, Order};

pub(super) fn show(
    config: &Config,
    file: Option<&Path>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    for warning in &config.warnings {
        writeln!(err, "{warning}\n")?;
    }
    match file {
        Some(file) => writeln!(out, "{} is well.", file.display())?,
        None => writeln!(out, "The defaults are well (no --config was given).")?,
    }
    let spool = show_size(config.limits.spool_bytes);
    writeln!(
        out,
        "  gateway   {}, data in {}, spool up to {spool}",
        config.gateway,
        config.data_dir.display()
    )?;
    writeln!(out, "  mqtt      {}", listeners(&config.mqtt.listen))?;
    streams(out, "mqtt", &config.mqtt)?;
    writeln!(out, "  coap      {}", listeners(&config.coap_listen))?;
    if !config.coap_multicast.is_empty() {
        writeln!(out, "  multicast {}", config.coap_multicast.join(", "))?;
    }
    if !config.coap_streams.listen.is_empty() {
        writeln!(out, "  coap/tcp  {}", listeners(&config.coap_streams.listen))?;
    }
    streams(out, "coap", &config.coap_streams)?;
    writeln!(out, "  admin     {}", listeners(config.admin_listen.as_slice()))?;
    let anonymous = match config.anonymous {
        Anonymous::Never => "nobody without credentials",
        Anonymous::Loopback => "this host without credentials",
        Anonymous::Everywhere => "everybody, without credentials",
    };
    writeln!(out, "  access    {anonymous}")?;
    writeln!(out, "  devices   {}", devices(config))?;
    for upstream in &config.upstreams {
        writeln!(out, "  upstream  {}", describe(upstream))?;
    }
    for route in &config.routes {
        writeln!(out, "  route     {}", path(route, config))?;
    }
    Ok(Exit::Well)
}

/// What a protocol's streams are wrapped in, and for whom they speak.
fn streams(out: &mut dyn Write, protocol: &str, streams: &Streams) -> io::Result<()> {
    let Streams { tls, websocket, proxies, .. } = streams;
    if let Some(Secure { listen, tls }) = tls {
        writeln!(out, "  {protocol}/tls  {}; {}", listeners(listen), tls.about())?;
    }
    if !websocket.listen.is_empty() {
        writeln!(out, "  {protocol}/ws   {}", listeners(&websocket.listen))?;
    }
    if let Some(Secure { listen, tls }) = &websocket.tls {
        writeln!(out, "  {protocol}/wss  {}; {}", listeners(listen), tls.about())?;
    }
    if !proxies.is_empty() {
        let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
        writeln!(out, "  proxies   {} for {protocol}", proxies.join(", "))?;
    }
    Ok(())
}

fn devices(config: &Config) -> String {
    let passwords = config.devices.iter().filter(|device| device.secret.is_some()).count();
    let certificates = config.devices.iter().filter(|device| device.certificate.is_some()).count();
    match config.devices.len() {
        0 => "none are configured".to_owned(),
        all => format!("{all} configured, {passwords} with a password, {certificates} with a certificate"),
    }
}

fn listeners(addresses: &[SocketAddr]) -> String {
    match addresses {
        [] => "off".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn describe(upstream: &Upstream) -> String {
    let Upstream { name, kind, window, drain } = upstream;
    let mut text = match kind {
        UpstreamKind::Amqp(amqp) => format!(
            "{name}: AMQP 0-9-1 at {} as {}, exchange {:?} ({}), window {window}",
            amqp.urls.join(", "),
            amqp.username,
            amqp.exchange.name,
            amqp.exchange.kind,
        ),
        UpstreamKind::File(file) => format!(
            "{name}: JSON Lines in {}, {} a file and {} older ones",
            file.path.display(),
            show_size(file.max_size),
            file.keep
        ),
    };
    if let Some(rate) = drain.messages_per_second {
        text += &format!(", of a backlog {rate} messages a second");
    }
    if let Some(rate) = drain.bytes_per_second {
        text += &format!(", of a backlog {} a second", show_size(rate.get().into()));
    }
    text
}

fn path(route: &Route, config: &Config) -> String {
    let upstream = config.upstreams.get(route.upstream).map_or("?", |upstream| upstream.name.as_str());
    let durability = match route.durability {
        Durability::Relay { spill_after } => {
            format!("relayed, on disk after {}", show_duration(spill_after))
        }
        Durability::Disk => "on disk first".to_owned(),
    };
    let together = route.packing.as_ref().map_or_else(String::new, |packing| {
        let compressed = if packing.compression.is_some() { ", compressed" } else { "" };
        format!(", in batches of {} messages{compressed}", packing.max_messages)
    });
    let order = match route.policy.order {
        Order::OldestFirst => String::new(),
        Order::LiveFirst => ", live first".to_owned(),
        Order::Interleave(share) => format!(", {share} of 100 for the backlog"),
    };
    let expires = route.policy.expires_after;
    let expires = expires.map_or(String::new(), |time| format!(", expires after {}", show_duration(time)));
    let Route { name, filter, priority, .. } = route;
    format!("{name}: {filter} to {upstream}, {durability}, priority {priority}{order}{expires}{together}")
}
