//! Looks into a store from another process, beside the gateway or without one: for the command line. It reads page by page, so that
//! the gateway's WAL is never held for long, and it can change nothing. Who may read the file may use it.

use super::dir::DATABASE;
use super::migrate::SCHEMA_VERSION;
use super::row::{self, COLUMNS, COLUMNS_BY_SEQ, COLUMNS_LEN};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidegate_engine::event::Failure;
use tidegate_engine::id::LetterId;
use tidegate_engine::message::Message;
use tidegate_engine::topic::Filter;

/// Rows looked at in one piece.
const PAGE_ROWS: i64 = 256;

/// How long the gateway's own work on the file is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Why there is nothing to be read. The operator must act.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the texts name
pub enum ReadError {
    /// No database is there, or it may not be read.
    #[error("cannot open {}: {text}", path.display())]
    Closed { path: PathBuf, text: String },
    /// The file is of another version of Tidegate.
    #[error("{} has schema {found} and this program knows {SCHEMA_VERSION}: use the gateway's own version of it{}",
            path.display(), if *found < SCHEMA_VERSION { ", or start the gateway once, which brings the file up to date" } else { "" })]
    Version { path: PathBuf, found: i64 },
    /// SQLite met something.
    #[error("the database cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Which messages are wanted; what is `None` does not matter. Times are those of reception, in milliseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The route's name.
    pub route: Option<String>,
    /// The device's id.
    pub device: Option<String>,
    /// A filter that takes the topic.
    pub topic: Option<Filter>,
    /// Received then or later.
    pub since_ms: Option<i64>,
    /// Received before.
    pub until_ms: Option<i64>,
}

impl Wanted {
    /// Whether a message of a route is wanted; one that is damaged is when nothing is asked of it but its route.
    fn takes(&self, of: &str, message: Option<&Message>) -> bool {
        let Self { route, device, topic, since_ms, until_ms } = self;
        if route.as_ref().is_some_and(|route| route != of) {
            return false;
        }
        let Some(message) = message else {
            return device.is_none() && topic.is_none() && since_ms.is_none() && until_ms.is_none();
        };
        device.as_ref().is_none_or(|device| device == message.device.as_str())
            && topic.as_ref().is_none_or(|filter| filter.matches(&message.topic))
            && since_ms.is_none_or(|since| message.received.unix_ms >= since)
            && until_ms.is_none_or(|until| message.received.unix_ms < until)
    }
}

/// A message that waits for its upstream.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its route.
    pub route: String,
    /// The message; `None` when it is damaged.
    pub message: Option<Message>,
}

/// A dead letter as it stands there.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its number.
    pub id: LetterId,
    /// Its route.
    pub route: String,
    /// When it was buried, by the wall clock.
    pub buried_ms: i64,
    /// What was said last.
    pub reason: String,
    /// How often it was refused.
    pub attempts: u32,
    /// The first refusal.
    pub first: Option<Failure>,
    /// The message; `None` when it is damaged.
    pub message: Option<Message>,
}

/// A piece of a table.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What was wanted of it.
    pub found: Vec<T>,
    /// Where the next piece begins; `None` when this was the last.
    pub next: Option<i64>,
}

/// A store that is only looked at.
#[derive(Debug)]
pub struct Reader {
    db: Connection,
}

impl Reader {
    /// Opens the store in `dir`.
    ///
    /// # Errors
    /// [`ReadError`], whose text says what to do.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(DATABASE);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|db| {
            db.busy_timeout(LOCK_WAIT)?;
            let version = db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
            Ok((db, version))
        });
        let (db, found) = opened.map_err(|error| Self::closed(path.clone(), &error))?;
        if found != SCHEMA_VERSION {
            return Err(ReadError::Version { path, found });
        }
        Ok(Self { db })
    }

    fn closed(path: PathBuf, error: &rusqlite::Error) -> ReadError {
        // SQLite says no more than that it cannot; the file system does.
        let text = match std::fs::File::open(&path) {
            Err(error) => error.to_string(),
            Ok(_) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                "its directory must be writable for SQLite's index of the log".to_owned()
            }
            Ok(_) => error.to_string(),
        };
        ReadError::Closed { path, text }
    }

    /// Dead letters from number `from` on that are wanted, ascending.
    ///
    /// # Errors
    /// [`ReadError::Sqlite`].
    pub fn dead(&self, wanted: &Wanted, from: i64) -> Result<Page<DeadLetter>, ReadError> {
        let sql = format!(
            "SELECT {COLUMNS_BY_SEQ}, id, route, buried_ms, reason, attempts, first_ms, first_reason
             FROM dead_letter WHERE id >= ?1 ORDER BY id LIMIT ?2"
        );
        self.page(&sql, from, |row| {
            let column = |n: usize| COLUMNS_LEN + n;
            let id: i64 = row.get(column(0))?;
            let first_ms: Option<i64> = row.get(column(5))?;
            let first_text: Option<String> = row.get(column(6))?;
            let letter = DeadLetter {
                id: LetterId(id.cast_unsigned()),
                route: row.get(column(1))?,
                buried_ms: row.get(column(2))?,
                reason: row.get(column(3))?,
                attempts: row.get(column(4))?,
                first: first_ms.zip(first_text).map(|(unix_ms, text)| Failure { unix_ms, text }),
                message: row::read(row)?,
            };
            let taken = wanted.takes(&letter.route, letter.message.as_ref());
            Ok((id, Some(letter).filter(|_| taken)))
        })
    }

    /// Messages that wait from a row on that are wanted, lane by lane in the order in which they leave.
    ///
    /// # Errors
    /// [`ReadError::Sqlite`].
    pub fn waiting(&self, wanted: &Wanted, from: i64) -> Result<Page<Waiting>, ReadError> {
        let sql = format!(
            "SELECT {COLUMNS}, (SELECT route FROM lane WHERE lane.id = key >> 48)
             FROM message WHERE key >= ?1 ORDER BY key LIMIT ?2"
        );
        self.page(&sql, from, |row| {
            let route: Option<String> = row.get(COLUMNS_LEN)?;
            let waiting = Waiting { route: route.unwrap_or_default(), message: row::read(row)? };
            let taken = wanted.takes(&waiting.route, waiting.message.as_ref());
            Ok((row.get(0)?, Some(waiting).filter(|_| taken)))
        })
    }

    /// Reads one page of rows; `read` gives a row's number, and what it says when it is wanted.
    fn page<T>(
        &self,
        sql: &str,
        from: i64,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<(i64, Option<T>)>,
    ) -> Result<Page<T>, ReadError> {
        let mut select = self.db.prepare_cached(sql)?;
        let mut rows = select.query(params![from, PAGE_ROWS])?;
        let mut page = Page { found: Vec::new(), next: None };
        let mut count = 0;
        while let Some(row) = rows.next()? {
            let (number, found) = read(row)?;
            page.found.extend(found);
            count += 1;
            if count == PAGE_ROWS {
                page.next = number.checked_add(1);
            }
        }
        Ok(page)
    }
}
