//! Lists of what the store holds, read page by page: as a table for a person, as JSON for scripts, as JSON Lines to be kept. What a
//! row says is its command's.

use super::Exit;
use super::table::{plain, table};
use crate::store::sqlite::reader::{Page, ReadError};
use serde::Serialize;
use std::io::{self, Write};

/// Rows that a person is shown without asking for more.
const ROWS: usize = 100;
/// Characters of a cell that somebody else filled.
const CELL_CHARS: usize = 60;

/// How a list is wanted.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Look {
    /// Rows at the most [default: 100; with --json all]
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// As JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// What a table is made of.
pub(super) struct Columns<'a, T> {
    pub(super) head: &'a [&'a str],
    pub(super) row: &'a dyn Fn(&T) -> Vec<String>,
    /// Said instead of an empty one.
    pub(super) none: &'a str,
}

/// Something to be listed, page by page from a number on.
pub(super) struct Listing<'a, T> {
    pub(super) page: &'a dyn Fn(i64) -> Result<Page<T>, ReadError>,
}

impl<T> Listing<'_, T> {
    /// Gives each to `give`, until that says it has enough.
    pub(super) fn each(
        &self,
        mut give: impl FnMut(&T) -> io::Result<bool>,
    ) -> io::Result<Result<(), ReadError>> {
        let mut from = Some(0);
        while let Some(begin) = from {
            let page = match (self.page)(begin) {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            for one in &page.found {
                if !give(one)? {
                    return Ok(Ok(()));
                }
            }
            from = page.next;
        }
        Ok(Ok(()))
    }

    /// As a table.
    pub(super) fn list(
        &self,
        look: Look,
        columns: &Columns<'_, T>,
        json: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<Exit> {
        if look.json {
            return self.array(look.limit.unwrap_or(usize::MAX), json, out, err);
        }
        let most = look.limit.unwrap_or(ROWS);
        let mut rows = Vec::new();
        let mut more = false;
        let done = self.each(|one| {
            more = rows.len() >= most;
            if !more {
                rows.push((columns.row)(one));
            }
            Ok(!more)
        })?;
        if rows.is_empty() && done.is_ok() {
            writeln!(out, "{}", columns.none)?;
        }
        let mut text = String::new();
        table(&mut text, columns.head, rows);
        out.write_all(text.trim_start_matches('\n').as_bytes())?;
        if more {
            writeln!(out, "… and more: see --limit, --route, --device, --topic, --since and --until")?;
        }
        read(done, err)
    }

    fn array(
        &self,
        most: usize,
        json: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<Exit> {
        let mut count = 0;
        write!(out, "[")?;
        let done = self.each(|one| {
            if count >= most {
                return Ok(false);
            }
            write!(out, "{}", if count == 0 { "\n" } else { ",\n" })?;
            json(one, out)?;
            count += 1;
            Ok(true)
        })?;
        writeln!(out, "\n]")?;
        read(done, err)
    }

    /// As JSON Lines.
    pub(super) fn export(
        &self,
        json: impl Fn(&T, &mut dyn Write) -> io::Result<()>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> io::Result<Exit> {
        let done = self.each(|one| {
            json(one, out)?;
            writeln!(out)?;
            Ok(true)
        })?;
        read(done, err)
    }
}

/// Writes one object.
pub(super) fn object(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    Ok(serde_json::to_writer(out, value)?)
}

/// What a command that only reads comes to.
pub(super) fn read(done: Result<(), ReadError>, err: &mut dyn Write) -> io::Result<Exit> {
    match done {
        Ok(()) => Ok(Exit::Well),
        Err(error) => {
            writeln!(err, "error: {error}")?;
            Ok(Exit::Failure)
        }
    }
}

/// Text of others, short enough for a cell.
pub(super) fn cell(text: &str) -> String {
    let safe = plain(text);
    let mut cell: String = safe.chars().take(CELL_CHARS).collect();
    if cell.len() < safe.len() {
        cell.push('…');
    }
    cell
}
