//! From the configuration to what the engine is told, at the start and at a reload.

use crate::config::{CoapDtls, Config, Route, Secure, Streams};
use crate::listen::dtls;
use crate::store::Lanes;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use tidegate_engine::event::{Durability, Policy, RouteSetup, Senml, Setup, UpstreamSetup};
use tidegate_engine::id::UpstreamId;

/// What the engine is told.
pub(super) fn of(config: &Config, lanes: &Lanes, epoch: u64) -> Setup {
    let route = |(route, lane): (&Route, &_)| RouteSetup {
        lane: *lane,
        name: route.name.clone(),
        filter: Some(route.filter.clone()),
        upstream: upstream_id(route.upstream),
        routing_key: route.routing_key.clone(),
        durability: route.durability,
        priority: route.priority,
        senml: route.senml,
        packing: route.packing.clone(),
        policy: route.policy,
        salvaged: false,
    };
    // Of what no route has any more.
    let discarding = Policy { when_full: config.when_full, ..Policy::default() };
    let mut routes: Vec<_> = config.routes.iter().zip(&lanes.ids).map(route).collect();
    for orphan in &lanes.orphans {
        let Some(upstream) = config.upstreams.iter().position(|u| u.name == orphan.upstream) else {
            tracing::warn!(
                route = orphan.route,
                upstream = orphan.upstream,
                "messages wait for an upstream that is no longer configured; they stay in the store until it is configured again"
            );
            continue;
        };
        if orphan.salvaged {
            // As its route has them, where that is still configured.
            let same = config.routes.iter().find(|route| route.name == orphan.route);
            routes.push(RouteSetup {
                lane: orphan.lane,
                name: format!("{} (salvaged)", orphan.route),
                filter: None,
                upstream: upstream_id(upstream),
                routing_key: same.and_then(|route| route.routing_key.clone()),
                durability: Durability::Disk,
                priority: same.map_or(0, |route| route.priority),
                senml: same.map(|route| route.senml).unwrap_or_default(),
                packing: same.and_then(|route| route.packing.clone()),
                policy: same.map_or(discarding, |route| route.policy),
                salvaged: true,
            });
            continue;
        }
        tracing::info!(
            route = orphan.route,
            upstream = orphan.upstream,
            "draining a route that is no longer configured"
        );
        routes.push(RouteSetup {
            lane: orphan.lane,
            name: orphan.route.clone(),
            filter: None,
            upstream: upstream_id(upstream),
            routing_key: None,
            durability: Durability::Disk,
            priority: 0,
            senml: Senml::Untouched,
            packing: None,
            policy: discarding,
            salvaged: false,
        });
    }
    Setup {
        gateway: config.gateway.clone(),
        epoch,
        // The standard library's hasher is keyed from the kernel's random numbers.
        seed: RandomState::new().build_hasher().finish(),
        limits: config.limits.clone(),
        anonymous: config.anonymous,
        devices: config.devices.clone(),
        resources: config.coap_resources.clone(),
        upstreams: config
            .upstreams
            .iter()
            .map(|u| UpstreamSetup { name: u.name.clone(), window: u.window, drain: u.drain })
            .collect(),
        routes,
    }
}

fn upstream_id(index: usize) -> UpstreamId {
    // The configuration bounds the number of upstreams far below.
    UpstreamId(u16::try_from(index).unwrap_or(u16::MAX))
}

