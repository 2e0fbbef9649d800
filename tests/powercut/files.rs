//! The store's own file operations on the medium in memory. It records nothing itself: the medium does.

use super::medium::{Entry, Inode, Mount, Node, Synced, inside};
use super::vfs;
use std::ffi::OsString;
use std::fs::TryLockError;
use std::io;
use std::path::Path;
use tidegate::store::sqlite::files::{Files, OpenFile, Opening, ReadFile};

/// The medium as the store sees it.
#[derive(Debug)]
pub(super) struct OnMedium(pub(super) Mount);

impl Files for OnMedium {
    fn vfs(&self) -> Option<&'static str> {
        Some(vfs::NAME)
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        let path = inside(path);
        match self.0.lock().node(&path) {
            Some(node) => Ok(node == Node::Dir),
            None if path == Path::new("/") => Ok(true),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn entries(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let dir = inside(dir);
        let medium = self.0.lock();
        let inside = medium.image.entries.keys().filter(|path| path.parent() == Some(&dir));
        Ok(inside.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().entry(Entry::Add { path: inside(path), node: Node::Dir })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().sync_dir(&inside(path))
    }

    fn open(&self, path: &Path, how: Opening) -> io::Result<Box<dyn OpenFile>> {
        let mut medium = self.0.lock();
        let (inode, new) = medium.open(&inside(path), how != Opening::Existing)?;
        if how == Opening::Emptied && !new {
            medium.set_len(inode, 0)?;
        }
        Ok(Box::new(Opened { mount: self.0.clone(), inode, at: 0 }))
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let medium = self.0.lock();
        let Some(Node::File(inode)) = medium.node(&inside(path)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let content = medium.content(inode).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(content.len().min(most)).unwrap_or(usize::MAX)];
        content.read(0, &mut bytes);
        Ok(bytes)
    }

    fn examine(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let Some(Node::File(inode)) = self.0.lock().node(&inside(path)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        Ok(Box::new(Examined { mount: self.0.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (inside(from), inside(to));
        let mut medium = self.0.lock();
        let node = medium.node(&from).ok_or(io::ErrorKind::NotFound)?;
        medium.entry(Entry::Rename { from, to, node })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = inside(path);
        let mut medium = self.0.lock();
        medium.node(&path).ok_or(io::ErrorKind::NotFound)?;
        medium.entry(Entry::Remove { path })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if self.entries(path)?.is_empty() {
            self.remove(path)
        } else {
            Err(io::ErrorKind::DirectoryNotEmpty.into())
        }
    }

    fn random(&self) -> io::Result<[u8; 4]> {
        Ok(self.0.lock().random())
    }
}

/// A file that is open for reading.
#[derive(Debug)]
struct Examined {
    mount: Mount,
    inode: Inode,
}

impl ReadFile for Examined {
    fn len(&self) -> io::Result<u64> {
        Ok(self.mount.lock().content(self.inode).ok_or(io::ErrorKind::NotFound)?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.mount.lock().content(self.inode).ok_or(io::ErrorKind::NotFound)?.read(at, into))
    }
}

/// An open file.
#[derive(Debug)]
struct Opened {
    mount: Mount,
    inode: Inode,
    at: u64,
}

impl OpenFile for Opened {
    fn try_lock(&self) -> Result<(), TryLockError> {
        if self.mount.lock().lock(self.inode) { Ok(()) } else { Err(TryLockError::WouldBlock) }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.mount.lock().set_len(self.inode, bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mount.lock().write(self.inode, self.at, bytes, false)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn rewrite(&self, bytes: &[u8]) -> io::Result<()> {
        self.mount.lock().write(self.inode, 0, bytes, false)
    }

    fn sync(&self) -> io::Result<()> {
        self.mount.lock().sync(self.inode, Synced::Other)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut medium = self.mount.lock();
        let there = medium.content(self.inode).map_or(0, super::content::Content::len);
        if there < bytes { medium.set_len(self.inode, bytes) } else { Ok(()) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.mount.lock().unlock(self.inode);
    }
}
