//! Where damaged databases go: one folder each, with what is needed to make sense of it, until what is whole in it has been
//! salvaged and newer ones take the room. It moves files and reads none of their rows.

use super::dir::{DATABASE, DataDir, WAL, create, exists};
use super::files::{Files, Opening};
use super::open::OpenError;
use super::watermark::Reached;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const QUARANTINE: &str = "quarantine";
/// Which lane of the database was which route's.
const LANES: &str = "lanes";
const LANES_NEW: &str = "lanes.new";
const WATERMARK: &str = "watermark";
/// What came of a salvage; once it is there, there is nothing left to be salvaged.
const REPORT: &str = "report.txt";

/// Salvaged databases that are kept for whoever wants to look; of more the oldest goes.
const KEPT_MAX: usize = 4;
/// Databases that may wait to be salvaged. A medium that damages so many in a row is to be replaced, not filled.
const WAITING_MAX: usize = 8;
/// The longest list of lanes, in bytes: a thousand routes with long names.
const LANES_BYTES_MAX: u64 = 1 << 20;

/// A damaged database in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// Its folder's name: the last epoch in which it was written, and which of several.
    pub(super) name: String,
    path: PathBuf,
}

impl Generation {
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.path.join(WAL)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How far the database had come, if that is known.
    pub(super) fn reached(&self, files: &dyn Files) -> Option<Reached> {
        Reached::read(files, &self.path.join(WATERMARK)).ok().flatten()
    }

    /// The route and the upstream of each of its lanes, if that is known.
    pub(super) fn lanes(&self, files: &dyn Files) -> BTreeMap<i64, (String, String)> {
        let text = files.read(&self.path.join(LANES), LANES_BYTES_MAX).unwrap_or_default();
        decode_lanes(&text).unwrap_or_default()
    }

    /// Nothing in it is left to be salvaged: writes down what came of it.
    pub(super) fn finish(&self, files: &dyn Files, report: &str) -> io::Result<()> {
        let mut file = files.open(&self.path.join(REPORT), Opening::Emptied)?;
        file.write_all(report.as_bytes())?;
        file.sync()?;
        files.sync_dir(&self.path)
    }

    fn is_finished(&self, files: &dyn Files) -> bool {
        // A power cut may have left the name without the text.
        files.read(&self.path.join(REPORT), 1).is_ok_and(|text| !text.is_empty())
    }

    /// Where it stands among the others: by epoch, then by number.
    fn age(&self) -> (u64, u64) {
        let (epoch, again) = self.name.split_once('-').unwrap_or((&self.name, "1"));
        (epoch.parse().unwrap_or(0), again.parse().unwrap_or(0))
    }
}

fn encode_lanes<'a>(lanes: impl Iterator<Item = (i64, &'a str, &'a str)>) -> Vec<u8> {
    let mut text: String =
        lanes.map(|(id, route, upstream)| format!("{id}\t{route}\t{upstream}\n")).collect();
    text.push_str(&format!("{:08x}\n", crc32fast::hash(text.as_bytes())));
    text.into_bytes()
}

fn decode_lanes(bytes: &[u8]) -> Option<BTreeMap<i64, (String, String)>> {
    let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    let start = text.rfind('\n').map_or(0, |at| at + 1);
    let (lines, sum) = text.split_at(start);
    (u32::from_str_radix(sum, 16).ok()? == crc32fast::hash(lines.as_bytes())).then_some(())?;
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let id = fields.next()?.parse().ok()?;
        Some((id, (fields.next()?.to_owned(), fields.next()?.to_owned())))
    };
    lines.lines().map(line).collect()
}

impl DataDir {
    /// Where [`Reached`] is written.
    pub(super) fn watermark(&self) -> PathBuf {
        self.path().join(WATERMARK)
    }

