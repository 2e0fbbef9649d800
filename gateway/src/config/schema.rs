//! Every key that a configuration may have: those that work, and those that are named already and do not work yet.
//! What their values mean stands where they are read.

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// `None` when it works; otherwise it is refused, with what to do meanwhile.
    pub(super) not_yet: Option<&'static str>,
}

const fn key(name: &'static str) -> Key {
    Key { name, not_yet: None }
}

const fn later(name: &'static str, meanwhile: &'static str) -> Key {
    Key { name, not_yet: Some(meanwhile) }
}

/// A table and its keys. `*` in its path stands for a name that the operator chooses.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) path: &'static str,
    pub(super) keys: &'static [Key],
}

impl Table {
    /// What to say of a key that is unknown here because it belongs to another kind of upstream.
    pub(super) fn elsewhere(&self, name: &str) -> Option<&'static str> {
        let has = |table: &Table| !std::ptr::eq(table, self) && table.keys.iter().any(|key| key.name == name);
        match self.path {
            path if path == UPSTREAM_AMQP.path && has(&UPSTREAM_AMQP) => {
                Some("it belongs to upstreams of kind \"amqp\"")
            }
            path if path == UPSTREAM_AMQP.path && has(&UPSTREAM_FILE) => {
                Some("it belongs to upstreams of kind \"file\"")
            }
            _ => None,
        }
    }
}

pub(super) const ROOT: Table = Table {
    path: "",
    keys: &[
        key("gateway"),
        key("mqtt"),
        key("coap"),
        key("serial"),
        key("admin"),
        key("spool"),
        key("upstream"),
        key("route"),
        key("device"),
        key("access"),
        key("limits"),
    ],
};

pub(super) const GATEWAY: Table =
    Table { path: "gateway", keys: &[key("id"), key("data_dir"), key("devices")] };

pub(super) const MQTT: Table = Table {
    path: "mqtt",
    keys: &[key("listen"), key("sys_interval"), key("tls"), key("websocket"), key("proxy_protocol")],
};

const TLS_KEYS: &[Key] =
    &[key("listen"), key("certificate"), key("key"), key("client_ca"), key("client_crl")];

pub(super) const MQTT_TLS: Table = Table { path: "mqtt.tls", keys: TLS_KEYS };

const WEBSOCKET_KEYS: &[Key] = &[key("listen"), key("origins"), key("tls")];

pub(super) const MQTT_WEBSOCKET: Table = Table { path: "mqtt.websocket", keys: WEBSOCKET_KEYS };

pub(super) const MQTT_WEBSOCKET_TLS: Table = Table { path: "mqtt.websocket.tls", keys: TLS_KEYS };

pub(super) const COAP: Table = Table {
    path: "coap",
    keys: &[
        key("listen"),
        key("shipped_resources"),
        key("resource"),
        key("dtls"),
        key("tcp"),
        key("tls"),
        key("websocket"),
        key("proxy_protocol"),
        key("multicast"),
    ],
};

pub(super) const COAP_TCP: Table = Table { path: "coap.tcp", keys: &[key("listen")] };

pub(super) const COAP_TLS: Table = Table { path: "coap.tls", keys: TLS_KEYS };

pub(super) const COAP_WEBSOCKET: Table = Table { path: "coap.websocket", keys: WEBSOCKET_KEYS };

pub(super) const COAP_WEBSOCKET_TLS: Table = Table { path: "coap.websocket.tls", keys: TLS_KEYS };

pub(super) const COAP_DTLS: Table = Table { path: "coap.dtls", keys: TLS_KEYS };

pub(super) const COAP_RESOURCE: Table =
    Table { path: "coap.resource", keys: &[key("path"), key("kind"), key("topic")] };

pub(super) const SERIAL: Table = Table {
    path: "serial",
    keys: &[
        key("port"),
        key("device"),
        key("baud"),
        key("parity"),
        key("stop_bits"),
        key("rs485"),
        key("framing"),
        key("topic"),
    ],
};

pub(super) const ADMIN: Table = Table { path: "admin", keys: &[key("listen"), key("anonymous")] };

/// `retain` is taken with the one value that says what this version does.
pub(super) const SPOOL: Table =
    Table { path: "spool", keys: &[key("max_size"), key("retain"), key("when_full"), key("keep")] };

pub(super) const ACCESS: Table = Table { path: "access", keys: &[key("anonymous"), key("unencrypted")] };

pub(super) const DEVICE: Table = Table {
    path: "device.*",
    keys: &[
        key("publish"),
        key("subscribe"),
        key("password_hash"),
        key("certificate"),
        key("psk"),
        key("psk_identity"),
        key("oscore"),
    ],
};

pub(super) const DEVICE_OSCORE: Table = Table {
    path: "device.*.oscore",
    keys: &[key("device_id"), key("gateway_id"), key("id_context"), key("salt"), key("secret_file")],
};

/// A file that `gateway.devices` names.
pub(super) const DEVICE_FILE: Table = Table { path: "", keys: &[key("device")] };

