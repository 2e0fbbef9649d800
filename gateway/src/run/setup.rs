//! From the configuration to what the engine is told, at the start and at a reload.

use crate::config::{CoapDtls, Config, Route, Secure};
use crate::listen::dtls;
use crate::store::Lanes;
use std::hash::{BuildHasher, Hasher, RandomState};
use tidegate_engine::event::{Durability, RouteSetup, Setup, UpstreamSetup};
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
    };
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
            .map(|u| UpstreamSetup { name: u.name.clone(), window: u.window })
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
    differs(running.mqtt_listen != wanted.mqtt_listen, "mqtt.listen");
    let listens = |secure: &Option<Secure>| secure.as_ref().map(|secure| secure.listen.clone());
    differs(listens(&running.mqtt_tls) != listens(&wanted.mqtt_tls), "mqtt.tls.listen");
    let (own, new) = (&running.mqtt_websocket, &wanted.mqtt_websocket);
    differs(own.listen != new.listen, "mqtt.websocket.listen");
    differs(listens(&own.tls) != listens(&new.tls), "mqtt.websocket.tls.listen");
    differs(running.coap_listen != wanted.coap_listen, "coap.listen");
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
    wanted.mqtt_listen.clone_from(&running.mqtt_listen);
    keep_listening(&running.mqtt_tls, &mut wanted.mqtt_tls);
    wanted.mqtt_websocket.listen.clone_from(&running.mqtt_websocket.listen);
    keep_listening(&running.mqtt_websocket.tls, &mut wanted.mqtt_websocket.tls);
    wanted.coap_listen.clone_from(&running.coap_listen);
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