/// The keys in which `wanted` differs and which only a restart can change.
pub(super) fn needs_restart(running: &Config, wanted: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut differs = |differs: bool, key: &str| {
        if differs {
            keys.push(key.to_owned());
        }
    };
    differs(running.gateway != wanted.gateway, "gateway.id");
    differs(running.data_dir != wanted.data_dir, "gateway.data_dir");
    let streams = [
        (&running.mqtt, &wanted.mqtt, ["mqtt", "mqtt.tls", "mqtt.websocket", "mqtt.websocket.tls"]),
        (
            &running.coap_streams,
            &wanted.coap_streams,
            ["coap.tcp", "coap.tls", "coap.websocket", "coap.websocket.tls"],
        ),
    ];
    for (own, new, tables) in streams {
        for ((own, new), table) in listens(own).into_iter().zip(listens(new)).zip(tables) {
            differs(own != new, &format!("{table}.listen"));
        }
    }
    differs(running.coap_listen != wanted.coap_listen, "coap.listen");
    differs(running.coap_multicast != wanted.coap_multicast, "coap.multicast");
    let listens = |dtls: &Option<CoapDtls>| dtls.as_ref().map(|dtls| dtls.listen.clone());
    differs(listens(&running.coap_dtls) != listens(&wanted.coap_dtls), "coap.dtls.listen");
    differs(running.serial != wanted.serial, "serial");
    differs(running.admin_listen != wanted.admin_listen, "admin.listen");
    differs(
        running.limits.coap_message_bytes != wanted.limits.coap_message_bytes,
        "limits.coap_message_bytes",
    );
    // Less holds at once; for more the store's file, whose bound is set when it is opened, has no room.
    differs(running.limits.spool_bytes < wanted.limits.spool_bytes, "spool.max_size");
    for upstream in &wanted.upstreams {
        let same = running.upstreams.iter().any(|u| u == upstream);
        differs(!same, &format!("upstream.{}", upstream.name));
    }
    for upstream in &running.upstreams {
        let gone = !wanted.upstreams.iter().any(|u| u.name == upstream.name);
        differs(gone, &format!("upstream.{}", upstream.name));
    }
    keys
}

/// The addresses of a protocol on streams: in the clear, over TLS, over WebSocket, over both.
fn listens(streams: &Streams) -> [&[SocketAddr]; 4] {
    fn of(secure: &Option<Secure>) -> &[SocketAddr] {
        secure.as_ref().map(|secure| &secure.listen[..]).unwrap_or_default()
    }
    [&streams.listen, of(&streams.tls), &streams.websocket.listen, of(&streams.websocket.tls)]
}

/// `wanted`, with everything that only a restart can change as it is running.
pub(super) fn adoptable(running: &Config, mut wanted: Config) -> Result<Config, String> {
    for route in &mut wanted.routes {
        let name = wanted.upstreams.get(route.upstream).map(|u| u.name.as_str()).unwrap_or_default();
        route.upstream = running.upstreams.iter().position(|u| u.name == name).ok_or_else(|| {
            format!(
                "route {} leads to upstream {name}, which is new: restart the gateway to use it",
                route.name
            )
        })?;
    }
    wanted.gateway = running.gateway.clone();
    wanted.data_dir.clone_from(&running.data_dir);
    for (running, wanted) in
        [(&running.mqtt, &mut wanted.mqtt), (&running.coap_streams, &mut wanted.coap_streams)]
    {
        wanted.listen.clone_from(&running.listen);
        keep_listening(&running.tls, &mut wanted.tls);
        wanted.websocket.listen.clone_from(&running.websocket.listen);
        keep_listening(&running.websocket.tls, &mut wanted.websocket.tls);
    }
    wanted.coap_listen.clone_from(&running.coap_listen);
    wanted.coap_multicast.clone_from(&running.coap_multicast);
    match (&running.coap_dtls, &mut wanted.coap_dtls) {
        (Some(running), Some(wanted)) => wanted.listen.clone_from(&running.listen),
        (running, wanted) => wanted.clone_from(running),
    }
    wanted.serial.clone_from(&running.serial);
    wanted.admin_listen = running.admin_listen;
    wanted.limits.coap_message_bytes = running.limits.coap_message_bytes;
    wanted.limits.spool_bytes = wanted.limits.spool_bytes.min(running.limits.spool_bytes);
    wanted.upstreams.clone_from(&running.upstreams);
    Ok(wanted)
}

/// The addresses stay; certificates are taken over where there were some and are some.
fn keep_listening(running: &Option<Secure>, wanted: &mut Option<Secure>) {
    match (running, wanted) {
        (Some(running), Some(wanted)) => wanted.listen.clone_from(&running.listen),
        (running, wanted) => wanted.clone_from(running),
    }
}

/// What DTLS is spoken with.
pub(super) fn dtls(config: &Config) -> dtls::With<'_> {
    let tls = config.coap_dtls.as_ref().and_then(|dtls| dtls.tls.as_ref());
    dtls::With { devices: &config.devices, keys: &config.keys, tls, limits: &config.limits }
}
