//! Opening the store: the directory claimed, the pragmas set and read back, the schema made or checked, a damaged file moved
//! aside, the epoch moved on, what waits counted. Nothing here takes time or memory in proportion to what waits.

use super::dir::{self, BALLAST, DataDir, Life};
use super::fault::Fault;
use super::files::{Files, System};
use super::migrate::{self, SCHEMA_VERSION};
use super::salvage::{self, Progress, Salvager};
use super::space::Space;
use super::watermark::{Reached, Watermark};
use super::{Sizes, SqliteStore, lanes, row};
use crate::store::{Lanes, Orphan};
use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_engine::event::{RecordKey, RecordKind, Recovered};
use tidegate_engine::id::{LaneId, Seq};
use tidegate_engine::mutant::{Mutant, Planted};

/// "Tide" in ASCII: `file` and SQLite's tools tell whose file this is.
const APPLICATION_ID: i64 = 0x5469_6465;
/// SQLite's page cache, in KiB: a page of load and a group of commits fit; the rest of the memory is for devices.
const PAGE_CACHE_KIB: i64 = 4_096;
/// Prepared statements kept; there are fewer.
const STATEMENTS: usize = 32;
/// How long somebody else's write lock is waited for; only an operator's `sqlite3` could hold one.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How far the sequence numbers jump when the database is lost: more than one life accepts (at 100,000 messages/s, 127 days),
/// so that what is salvaged later keeps its place before what comes now.
const JUMP_AFTER_LOSS: u64 = 1 << 40;

/// How far the numbers of dead letters jump then, so that those that are salvaged keep theirs.
const DEAD_LETTERS_JUMP: u64 = 1_000_000_000;

/// Why the store cannot be opened. The operator must act, except where the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the texts name
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by {}: end it, or give this gateway a directory of its own (gateway.data_dir)",
            path.display(), pid.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Busy { path: PathBuf, pid: Option<u32> },
    /// It has content that is not Tidegate's.
    #[error("the data directory {} holds something else ({}): give an empty or a new directory (gateway.data_dir)",
            path.display(), found.display())]
    Foreign { path: PathBuf, found: OsString },
    /// It is a file.
    #[error("the data directory {} is not a directory: give an empty or a new one (gateway.data_dir)", path.display())]
    NotADirectory { path: PathBuf },
    /// The file system refused.
    #[error("cannot {what} {}: {source}{}", path.display(), advice(source))]
    Directory { what: &'static str, path: PathBuf, source: io::Error },
    /// A database, but somebody else's.
    #[error("{} is another program's database: move it away, or give another directory (gateway.data_dir)", path.display())]
    OtherDatabase { path: PathBuf },
    /// A later Tidegate wrote it.
    #[error("{} was written by a later version of Tidegate (schema {found}, this one knows {SCHEMA_VERSION}): \
             install that version again", path.display())]
    Newer { path: PathBuf, found: i64 },
    /// A setting that safety rests on did not take.
    #[error("SQLite's {name} is '{found}' instead of '{wanted}' on {}: messages would not be safe on this file system; \
             use a local one (ext4, xfs, f2fs, btrfs)", path.display())]
    Pragma { name: &'static str, wanted: String, found: String, path: PathBuf },
    /// More routes than there may be lanes.
    #[error(
        "more than {} routes, those that still have messages waiting included: remove some",
        lanes::LANES_MAX
    )]
    TooManyRoutes,
    /// One database after the other was damaged.
    #[error("the medium under {} has damaged so many databases that no more are put there before they are salvaged: \
             replace the medium, then start again with this directory copied to the new one", path.display())]
    QuarantineFull { path: PathBuf },
    /// Anything else that SQLite says.
    #[error("cannot open the store in {}: {text}", path.display())]
    Database { path: PathBuf, text: String },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": the directory must belong to the user that runs tidegate",
        io::ErrorKind::ReadOnlyFilesystem => ": the file system is mounted read-only",
        io::ErrorKind::StorageFull => ": free some space on the medium",
        _ => "",
    }
}

