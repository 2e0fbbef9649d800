//! `tidegate dead`: the dead letters. What only looks reads the store itself, with the gateway or without it; what changes
//! something asks the running gateway over its local socket, in pieces, by the letters' numbers.

use super::http::{self, HttpError};
use super::listing::{Columns, Listing, Look, cell, object, read};
use super::selection::{At, Data, Selection};
use super::table::plain;
use super::{Exit, message, moment};
use crate::admin::{Letters, Moved, Stayed, local};
use crate::json::MessageJson;
use crate::store::sqlite::reader::DeadLetter;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_engine::id::GatewayId;

const REQUEUE: &str = "/dead/requeue";

/// Letters asked for at once.
const PIECE: usize = 256;
/// How long letters may find no room before the rest is left where it is.
const PATIENCE: Duration = Duration::from_secs(30);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What `dead` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters, each with its number and reason; reads the store, also while the gateway does not run
    List {
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        look: Look,
    },
    /// Show everything about one dead letter
    Show {
        /// Its number
        letter: u64,
        /// As JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Write dead letters with their payloads to the standard output, as JSON Lines
    Export {
        #[command(flatten)]
        selection: Selection,
    },
    /// Send dead letters again, after what was wrong has been mended; asks the running gateway
    Requeue(Change),
    /// Give dead letters up for good; asks the running gateway
    Purge(Change),
}

/// Which letters to change.
#[derive(Debug, clap::Args)]
struct Change {
    /// Their numbers
    #[arg(value_name = "LETTER")]
    letters: Vec<u64>,
    /// All of them
    #[arg(long, conflicts_with = "letters")]
    all: bool,
    #[command(flatten)]
    selection: Selection,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
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
    match &args.command {
        Command::List { selection, look } => list(&data, selection, *look, out, err),
        Command::Show { letter, json } => show(&data, *letter, *json, out, err),
        Command::Export { selection } => {
            let wanted = selection.wanted();
            let listing = Listing { page: &|from| data.reader.dead(&wanted, from) };
            listing.export(|letter, out| object(&LetterJson::new(&data.gateway, letter), out), out, err)
        }
        Command::Requeue(change) => self::change(&data, change, REQUEUE, "sent again", out, err),
        Command::Purge(change) => self::change(&data, change, "/dead/purge", "gone", out, err),
    }
}

/// A dead letter as JSON: what became of it, and the message.
#[derive(Serialize)]
struct LetterJson<'a> {
    letter: u64,
    route: &'a str,
    buried: i64,
    reason: &'a str,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_refused: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    #[serde(flatten)]
    message: Option<MessageJson<'a>>,
}

impl<'a> LetterJson<'a> {
    fn new(gateway: &GatewayId, letter: &'a DeadLetter) -> Self {
        Self {
            letter: letter.id.0,
            route: &letter.route,
            buried: letter.buried_ms,
            reason: &letter.reason,
            attempts: letter.attempts,
            first_refused: letter.first.as_ref().map(|first| first.unix_ms),
            first_reason: letter.first.as_ref().map(|first| first.text.as_str()),
            damaged: letter.message.is_none(),
            message: letter.message.as_ref().map(|message| MessageJson::new(gateway, message)),
        }
    }
}

fn list(
    data: &Data,
    selection: &Selection,
    look: Look,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    let wanted = selection.wanted();
    let columns = Columns {
        head: &["LETTER", "BURIED", "ROUTE", "DEVICE", "TOPIC", "TRIES", "REASON"],
        row: &row,
        none: "no dead letters",
    };
    let json =
        |letter: &DeadLetter, out: &mut dyn Write| object(&LetterJson::new(&data.gateway, letter), out);
    Listing { page: &|from| data.reader.dead(&wanted, from) }.list(look, &columns, json, out, err)
}

fn row(letter: &DeadLetter) -> Vec<String> {
    let message = letter.message.as_ref();
    vec![
        letter.id.0.to_string(),
        moment::show(letter.buried_ms),
        cell(&letter.route),
        message.map_or("(damaged)".to_owned(), |m| cell(m.device.as_str())),
        message.map_or(String::new(), |m| cell(m.topic.as_str())),
        letter.attempts.to_string(),
        cell(&letter.reason),
    ]
}

