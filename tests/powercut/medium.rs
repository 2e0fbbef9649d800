//! A medium in memory under the store and SQLite: directories and files as the running system sees them, and the record of
//! everything that was asked of them, with the marks of what the world was told in between. What of it a power cut leaves is
//! `cut`'s to say.

use super::content::Content;
use super::ledger::Mark;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A file's number: its name may change, and another file may get its name.
pub(super) type Inode = u32;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(Inode),
}

/// What stands on a medium.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) entries: BTreeMap<PathBuf, Node>,
    pub(super) contents: BTreeMap<Inode, Content>,
}

/// A change of a directory.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Add { path: PathBuf, node: Node },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl Entry {
    /// The directory that it changes.
    pub(super) fn dir(&self) -> &Path {
        let (Self::Add { path, .. } | Self::Remove { path } | Self::Rename { to: path, .. }) = self;
        path.parent().unwrap_or(Path::new("/"))
    }

    pub(super) fn apply(&self, entries: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add { path, node } => {
                entries.insert(path.clone(), *node);
            }
            Self::Remove { path } => {
                entries.remove(path);
            }
            Self::Rename { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
        }
    }
}

/// What is recorded, in its order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Write {
        inode: Inode,
        at: u64,
        bytes: Arc<[u8]>,
    },
    Resize {
        inode: Inode,
        bytes: u64,
    },
    Sync {
        inode: Inode,
    },
    Entry(Entry),
    SyncDir {
        dir: PathBuf,
    },
    /// What the world was told.
    Mark(Mark),
    /// The power was cut and came back; this stood on the medium.
    Reborn(Arc<Image>),
}

/// How a medium lies: planted defects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Directories are not synced: what was created, renamed or removed may be undone by a cut.
    DirectoryNotSynced,
    /// The database's file is not synced when the WAL has been written back into it.
    CheckpointNotSynced,
    /// The WAL is not synced.
    WalNotSynced,
    /// The WAL's new header is not synced before its old frames are written over.
    WalHeaderNotSynced,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::DirectoryNotSynced, Self::CheckpointNotSynced, Self::WalNotSynced, Self::WalHeaderNotSynced];
}

/// The medium.
#[derive(Debug, Default)]
pub(super) struct Medium {
    pub(super) image: Image,
    pub(super) events: Vec<Event>,
    next_inode: Inode,
    /// Whether what happens is written down.
    records: bool,
    lie: Option<Lie>,
    /// The power is off: nothing works.
    pub(super) off: bool,
    locked: BTreeSet<Inode>,
    /// Of the WAL: how many writes wait for a sync, and whether all of them are of its header.
    unsynced_wal: (u32, bool),
    random: u32,
}

/// A WAL's header: its first bytes, written by themselves.
const WAL_HEADER_BYTES: usize = 32;

impl Medium {
    /// An empty medium that records.
    pub(super) fn recording(lie: Option<Lie>, random: u32) -> Self {
        Self { records: true, lie, random, next_inode: 1, ..Self::default() }
    }

    /// A medium on which this stands, and that does not record.
    pub(super) fn holding(image: Image) -> Self {
        Self { random: 0, ..Self::default() }.with(image)
    }

    fn with(mut self, image: Image) -> Self {
        self.next_inode = image.contents.last_key_value().map_or(1, |(last, _)| last + 1);
        self.image = image;
        self
    }

    /// The power comes back, and this stands on the medium.
    pub(super) fn reborn(&mut self, image: Image) {
        self.events.push(Event::Reborn(Arc::new(image.clone())));
        self.image = image;
        self.off = false;
        self.locked.clear();
        self.unsynced_wal = (0, true);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        if self.records {
            self.events.push(Event::Mark(mark));
        }
    }

    fn record(&mut self, event: impl FnOnce() -> Event) {
        if self.records {
            self.events.push(event());
        }
    }

    pub(super) fn node(&self, path: &Path) -> Option<Node> {
        self.image.entries.get(path).copied()
    }

    /// Bytes that differ from one medium to the next and not from one run to the next.
    pub(super) fn random(&mut self) -> [u8; 4] {
        self.random = self.random.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        self.random.to_le_bytes()
    }