/// An open store and what it found.
#[derive(Debug)]
pub struct Opened {
    /// The store. While it lives, the data directory is locked.
    pub store: SqliteStore,
    /// What the engine must know at the start.
    pub recovered: Recovered,
    /// This life of the gateway.
    pub epoch: u64,
    /// The lane of each given route, in their order.
    pub lanes: Vec<LaneId>,
    /// Lanes with messages whose route is no longer configured.
    pub orphans: Vec<Orphan>,
    /// Where a damaged database was moved to; what is whole in it is salvaged while the store is used.
    pub quarantined: Option<PathBuf>,
    /// How that goes.
    pub progress: Progress,
    /// Keyed records that were damaged and have been moved away.
    pub damaged_records: u64,
}

/// Opens the store in `dir`, and creates both if they are missing. `routes` are pairs of a route's name and its upstream's.
///
/// # Errors
/// [`OpenError`], whose text says what to do. A damaged database is no error: it is moved to `quarantine/`.
pub fn open(dir: &Path, routes: &[(&str, &str)], sizes: Sizes) -> Result<Opened, OpenError> {
    open_on(Arc::new(System), Planted::default(), dir, routes, sizes)
}

/// As [`open`], somewhere else than in the file system, and with what is planted in the store: for proofs of its safety.
///
/// # Errors
/// As [`open`].
pub fn open_on(
    files: Arc<dyn Files>,
    planted: Planted,
    dir: &Path,
    routes: &[(&str, &str)],
    sizes: Sizes,
) -> Result<Opened, OpenError> {
    let dir = DataDir::claim(files, dir)?;
    let prepare = |path, life| prepare(&dir, planted, path, life, routes, sizes);
    let life = dir.life()?;
    let mut quarantined = None;
    // SQLite passes over a damaged WAL in silence, so it is not asked.
    let damaged = dir.is_marked_damaged() || dir.wal_is_damaged().unwrap_or(false);
    let path = dir.create_database()?;
    let mut found = if damaged { Err(Failure::Damaged) } else { prepare(&path, life) };
    if found.as_ref().err().is_some_and(Failure::is_corruption) {
        let to = dir.quarantine(life.map_or(0, |life| life.epoch))?;
        let to = to.path().to_path_buf();
        tracing::error!(moved_to = %to.display(), "the database is damaged; going on with a new one");
        quarantined = Some(to);
        dir.create_database()?;
        found = prepare(&path, life);
    }
    let found = found.map_err(|failure| match failure {
        Failure::Open(error) => error,
        Failure::Fault(fault) => OpenError::Database { path: path.clone(), text: fault.to_string() },
        Failure::Damaged => OpenError::Database { path: path.clone(), text: "it is damaged".to_owned() },
    })?;
    let Prepared { db, state, last_epoch, records, damaged_records, losses } = found;

    // The epoch moves on, durably, before anything is accepted in this life.
    let epoch = match last_epoch.max(life.map_or(0, |life| life.epoch)) {
        0 => dir::random_epoch(dir.files())?,
        last => last + 1,
    };
    let bad_lives = life.map_or(0, |life| life.bad_lives);
    let life = Life { epoch, last: state.last.0, bad_lives: bad_lives.saturating_add(1), losses };
    let begin = || {
        let lanes = state.all.iter().map(|(id, route, upstream)| (*id, &**route, &**upstream));
        dir.note_lanes(lanes).map_err(|source| OpenError::Directory {
            what: "write in",
            path: dir.path().to_path_buf(),
            source,
        })?;
        dir.begin_life(life)
    };
    match begin() {
        Err(OpenError::Directory { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
            // The WAL of a life that ended without closing it is the only room left.
            db.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE)
                .map_err(|error| OpenError::Database { path: path.clone(), text: error.to_string() })?;
            begin()?;
        }
        done => done?,
    }
    db.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?1)", [epoch.cast_signed()])
        .map_err(|error| OpenError::Database { path: path.clone(), text: error.to_string() })?;

    // That commit has synced whatever the last life left unsynced.
    let watermark = Watermark::open(dir.files(), &dir.watermark(), Reached::of(&state));
    if let Err(error) = &watermark {
        tracing::warn!(%error, "cannot write down beside the database how far it has come; damage is noticed less often");
    }
    let space = Space::new(&db, sizes, dir.files(), &dir.path().join(BALLAST))
        .map_err(|fault| OpenError::Database { path: path.clone(), text: fault.to_string() })?;
    let progress = Progress::default();
    let salvager = Salvager::new(&dir, state.salvaged, routes, progress.clone());
    if let Err(error) = dir.bound_quarantine(sizes.file_bytes) {
        tracing::warn!(%error, "an old salvaged database cannot be removed");
    }
    let lanes::State { lanes: Lanes { ids, orphans }, states, last, names, .. } = state;
    let store = SqliteStore {
        db,
        names,
        routes: ids.clone(),
        space,
        life: Some((life, Instant::now())),
        watermark: watermark.ok(),
        salvager,
        losses: salvage::noted(&records),
        when_damaged: None,
        quarantine_bytes: sizes.file_bytes,
        dir,
        planted,
    };
    Ok(Opened {
        store,
        recovered: Recovered { lanes: states, last, records, bad_lives },
        epoch,
        lanes: ids,
        orphans,
        quarantined,
        progress,
        damaged_records,
    })
}

