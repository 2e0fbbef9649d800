//! What the surroundings add to the configuration: the host's name, and the directories that systemd gives a service.
//! Asked once, so that everything else is a function of its arguments.

use std::path::PathBuf;
use tidegate_engine::id::{GatewayId, MAX_ID_BYTES};

/// The surroundings of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The host's name (uname).
    pub host: String,
    /// `$CREDENTIALS_DIRECTORY`: what `LoadCredential=` of systemd.exec(5) laid down.
    pub credentials: Option<PathBuf>,
    /// `$STATE_DIRECTORY`: what `StateDirectory=` of systemd.exec(5) made, the first if there are several.
    pub state: Option<PathBuf>,
    /// The wall clock, in seconds since 1970: certificates run out.
    pub now: i64,
}

impl Environment {
    /// Asks the system.
    #[must_use]
    pub fn of_process() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            host,
            credentials: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            state: variable("STATE_DIRECTORY").and_then(|dirs| std::env::split_paths(&dirs).next()),
            now: crate::clock::unix_ms() / 1_000,
        }
    }

    /// The host's name as a gateway id, what does not fit in one replaced; `None` when it says nothing of the host.
    pub(super) fn gateway_id(&self) -> Option<GatewayId> {
        let mut id: String = self
            .host
            .trim_start_matches('.')
            .chars()
            .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        while id.len() > MAX_ID_BYTES {
            id.pop();
        }
        if id.is_empty() || id == "localhost" || id == "-none-" {
            return None;
        }
        GatewayId::new(&id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    fn id(host: &str) -> Option<String> {
        let environment = Environment { host: host.to_owned(), ..Environment::default() };
        environment.gateway_id().map(|id| id.as_str().to_owned())
    }

    #[test]
    fn a_host_name_becomes_an_id() {
        assert_eq!(id("gw-7.plant.example").as_deref(), Some("gw-7.plant.example"));
        assert_eq!(id("odd name/7").as_deref(), Some("odd-name-7"));
        assert_eq!(id(&"ü".repeat(300)).map(|id| id.len()), Some(128));
        assert_eq!(id("localhost"), None);
        assert_eq!(id("(none)"), None);
        assert_eq!(id(""), None);
    }
}
