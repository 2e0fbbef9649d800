//! Which messages a command is about, and where the gateway's data is: the options that several commands have in common.

use super::{Exit, moment, refuse};
use crate::clock::unix_ms;
use crate::config;
use crate::store::sqlite::reader::{ReadError, Reader, Wanted};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tidegate_engine::id::GatewayId;
use tidegate_engine::topic::Filter;

/// Which messages.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Selection {
    /// Only of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only of this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only with a topic that this MQTT filter takes
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<Filter>,
    /// Only received since: "2 h" (ago) or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment_of)]
    since: Option<i64>,
    /// Only received before
    #[arg(long, value_name = "TIME", value_parser = moment_of)]
    until: Option<i64>,
}

fn filter(text: &str) -> Result<Filter, String> {
    Filter::new(text).map_err(|error| error.to_string())
}

fn moment_of(text: &str) -> Result<i64, String> {
    moment::parse(text, unix_ms())
}

impl Selection {
    /// In the reader's terms.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            route: self.route.clone(),
            device: self.device.clone(),
            topic: self.topic.clone(),
            since_ms: self.since,
            until_ms: self.until,
        }
    }

    /// Nothing is asked for.
    pub(super) fn is_everything(&self) -> bool {
        let Self { route, device, topic, since, until } = self;
        route.is_none() && device.is_none() && topic.is_none() && since.is_none() && until.is_none()
    }
}

/// Where the data is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct At {
    /// The gateway's data directory [default: gateway.data_dir of the configuration]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// A gateway's data, open for reading.
pub(super) struct Data {
    pub(super) gateway: GatewayId,
    pub(super) dir: PathBuf,
    pub(super) reader: Reader,
}

impl At {
    /// Opens the data; what is wrong is told, with the exit code.
    pub(super) fn open(&self, file: Option<&Path>, err: &mut dyn Write) -> io::Result<Result<Data, Exit>> {
        let site = match config::site(file) {
            Ok(site) => site,
            Err(mistakes) => return refuse(&mistakes, err).map(Err),
        };
        let dir = self.data_dir.clone().unwrap_or(site.data_dir);
        match Reader::open(&dir) {
            Ok(reader) => Ok(Ok(Data { gateway: site.gateway, dir, reader })),
            Err(error) => {
                writeln!(err, "error: {error}")?;
                if matches!(error, ReadError::Closed { .. }) {
                    writeln!(
                        err,
                        "  = help: name the gateway's data directory with --data-dir (/var/lib/tidegate where systemd runs it), as root or the gateway's user"
                    )?;
                }
                Ok(Err(Exit::Failure))
            }
        }
    }
}