struct Prepared {
    db: Connection,
    state: lanes::State,
    last_epoch: u64,
    records: Vec<(RecordKey, Bytes)>,
    damaged_records: u64,
    /// Databases lost to damage, this time's included.
    losses: u64,
}

enum Failure {
    /// What only the operator can change.
    Open(OpenError),
    /// What SQLite met.
    Fault(Fault),
    /// The last life met damage.
    Damaged,
}

impl Failure {
    fn is_corruption(&self) -> bool {
        match self {
            Self::Open(_) => false,
            Self::Fault(fault) => fault.is_corruption(),
            Self::Damaged => true,
        }
    }
}

impl<E: Into<Fault>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

/// Everything that reads the database: whatever of it finds damage, the file goes to quarantine.
fn prepare(
    dir: &DataDir,
    planted: Planted,
    path: &Path,
    life: Option<Life>,
    routes: &[(&str, &str)],
    sizes: Sizes,
) -> Result<Prepared, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let mut db = match dir.files().vfs() {
        None => Connection::open_with_flags(path, flags)?,
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
    };
    match examine(&mut db, dir, planted, path, life, routes, sizes) {
        Ok(Examined { state, last_epoch, records, damaged_records, losses }) => {
            Ok(Prepared { db, state, last_epoch, records, damaged_records, losses })
        }
        Err(failure) => {
            // Closing must not work on a damaged file: quarantine keeps it, with its WAL, as it was found.
            let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            Err(failure)
        }
    }
}

struct Examined {
    state: lanes::State,
    last_epoch: u64,
    records: Vec<(RecordKey, Bytes)>,
    damaged_records: u64,
    losses: u64,
}

