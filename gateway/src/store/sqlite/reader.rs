//! Looks into a store from another process, beside the gateway or without one: for the command line. It reads page by page, so that
//! the gateway's WAL is never held for long, and it can change nothing. Who may read the file may use it.

use super::dir::DATABASE;
use super::migrate::SCHEMA_VERSION;
use super::row::{self, COLUMNS_BY_SEQ, COLUMNS_LEN};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
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

    /// Dead letters from number `from` on that are wanted, ascending; what is damaged is wanted when nothing is asked of the topic.
    ///
    /// # Errors
    /// [`ReadError::Sqlite`].
    pub fn dead(&self, wanted: &Wanted, from: i64) -> Result<Page<DeadLetter>, ReadError> {
        let sql = format!(
            "SELECT {COLUMNS_BY_SEQ}, id, route, buried_ms, reason, attempts, first_ms, first_reason
             FROM dead_letter WHERE id >= ?1 AND (?2 IS NULL OR route = ?2) AND (?3 IS NULL OR device = ?3)
             AND (?4 IS NULL OR received_ms >= ?4) AND (?5 IS NULL OR received_ms < ?5) ORDER BY id LIMIT ?6"
        );
        let mut select = self.db.prepare_cached(&sql)?;
        let Wanted { route, device, topic, since_ms, until_ms } = wanted;
        let mut rows = select.query(params![from, route, device, since_ms, until_ms, PAGE_ROWS])?;
        let mut page = Page { found: Vec::new(), next: None };
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += 1;
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
            let taken = |filter: &Filter| letter.message.as_ref().is_some_and(|m| filter.matches(&m.topic));
            if topic.as_ref().is_none_or(taken) {
                page.found.push(letter);
            }
            if count == PAGE_ROWS {
                page.next = Some(id + 1);
            }
        }
        Ok(page)
    }
}
