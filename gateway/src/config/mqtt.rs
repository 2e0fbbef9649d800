//! `[mqtt]` and the tables in it: where MQTT is spoken, and beneath what.

use super::certificates::Surroundings;
use super::read::Section;
use super::streams::{self, Names, Tables};
use super::written::listen;
use super::{schema, value};
use std::time::Duration;

const PLAIN_DEFAULT: &str = "127.0.0.1:1883";

const TABLES: Tables = Tables {
    tls: Names { table: &schema::MQTT_TLS, key: "mqtt.tls.listen", default: "127.0.0.1:8883" },
    websocket: Names {
        table: &schema::MQTT_WEBSOCKET,
        key: "mqtt.websocket.listen",
        default: "127.0.0.1:8083",
    },
    websocket_tls: Names {
        table: &schema::MQTT_WEBSOCKET_TLS,
        key: "mqtt.websocket.tls.listen",
        default: "127.0.0.1:8084",
    },
};

/// Mosquitto's own upper end.
const SYS_INTERVAL_MOST: Duration = Duration::from_secs(65_535);

/// What the tables say.
pub(super) struct Mqtt {
    pub(super) streams: streams::Written,
    /// How often `$SYS` is published.
    pub(super) sys_interval: Option<Duration>,
}

/// Reads the tables. What is wrong with a table leaves it out and is reported.
pub(super) fn mqtt(root: &Section<'_>, at: Surroundings<'_>) -> Mqtt {
    let section = root.section(&schema::MQTT);
    let plain = listen(&section, "mqtt.listen", Some(PLAIN_DEFAULT));
    Mqtt {
        streams: streams::streams(&section, plain, &TABLES, at),
        sys_interval: section
            .get("sys_interval", value::duration(Duration::ZERO..=SYS_INTERVAL_MOST))
            .map(toml::Spanned::into_inner),
    }
}