fn examine(
    db: &mut Connection,
    dir: &DataDir,
    planted: Planted,
    path: &Path,
    life: Option<Life>,
    routes: &[(&str, &str)],
    sizes: Sizes,
) -> Result<Examined, Failure> {
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.busy_timeout(LOCK_WAIT)?;
    // Before anything is changed: is it ours, and do we know its shape?
    let number = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let empty = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))? == 0;
    if !(application == APPLICATION_ID || (empty && application == 0 && version == 0)) {
        return Err(Failure::Open(OpenError::OtherDatabase { path: path.to_path_buf() }));
    }
    if version > SCHEMA_VERSION {
        return Err(Failure::Open(OpenError::Newer { path: path.to_path_buf(), found: version }));
    }
    // Before anything is written over what could be salvaged.
    if !empty && is_behind(db, dir)? {
        return Err(Failure::Damaged);
    }
    set_pragmas(db, planted, path, sizes)?;
    if empty {
        make_schema(db, life)?;
    } else {
        migrate::upgrade(db, version)?;
    }
    settle(db)?;
    let known = life.map_or(0, |life| life.losses);
    let losses = if salvage::records(db, dir, known + 1)? { known + 1 } else { known };
    let (records, damaged_records) = load_records(db)?;
    let state = lanes::assign(db, routes, lanes::Unused::Remove, &salvage::routes(dir, routes))?;
    if state.lanes.ids.len() != routes.len() {
        return Err(Failure::Open(OpenError::TooManyRoutes));
    }
    let last_epoch: Option<i64> =
        db.query_row("SELECT value FROM meta WHERE name = 'epoch'", [], |row| row.get(0)).optional()?;
    let last_epoch = last_epoch.unwrap_or(0).cast_unsigned();
    Ok(Examined { state, last_epoch, records, damaged_records, losses })
}

/// Writes back what the last life left in the WAL. A sync that failed there may have left frames that stand in the kernel's memory
/// and not on the medium, and that no later sync brings there; nothing of this life may rest on them. (Within a life SQLite
/// writes what it could not sync anew: frames of a failed commit are written over, pages of a failed write-back written again.)
fn settle(db: &Connection) -> Result<(), Fault> {
    match db.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE).map_err(Fault::from) {
        // Without room the file cannot grow by it; the start makes room, and what is deleted first is written back later.
        Err(fault) if fault.is_full() => Ok(()),
        done => done.map(drop),
    }
}

/// Whether commits are missing that had been done.
fn is_behind(db: &Connection, dir: &DataDir) -> Result<bool, Fault> {
    let reached = Reached::read(dir.files(), &dir.watermark()).ok().flatten().unwrap_or_default();
    let last: i64 = db.query_row(
        "SELECT max((SELECT ifnull(max(last), 0) FROM lane),
                    ifnull((SELECT value FROM meta WHERE name = 'last'), 0))",
        [],
        |row| row.get(0),
    )?;
    let behind = last.cast_unsigned() < reached.last;
    if behind {
        tracing::error!(
            stands_at = last,
            had_reached = reached.last,
            "the database lacks commits that had been done: its file or its WAL is damaged"
        );
    }
    Ok(behind)
}

/// Sets what safety and speed rest on, and reads it back: SQLite ignores in silence what it cannot do.
fn set_pragmas(db: &Connection, planted: Planted, path: &Path, sizes: Sizes) -> Result<(), Failure> {
    let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // (name, set to, read back as)
    let pages = sizes.file_pages().to_string();
    let wanted: &[(&'static str, &str, &str)] = &[
        ("page_size", "4096", "4096"), // first: it cannot change once there is a WAL
        ("auto_vacuum", "NONE", "0"),
        ("journal_mode", "WAL", "wal"),
        // Acknowledged means synced: NORMAL loses acknowledged rows in a power cut.
        if planted.is(Mutant::SynchronousNormal) {
            ("synchronous", "NORMAL", "1")
        } else {
            ("synchronous", "FULL", "2")
        },
        // A mapped page changes under SQLite when memory is overwritten, and an I/O error becomes a signal.
        ("mmap_size", "0", "0"),
        // The writer thread checkpoints when nobody waits.
        ("wal_autocheckpoint", "0", "0"),
        // The WAL is overwritten, never cut: its blocks are then already ours on a full medium.
        ("journal_size_limit", "-1", "-1"),
        ("foreign_keys", "OFF", "0"),
        ("trusted_schema", "OFF", "0"),
        ("secure_delete", "OFF", "0"),
        // Cheap, and finds damage before it spreads.
        ("cell_size_check", "ON", "1"),
        ("temp_store", "MEMORY", "2"),
        ("encoding", "'UTF-8'", "UTF-8"),
    ];
    for (name, value, expected) in wanted {
        pragma(db, path, name, value, expected)?;
    }
    let cache = (-PAGE_CACHE_KIB).to_string();
    pragma(db, path, "cache_size", &cache, &cache)?;
    // A file that is larger already keeps its size, and grows no more.
    let set: i64 = db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))?;
    tracing::debug!(pages = set, "the database's size is bounded");
    Ok(())
}

