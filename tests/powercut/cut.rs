//! What a power cut leaves. What was synced before it stays; of what was written since, each sector may be there or not, in any
//! order; a file may have grown or not, without its bytes; and what happened to a directory since its last sync may be
//! undone. Bytes beside a torn write stay as they were: that is what Linux's file systems and SQLite's VFS agree on.

use super::medium::{Entry, Event, Image, Inode, Node};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a medium writes whole or not at all, in bytes.
const SECTOR_BYTES: u64 = 512;

/// How a cut treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// All of it is there.
    Kept,
    /// None of it is.
    Dropped,
    /// Whole writes are there or not, now and then only the last ones.
    Parted,
    /// Sectors are there or not, and files may have another size.
    Torn,
}

impl Manner {
    pub(super) const ALL: [Self; 4] = [Self::Kept, Self::Dropped, Self::Parted, Self::Torn];
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, bytes: Arc<[u8]> },
    Resize { bytes: u64 },
}

/// Goes through a record, and keeps apart what is synced and what is not.
#[derive(Clone, Debug, Default)]
pub(super) struct Sweep {
    synced: Image,
    changes: BTreeMap<Inode, Vec<Change>>,
    entries: BTreeMap<PathBuf, Vec<Entry>>,
}

impl Sweep {
    /// The next event of the record. Returns whether what is on the medium may have changed by it.
    pub(super) fn step(&mut self, event: &Event) -> bool {
        match event {
            Event::Write { inode, at, bytes } => {
                let change = Change::Write { at: *at, bytes: bytes.clone() };
                self.changes.entry(*inode).or_default().push(change);
            }
            Event::Resize { inode, bytes } => {
                self.changes.entry(*inode).or_default().push(Change::Resize { bytes: *bytes });
            }
            Event::Sync { inode } => {
                let content = self.synced.contents.entry(*inode).or_default();
                for change in self.changes.remove(inode).into_iter().flatten() {
                    match change {
                        Change::Write { at, bytes } => content.write(at, &bytes),
                        Change::Resize { bytes } => content.set_len(bytes),
                    }
                }
            }
            Event::Entry(entry) => {
                self.entries.entry(entry.dir().to_path_buf()).or_default().push(entry.clone());
            }
            Event::SyncDir { dir } => {
                for entry in self.entries.remove(dir).into_iter().flatten() {
                    entry.apply(&mut self.synced.entries);
                }
            }
            Event::Reborn(image) => {
                *self = Self { synced: (**image).clone(), ..Self::default() };
            }
            Event::Mark(_) => return false,
        }
        true
    }

    /// Whether there is anything that a cut could take.
    pub(super) fn is_unsynced(&self) -> bool {
        !self.changes.is_empty() || !self.entries.is_empty()
    }

    /// What a cut at this moment leaves.
    pub(super) fn cut(&self, manner: Manner, rng: &mut Rng) -> Image {
        let mut image = self.synced.clone();
        if manner != Manner::Dropped {
            self.keep(&mut image, manner, rng);
        }
        // A name may stand without any of its file's bytes; what no name leads to is gone with the process that had it open.
        for node in image.entries.values() {
            if let Node::File(inode) = node {
                image.contents.entry(*inode).or_default();
            }
        }
        image
    }

    /// Puts onto the medium what of the unsynced happens to be there.
    fn keep(&self, image: &mut Image, manner: Manner, rng: &mut Rng) {
        // Of a hundred.
        let chance = if manner == Manner::Kept { 100 } else { *rng.choice(&[10, 50, 90]).unwrap_or(&50) };
        // The last writes may be there and not the first ones.
        let late = manner == Manner::Parted && rng.bool();
        for (inode, changes) in &self.changes {
            let first = if late { rng.usize(..changes.len()) } else { 0 };
            let chance = if late { 100 } else { chance };
            let content = image.contents.entry(*inode).or_default();
            let before = content.len();
            let mut whole = before;
            for change in changes.get(first..).unwrap_or_default() {
                match change {
                    Change::Resize { bytes } => {
                        whole = *bytes;
                        if rng.u8(..100) < chance {
                            content.set_len(*bytes);
                        }
                    }
                    Change::Write { at, bytes } => {
                        whole = whole.max(at + bytes.len() as u64);
                        if manner == Manner::Torn {
                            torn(content, *at, bytes, chance, rng);
                        } else if rng.u8(..100) < chance {
                            content.write(*at, bytes);
                        }
                    }
                }
            }
            if manner == Manner::Torn {
                // The size is written apart from the bytes.
                match rng.u8(..3) {
                    0 => content.set_len(whole),
                    1 if whole > before => content.set_len(before),
                    _ => {}
                }
            }
        }
        for entries in self.entries.values() {
            // A journal keeps what happened up to a moment; other file systems promise no order.
            let upto = if manner == Manner::Kept { entries.len() } else { rng.usize(..=entries.len()) };
            let in_order = manner == Manner::Kept || rng.bool();
            for (index, entry) in entries.iter().enumerate() {
                if if in_order { index < upto } else { rng.u8(..100) < chance } {
                    entry.apply(&mut image.entries);
                }
            }
        }
    }
}