pub(super) const UPSTREAM_AMQP: Table = Table {
    path: "upstream.*",
    keys: &[
        key("kind"),
        key("window"),
        key("drain_messages_per_second"),
        key("drain_size_per_second"),
        key("urls"),
        key("username"),
        key("password_file"),
        key("exchange"),
        key("heartbeat"),
        key("connect_timeout"),
        key("reconnect_max"),
        later("commands", "leave it out; commands to devices are not carried yet"),
    ],
};

pub(super) const UPSTREAM_FILE: Table = Table {
    path: "upstream.*",
    keys: &[
        key("kind"),
        key("window"),
        key("drain_messages_per_second"),
        key("drain_size_per_second"),
        key("path"),
        key("max_size"),
        key("keep"),
        later("commands", "leave it out; commands to devices are not carried yet"),
    ],
};

pub(super) const EXCHANGE: Table =
    Table { path: "upstream.*.exchange", keys: &[key("name"), key("type"), key("durable"), key("declare")] };

pub(super) const ROUTE: Table = Table {
    path: "route",
    keys: &[
        key("name"),
        key("topic"),
        key("upstream"),
        key("routing_key"),
        key("durability"),
        key("spill_after"),
        key("priority"),
        key("order"),
        key("backlog_share"),
        key("senml"),
        key("batch"),
        key("compress"),
        key("dictionary"),
        key("max_size"),
        key("when_full"),
        key("keep"),
        key("expires_after"),
    ],
};

pub(super) const ROUTE_BATCH: Table = Table {
    path: "route.batch",
    keys: &[key("max_messages"), key("max_bytes"), key("linger"), key("format")],
};

pub(super) const LIMITS: Table = Table {
    path: "limits",
    keys: &[
        key("connections"),
        key("connections_per_address"),
        key("connections_unauthenticated"),
        key("handshakes"),
        key("handshake_timeout"),
        key("connect_timeout"),
        key("packet_size"),
        key("receive_maximum"),
        key("keep_alive_max"),
        key("sessions"),
        key("session_expiry_max"),
        key("takeovers_per_minute"),
        key("wills_per_minute"),
        key("coap_body_size"),
        key("coap_peers"),
        key("dtls_associations"),
        key("coap_observers"),
        key("coap_messages_per_second"),
        key("subscriber_messages"),
        key("subscriber_size"),
        key("retained_messages"),
        key("retained_size"),
        key("subscribers_size"),
        key("unsafe_size"),
        key("confirm_timeout"),
        key("upstream_attempts"),
    ],
};

/// Every table that holds values.
#[cfg(test)]
pub(super) const TABLES: &[&Table] = &[
    &GATEWAY,
    &MQTT,
    &MQTT_TLS,
    &MQTT_WEBSOCKET,
    &MQTT_WEBSOCKET_TLS,
    &COAP,
    &COAP_RESOURCE,
    &COAP_DTLS,
    &COAP_TCP,
    &COAP_TLS,
    &COAP_WEBSOCKET,
    &COAP_WEBSOCKET_TLS,
    &SERIAL,
    &ADMIN,
    &SPOOL,
    &ACCESS,
    &DEVICE,
    &DEVICE_OSCORE,
    &UPSTREAM_AMQP,
    &UPSTREAM_FILE,
    &EXCHANGE,
    &ROUTE,
    &ROUTE_BATCH,
    &LIMITS,
];

#[cfg(test)]
mod tests {
    use super::TABLES;

    /// The keys of the shipped file, set or shown, each with its table's path.
    fn shipped() -> Vec<(String, String)> {
        let mut table = String::new();
        let mut keys = Vec::new();
        for line in include_str!("../../../config/tidegate.toml").lines() {
            let line = line.strip_prefix('#').unwrap_or(line);
            if let Some(header) = line.strip_prefix('[') {
                table = header.trim_matches(['[', ']']).to_owned();
                for name in ["upstream.file", "upstream.cloud"] {
                    table = table.replace(name, "upstream.*");
                }
                table = table.replace("device.boiler-3", "device.*");
            } else if let Some((key, _)) = line.split_once(" = ")
                && !key.contains(' ')
            {
                keys.push((table.clone(), key.to_owned()));
            }
        }
        keys
    }

    #[test]
    fn the_shipped_configuration_shows_every_key() {
        let shipped = shipped();
        for table in TABLES {
            for key in table.keys.iter().filter(|key| key.not_yet.is_none()) {
                let nested = TABLES.iter().any(|inner| inner.path == format!("{}.{}", table.path, key.name));
                let shown = shipped.iter().any(|(path, name)| path == table.path && name == key.name);
                assert!(shown || nested, "{}.{} is missing from config/tidegate.toml", table.path, key.name);
            }
        }
    }

    #[test]
    fn the_shipped_configuration_shows_no_other_key() {
        for (path, name) in shipped() {
            let known = |table: &&&super::Table| {
                table.path == path && table.keys.iter().any(|key| key.name == name && key.not_yet.is_none())
            };
            assert!(TABLES.iter().any(|table| known(&table)), "{path}.{name} is not a key");
        }
    }
}