fn pragma(
    db: &Connection,
    path: &Path,
    name: &'static str,
    value: &str,
    expected: &str,
) -> Result<(), Failure> {
    // Some pragmas answer with the new value and some with nothing; the second question gets the answer from all.
    db.prepare(&format!("PRAGMA {name} = {value}"))?.query([])?.next()?;
    let found: rusqlite::types::Value =
        // `mmap_size` has no answer where the bound at compile time is 0.
        db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).optional()?.unwrap_or(expected.to_owned().into());
    let found = match found {
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        other => format!("{other:?}"),
    };
    if found == expected {
        return Ok(());
    }
    let path = path.to_path_buf();
    Err(Failure::Open(OpenError::Pragma { name, wanted: expected.to_owned(), found, path }))
}

fn make_schema(db: &mut Connection, life: Option<Life>) -> Result<(), Fault> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    migrate::create(&tx)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    if let Some(life) = life {
        // There was a database before this one.
        let last = (life.last + JUMP_AFTER_LOSS).min(Seq::MAX.0);
        tx.execute("INSERT INTO meta VALUES ('last', ?1)", [last.cast_signed()])?;
        let letters = (life.losses + 1).saturating_mul(DEAD_LETTERS_JUMP).min(1 << 62);
        tx.execute("INSERT INTO sqlite_sequence VALUES ('dead_letter', ?1)", [letters.cast_signed()])?;
    }
    Ok(tx.commit()?)
}

/// Reads all keyed records; those that are damaged are moved away and counted. Records of a kind that this version does not
/// know stay where they are.
fn load_records(db: &mut Connection) -> Result<(Vec<(RecordKey, Bytes)>, u64), Fault> {
    let mut records = Vec::new();
    let mut damaged: Vec<(i64, Vec<u8>)> = Vec::new();
    {
        let mut select = db.prepare("SELECT kind, key, value, checksum FROM record")?;
        let mut rows = select.query([])?;
        while let Some(found) = rows.next()? {
            let kind: i64 = found.get(0)?;
            let (key, value) = (found.get_ref(1)?.as_bytes(), found.get_ref(2)?.as_bytes());
            let (Ok(key), Ok(value)) = (key, value) else { continue };
            if found.get::<_, i64>(3)? != i64::from(row::record_checksum(kind, key, value)) {
                damaged.push((kind, key.to_vec()));
            } else if let Some(kind) = RecordKind::ALL.into_iter().find(|known| *known as i64 == kind) {
                records.push((
                    RecordKey { kind, key: Bytes::copy_from_slice(key) },
                    Bytes::copy_from_slice(value),
                ));
            }
        }
    }
    if !damaged.is_empty() {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (kind, key) in &damaged {
            tx.execute(
                "INSERT INTO damaged_record (found_ms, kind, key, value, checksum)
                 SELECT ?3, kind, key, value, checksum FROM record WHERE kind = ?1 AND key = ?2",
                params![kind, key, super::now_ms()],
            )?;
            tx.execute("DELETE FROM record WHERE kind = ?1 AND key = ?2", params![kind, key])?;
        }
        tx.commit()?;
    }
    Ok((records, damaged.len() as u64))
}