/// Writes the sectors of a write that happen to be there.
fn torn(content: &mut super::content::Content, at: u64, bytes: &[u8], chance: u8, rng: &mut Rng) {
    let mut done = 0;
    while done < bytes.len() {
        let from = at + done as u64;
        let count = ((SECTOR_BYTES - from % SECTOR_BYTES) as usize).min(bytes.len() - done);
        if rng.u8(..100) < chance {
            content.write(from, &bytes[done..done + count]);
        }
        done += count;
    }
}

#[cfg(test)]
mod tests {
    use super::super::medium::{Medium, Synced};
    use super::*;
    use std::path::Path;

    /// Random operations on three files of one directory; the images of cuts keep what was synced.
    #[test]
    fn what_was_synced_stays_and_what_was_not_written_does_not_come() {
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let mut medium = Medium::recording(None, 0);
            medium.entry(Entry::Add { path: "/data".into(), node: Node::Dir }).unwrap();
            medium.sync_dir(Path::new("/")).unwrap();
            // For each byte what it was at the last sync, and since.
            let mut synced: Vec<Vec<u8>> = vec![Vec::new(); 3];
            let mut names_synced = [false; 3];
            let mut seen: Vec<Vec<std::collections::BTreeSet<u8>>> = vec![Vec::new(); 3];
            for _ in 0..40 {
                let file = rng.usize(..3);
                let path = PathBuf::from(format!("/data/{file}"));
                let (inode, _) = medium.open(&path, true).unwrap();
                match rng.u8(..6) {
                    0 => {
                        medium.sync(inode, Synced::Other).unwrap();
                        synced[file] = medium.content(inode).unwrap().to_vec();
                        seen[file] = synced[file].iter().map(|byte| [*byte].into()).collect();
                    }
                    1 => {
                        medium.sync_dir(Path::new("/data")).unwrap();
                        for (file, synced) in names_synced.iter_mut().enumerate() {
                            *synced = medium.node(Path::new(&format!("/data/{file}"))).is_some();
                        }
                    }
                    _ => {
                        let at = rng.usize(..3_000);
                        let bytes = vec![rng.u8(1..); rng.usize(1..2_000)];
                        medium.write(inode, at as u64, &bytes, false).unwrap();
                        let end = at + bytes.len();
                        if seen[file].len() < end {
                            // Zeros, where a file has grown without its bytes.
                            seen[file].resize(end, [0].into());
                        }
                        seen[file][at..end].iter_mut().for_each(|byte| _ = byte.insert(bytes[0]));
                    }
                }
            }
            let mut sweep = Sweep::default();
            medium.events.iter().for_each(|event| _ = sweep.step(event));
            for manner in Manner::ALL {
                let image = sweep.cut(manner, &mut rng);
                for file in 0..3 {
                    let node = image.entries.get(Path::new(&format!("/data/{file}")));
                    let Some(Node::File(inode)) = node else {
                        assert!(!names_synced[file], "a synced name is lost, seed {seed}, {manner:?}");
                        continue;
                    };
                    let found = image.contents[inode].to_vec();
                    assert!(found.len() >= synced[file].len(), "seed {seed}, {manner:?}");
                    for (byte, seen) in found.iter().zip(&seen[file]) {
                        assert!(seen.contains(byte), "seed {seed}, {manner:?}");
                    }
                    match manner {
                        Manner::Dropped => assert_eq!(found, synced[file], "seed {seed}"),
                        Manner::Kept => assert_eq!(found, medium.content(*inode).unwrap().to_vec()),
                        Manner::Parted | Manner::Torn => {}
                    }
                }
            }
        }
    }

    #[test]
    fn a_rename_that_is_not_synced_may_be_lost_and_never_loses_the_old_file() {
        let mut medium = Medium::recording(None, 0);
        medium.entry(Entry::Add { path: "/data".into(), node: Node::Dir }).unwrap();
        medium.sync_dir(Path::new("/")).unwrap();
        let write = |medium: &mut Medium, name: &str, text: &[u8]| {
            let (inode, _) = medium.open(Path::new(name), true).unwrap();
            medium.write(inode, 0, text, false).unwrap();
            medium.sync(inode, Synced::Other).unwrap();
            inode
        };
        write(&mut medium, "/data/epoch", b"old");
        medium.sync_dir(Path::new("/data")).unwrap();
        let new = write(&mut medium, "/data/epoch.new", b"new");
        let (from, to) = ("/data/epoch.new".into(), "/data/epoch".into());
        medium.entry(Entry::Rename { from, to, node: Node::File(new) }).unwrap();
        let mut sweep = Sweep::default();
        medium.events.iter().for_each(|event| _ = sweep.step(event));
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let image = sweep.cut(Manner::Torn, &mut Rng::with_seed(seed));
            let Some(Node::File(inode)) = image.entries.get(Path::new("/data/epoch")) else {
                panic!("the epoch file is lost")
            };
            found.insert(image.contents[inode].to_vec());
        }
        assert_eq!(found, [b"old".to_vec(), b"new".to_vec()].into());
    }
}