    /// Writes down, where it is not written already, which lane is which route's: lost with the database, what is salvaged
    /// would lead nowhere.
    pub(super) fn note_lanes<'a>(
        &self,
        lanes: impl Iterator<Item = (i64, &'a str, &'a str)>,
    ) -> io::Result<()> {
        let text = encode_lanes(lanes);
        let (new, path) = (self.path().join(LANES_NEW), self.path().join(LANES));
        let files = self.files();
        if files.read(&path, LANES_BYTES_MAX).is_ok_and(|there| there == text) {
            return Ok(());
        }
        let mut file = files.open(&new, Opening::Emptied)?;
        file.write_all(&text)?;
        file.sync()?;
        files.rename(&new, &path)?;
        files.sync_dir(self.path())
    }

    /// Moves the database, its WAL and what belongs to it aside. The database itself goes last: until then the next start goes
    /// on with what this one could not finish.
    pub(super) fn quarantine(&self, epoch: u64) -> Result<Generation, OpenError> {
        let files = self.files();
        let parent = self.path().join(QUARANTINE);
        let mut name = epoch.to_string();
        let mut again = 1;
        while exists(files, &parent.join(&name).join(DATABASE)) {
            again += 1;
            name = format!("{epoch}-{again}");
        }
        let path = parent.join(&name);
        let waiting = self.generations().iter().filter(|g| !g.is_finished(files) && g.name != name).count();
        if waiting >= WAITING_MAX {
            return Err(OpenError::QuarantineFull { path: parent });
        }
        let moved = || {
            self.mark_damaged()?;
            create(files, &path)?;
            for name in [LANES, WATERMARK, WAL, "tidegate.db-shm", DATABASE] {
                match files.rename(&self.path().join(name), &path.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                if name == WAL {
                    // A database without its WAL must never be found by SQLite, nor a WAL without its database.
                    files.sync_dir(&path)?;
                }
            }
            files.sync_dir(&path)?;
            files.sync_dir(self.path())?;
            self.unmark_damaged()
        };
        moved().map_err(|source| OpenError::Directory {
            what: "move the damaged database to",
            path: path.clone(),
            source,
        })?;
        Ok(Generation { name, path })
    }

    /// All that were moved aside, the oldest first.
    fn generations(&self) -> Vec<Generation> {
        let parent = self.path().join(QUARANTINE);
        let names = self.files().entries(&parent).unwrap_or_default();
        let names = names.iter().filter_map(|name| name.to_str());
        let mut all: Vec<_> =
            names.map(|name| Generation { name: name.to_owned(), path: parent.join(name) }).collect();
        all.retain(|generation| generation.age().0 > 0 || generation.name == "0");
        all.sort_by_key(Generation::age);
        all
    }

    /// Those in which there may be something left to be salvaged, the oldest first.
    pub(super) fn unsalvaged(&self) -> Vec<Generation> {
        let mut all = self.generations();
        all.retain(|generation| !generation.is_finished(self.files()));
        all
    }

    /// The highest sequence number that any generation before this one had.
    pub(super) fn reached_before(&self, generation: &Generation) -> u64 {
        let before = self.generations().into_iter().take_while(|other| other != generation);
        before.filter_map(|other| other.reached(self.files())).map(|reached| reached.last).max().unwrap_or(0)
    }

    /// Lets go of the oldest of which nothing is left to be salvaged, while there are too many or they take more than `bytes`.
    pub(super) fn bound_quarantine(&self, bytes: u64) -> io::Result<()> {
        let files = self.files();
        let mut finished = self.generations();
        finished.retain(|generation| generation.is_finished(files));
        let size = |generation: &Generation| -> u64 {
            let paths = [generation.database(), generation.wal()];
            paths.iter().filter_map(|path| files.examine(path).ok()?.len().ok()).sum()
        };
        let mut sizes: Vec<_> = finished.iter().map(size).collect();
        sizes.reverse();
        // The newest stays whatever its size.
        while finished.len() > 1 && (finished.len() > KEPT_MAX || sizes.iter().sum::<u64>() > bytes) {
            let oldest = finished.remove(0);
            sizes.pop();
            tracing::info!(
                quarantined = %oldest.path.display(),
                "a salvaged database goes, to make room for newer ones"
            );
            for name in files.entries(&oldest.path)? {
                files.remove(&oldest.path.join(name))?;
            }
            files.remove_dir(&oldest.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{decode_lanes, encode_lanes};

    #[test]
    fn a_list_of_lanes_comes_back_or_is_not_believed() {
        let lanes = [(1, "cloud:#", "cloud"), (7, "a b", "file")];
        let text = encode_lanes(lanes.into_iter());
        let read = decode_lanes(&text).unwrap();
        assert_eq!(read[&7], ("a b".to_owned(), "file".to_owned()));
        assert_eq!(read.len(), 2);
        assert_eq!(decode_lanes(&encode_lanes(std::iter::empty())).unwrap().len(), 0);
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_lanes(&damaged), None, "{at}");
        }
    }
}