fn show(data: &Data, number: u64, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    let page = match data.reader.dead(&Selection::default().wanted(), number.cast_signed()) {
        Ok(page) => page,
        Err(error) => return read(Err(error), err),
    };
    let Some(letter) = page.found.iter().find(|letter| letter.id.0 == number) else {
        writeln!(err, "error: there is no dead letter {number}; `tidegate dead list` shows those there are")?;
        return Ok(Exit::Failure);
    };
    if json {
        object(&LetterJson::new(&data.gateway, letter), out)?;
        writeln!(out)?;
        return Ok(Exit::Well);
    }
    writeln!(out, "letter    {number}, of route {}", plain(&letter.route))?;
    writeln!(out, "buried    {} after {} refusals", moment::show(letter.buried_ms), letter.attempts)?;
    writeln!(out, "reason    {}", plain(&letter.reason))?;
    if let Some(first) = &letter.first {
        writeln!(out, "first     {} {}", moment::show(first.unix_ms), plain(&first.text))?;
    }
    match &letter.message {
        Some(message) => message::show(&data.gateway, message, out)?,
        None => writeln!(out, "message   damaged: it cannot be read, only purged")?,
    }
    Ok(Exit::Well)
}

/// Has letters changed, piece by piece, and tells how many were.
fn change(
    data: &Data,
    change: &Change,
    path: &str,
    done: &str,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<Exit> {
    if change.letters.is_empty() && !change.all && change.selection.is_everything() {
        writeln!(
            err,
            "error: name letters by their numbers, choose some (--route, --device, --topic, --since, --until), or say --all"
        )?;
        return Ok(Exit::Usage);
    }
    let mut letters = change.letters.clone();
    if letters.is_empty() {
        let wanted = change.selection.wanted();
        let found = Listing { page: &|from| data.reader.dead(&wanted, from) }.each(|letter| {
            letters.push(letter.id.0);
            Ok(true)
        })?;
        if found.is_err() {
            return read(found, err);
        }
    }
    let mut moved = Moved::default();
    // Asked for and without an answer: what is done with them may be done by the time they are asked for again.
    let mut asked = BTreeSet::new();
    let mut failed = None;
    let mut moved_at = Instant::now();
    while !letters.is_empty() {
        let piece: Vec<u64> = letters.iter().copied().take(PIECE).collect();
        match ask(&data.dir, path, piece.clone()) {
            Ok(mut answer) => {
                let gone = |stayed: &Stayed| stayed.gone && asked.contains(&stayed.letter);
                answer.done.extend(answer.stayed.extract_if(.., |stayed| gone(stayed)).map(|s| s.letter));
                asked.extend(piece);
                let settled = answer.done.len() + answer.stayed.len();
                letters.retain(|letter| {
                    !answer.done.contains(letter) && answer.stayed.iter().all(|s| s.letter != *letter)
                });
                moved.done.extend(answer.done);
                moved.stayed.extend(answer.stayed);
                if settled > 0 {
                    moved_at = Instant::now();
                } else if moved_at.elapsed() < PATIENCE {
                    std::thread::sleep(ASK_AGAIN_AFTER);
                } else {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if change.json {
        object(&moved, out)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{} {done}", count(moved.done.len()))?;
    }
    for stayed in &moved.stayed {
        writeln!(err, "error: letter {}: {}", stayed.letter, plain(&stayed.why))?;
    }
    if let Some(error) = failed {
        writeln!(err, "error: no answer from the gateway at {}: {error}", local::path(&data.dir).display())?;
        writeln!(
            err,
            "  = help: only a running gateway changes its dead letters: `systemctl status tidegate`; root and its own user may ask"
        )?;
        return Ok(Exit::Failure);
    }
    if !letters.is_empty() {
        let why = match path {
            REQUEUE => "their route has no room, as its upstream does not take enough",
            _ => "the medium has not taken the change in time",
        };
        writeln!(
            err,
            "error: {} stay where they are: {why}; see `tidegate status`, then try again",
            count(letters.len())
        )?;
    }
    Ok(if letters.is_empty() && moved.stayed.is_empty() { Exit::Well } else { Exit::Failure })
}

fn count(letters: usize) -> String {
    if letters == 1 { "1 letter".to_owned() } else { format!("{letters} letters") }
}

fn ask(dir: &Path, path: &str, letters: Vec<u64>) -> Result<Moved, HttpError> {
    let body = serde_json::to_vec(&Letters { letters }).map_err(io::Error::from)?;
    let answer = http::post(&local::path(dir), path, &body)?;
    serde_json::from_slice(&answer).map_err(|_| HttpError::Stranger)
}
