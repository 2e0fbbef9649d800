//! A file's bytes in pages that copies share until one of them writes. It knows nothing of what was synced.

use std::sync::Arc;

/// What copies share or do not share, in bytes; SQLite's page, too, so that few writes cross one.
const PAGE_BYTES: usize = 4_096;

type Page = [u8; PAGE_BYTES];

/// A file's bytes. A page that nobody has written is zeros, beyond the end too.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Option<Arc<Page>>>,
    bytes: u64,
}

/// The page of an offset, and where in it.
fn place(at: u64) -> (usize, usize) {
    let page = PAGE_BYTES as u64;
    (usize::try_from(at / page).unwrap_or(usize::MAX), (at % page) as usize)
}

impl Content {
    /// The file's size, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// Reads into `out` as much as there is, and says how much that was.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> usize {
        let there = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(out.len());
        let mut done = 0;
        while done < there {
            let (page, offset) = place(at + done as u64);
            let count = (PAGE_BYTES - offset).min(there - done);
            let to = &mut out[done..done + count];
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => to.copy_from_slice(&bytes[offset..offset + count]),
                None => to.fill(0),
            }
            done += count;
        }
        there
    }

    /// Writes; what lies between the end and `at` becomes zeros.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, offset) = place(at + done as u64);
            let count = (PAGE_BYTES - offset).min(bytes.len() - done);
            if self.pages.len() <= page {
                self.pages.resize(page + 1, None);
            }
            let shared = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(shared)[offset..offset + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
        self.bytes = self.bytes.max(at + bytes.len() as u64);
    }

    /// Cuts the file, or makes it longer by zeros.
    pub(super) fn set_len(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let (page, offset) = place(bytes);
            self.pages.truncate(if offset == 0 { page } else { page + 1 });
            if offset > 0
                && let Some(Some(last)) = self.pages.get_mut(page)
            {
                Arc::make_mut(last)[offset..].fill(0);
            }
        }
        self.bytes = bytes;
    }

    /// All bytes.
    #[cfg(test)]
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.bytes).unwrap()];
        self.read(0, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_behaves_as_a_vector_of_bytes() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut content, mut model) = (Content::default(), Vec::<u8>::new());
            for _ in 0..40 {
                let copy = (content.clone(), model.clone());
                if rng.u8(..4) == 0 {
                    let len = rng.usize(..20_000);
                    content.set_len(len as u64);
                    model.resize(len, 0);
                } else {
                    let at = rng.usize(..18_000);
                    let bytes: Vec<u8> = (0..rng.usize(1..6_000)).map(|_| rng.u8(..)).collect();
                    content.write(at as u64, &bytes);
                    model.resize(model.len().max(at + bytes.len()), 0);
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                assert_eq!(content.to_vec(), model, "seed {seed}");
                assert_eq!(copy.0.to_vec(), copy.1, "a copy stays what it was, seed {seed}");
            }
        }
    }
}
