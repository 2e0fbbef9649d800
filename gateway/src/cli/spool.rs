//! `tidegate spool`: what waits on the disk for its upstream. It only looks, and reads the store itself, with the gateway or
//! without it. What is in the gateway's memory alone, as a route with `relay` has it while the uplink keeps up, is not seen here.

use super::listing::{Columns, Listing, Look, cell, object, read};
use super::selection::{At, Selection};
use super::{Exit, message, moment};
use crate::json::MessageJson;
use crate::store::sqlite::reader::{Waiting, Wanted};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use tidegate_engine::id::GatewayId;

/// What `spool` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what waits on the disk, route by route in the order in which it leaves
    List {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        look: Look,
    },
    /// Show everything about one message that waits
    Show {
        /// Its id, as `list` shows it
        id: String,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Write what waits, with its payloads, to the standard output as JSON Lines; it goes on waiting
    Export {
        #[command(flatten)]
        selection: Selection,
    },
}

/// A message that waits as JSON.
#[derive(Serialize)]
struct WaitingJson<'a> {
    route: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    #[serde(flatten)]
    message: Option<MessageJson<'a>>,
}

impl<'a> WaitingJson<'a> {
    fn new(gateway: &GatewayId, waiting: &'a Waiting) -> Self {
        Self {
            route: &waiting.route,
            damaged: waiting.message.is_none(),
            message: waiting.message.as_ref().map(|message| MessageJson::new(gateway, message)),
        }
    }
}

pub(super) fn run(
    args: &Args,
    file: Option<&Path>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let data = match args.at.open(file, err)? {
        Ok(data) => data,
        Err(exit) => return Ok(exit),
    };
    let json =
        |waiting: &Waiting, out: &mut dyn Write| object(&WaitingJson::new(&data.gateway, waiting), out);
    let id = |waiting: &Waiting| {
        waiting.message.as_ref().map(|message| crate::upstream::message_id(&data.gateway, message))
    };
    match &args.command {
        Command::List { selection, look } => {
            let wanted = selection.wanted();
            let columns = Columns {
                head: &["ROUTE", "RECEIVED", "DEVICE", "TOPIC", "BYTES", "ID"],
                row: &|waiting| row(waiting, id(waiting)),
                none: "nothing waits on the disk",
            };
            Listing { page: &|from| data.reader.waiting(&wanted, from) }.list(*look, &columns, json, out, err)
        }
        Command::Export { selection } => {
            let wanted = selection.wanted();
            Listing { page: &|from| data.reader.waiting(&wanted, from) }.export(json, out, err)
        }
        Command::Show { id: asked, json: as_json } => {
            let wanted = Wanted::default();
            let mut shown = false;
            let found = Listing { page: &|from| data.reader.waiting(&wanted, from) }.each(|waiting| {
                let Some(found) = waiting.message.as_ref().filter(|_| id(waiting).as_ref() == Some(asked))
                else {
                    return Ok(true);
                };
                shown = true;
                if *as_json {
                    json(waiting, out)?;
                    writeln!(out)?;
                } else {
                    writeln!(out, "route     {}", cell(&waiting.route))?;
                    message::show(&data.gateway, found, out)?;
                }
                // It may wait on several routes.
                Ok(true)
            })?;
            if found.is_ok() && !shown {
                writeln!(err, "error: no message {} waits on the disk", cell(asked))?;
                return Ok(Exit::Failure);
            }
            read(found, err)
        }
    }
}

fn row(waiting: &Waiting, id: Option<String>) -> Vec<String> {
    let message = waiting.message.as_ref();
    vec![
        cell(&waiting.route),
        message.map_or(String::new(), |m| moment::show(m.received.unix_ms)),
        message.map_or("(damaged)".to_owned(), |m| cell(m.device.as_str())),
        message.map_or(String::new(), |m| cell(m.topic.as_str())),
        message.map_or(String::new(), |m| m.payload.len().to_string()),
        id.unwrap_or_default(),
    ]
}