    /// Opens a file, and says whether it was made by that.
    pub(super) fn open(&mut self, path: &Path, create: bool) -> io::Result<(Inode, bool)> {
        self.work()?;
        match self.node(path) {
            Some(Node::File(inode)) => Ok((inode, false)),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None if create => {
                let inode = self.next_inode;
                self.next_inode += 1;
                self.image.contents.insert(inode, Content::default());
                self.entry(Entry::Add { path: path.to_path_buf(), node: Node::File(inode) })?;
                Ok((inode, true))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn work(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    pub(super) fn entry(&mut self, entry: Entry) -> io::Result<()> {
        self.work()?;
        let dir = entry.dir();
        if dir != Path::new("/") && self.node(dir) != Some(Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        entry.apply(&mut self.image.entries);
        self.record(|| Event::Entry(entry));
        Ok(())
    }

    pub(super) fn content(&self, inode: Inode) -> Option<&Content> {
        self.image.contents.get(&inode)
    }

    fn content_mut(&mut self, inode: Inode) -> io::Result<&mut Content> {
        self.work()?;
        self.image.contents.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn write(&mut self, inode: Inode, at: u64, bytes: &[u8], is_wal: bool) -> io::Result<()> {
        self.content_mut(inode)?.write(at, bytes);
        if is_wal {
            let header = at == 0 && bytes.len() == WAL_HEADER_BYTES;
            self.unsynced_wal = (self.unsynced_wal.0 + 1, self.unsynced_wal.1 && header);
        }
        self.record(|| Event::Write { inode, at, bytes: bytes.into() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, inode: Inode, bytes: u64) -> io::Result<()> {
        self.content_mut(inode)?.set_len(bytes);
        self.record(|| Event::Resize { inode, bytes });
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: Inode, what: Synced) -> io::Result<()> {
        self.work()?;
        let header_only = self.unsynced_wal.0 > 0 && self.unsynced_wal.1;
        let lies = match (self.lie, what) {
            (Some(Lie::CheckpointNotSynced), Synced::Database) | (Some(Lie::WalNotSynced), Synced::Wal) => {
                true
            }
            (Some(Lie::WalHeaderNotSynced), Synced::Wal) => header_only,
            _ => false,
        };
        if lies {
            return Ok(());
        }
        if what == Synced::Wal {
            self.unsynced_wal = (0, true);
        }
        self.record(|| Event::Sync { inode });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.work()?;
        if self.lie != Some(Lie::DirectoryNotSynced) {
            self.record(|| Event::SyncDir { dir: dir.to_path_buf() });
        }
        Ok(())
    }

    /// Locks a file; false when it is locked.
    pub(super) fn lock(&mut self, inode: Inode) -> bool {
        self.locked.insert(inode)
    }

    /// The process that had locks is gone.
    pub(super) fn locked_by_nobody(&mut self) {
        self.locked.clear();
    }

    pub(super) fn unlock(&mut self, inode: Inode) {
        self.locked.remove(&inode);
    }
}

/// Which of SQLite's files is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Synced {
    Database,
    Wal,
    Other,
}

/// The media that SQLite may find, by number: the first part of a path says which.
static MEDIA: Mutex<BTreeMap<u64, Weak<Mutex<Medium>>>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A medium and where it is mounted. Used by one thread at a time.
#[derive(Clone, Debug)]
pub(super) struct Mount(Arc<Mounted>);

#[derive(Debug)]
struct Mounted {
    medium: Arc<Mutex<Medium>>,
    number: u64,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        MEDIA.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Mount {
    pub(super) fn new(medium: Medium) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let medium = Arc::new(Mutex::new(medium));
        let mut media = MEDIA.lock().unwrap_or_else(PoisonError::into_inner);
        media.insert(number, Arc::downgrade(&medium));
        Self(Arc::new(Mounted { medium, number }))
    }

    /// The gateway's data directory: as SQLite names it, with the number of the medium in front.
    pub(super) fn dir(&self) -> PathBuf {
        format!("/{}/data", self.0.number).into()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Medium> {
        lock(&self.0.medium)
    }
}

pub(super) fn lock(medium: &Mutex<Medium>) -> MutexGuard<'_, Medium> {
    medium.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The medium that a path leads to, and the path on it.
pub(super) fn find(path: &Path) -> Option<(Arc<Mutex<Medium>>, PathBuf)> {
    let text = path.to_str()?.strip_prefix('/')?;
    let (number, _) = text.split_once('/')?;
    let media = MEDIA.lock().unwrap_or_else(PoisonError::into_inner);
    Some((media.get(&number.parse().ok()?)?.upgrade()?, inside(path)))
}

/// A path on its medium: without the number in front.
pub(super) fn inside(path: &Path) -> PathBuf {
    Path::new("/").join(path.components().skip(2).collect::<PathBuf>())
}
