//! Zstandard (RFC 8878) for bodies of batches, and its dictionaries. Keeps its working memory from one body to the next; knows nothing of
//! what is in them.

use std::collections::HashMap;
use std::sync::Arc;
use tidegate_engine::event::{Compression, Packing};
use tidegate_engine::id::LaneId;
use zstd::zstd_safe::{CCtx, CDict, compress_bound, get_dict_id_from_dict};

/// Zstandard's own default. Higher levels need megabytes of memory and take a few percent off bodies of this size.
const LEVEL: i32 = 3;

/// A compressed body.
pub(crate) struct Compressed {
    pub(crate) bytes: Vec<u8>,
    /// The dictionary that it was made with.
    pub(crate) dictionary: Option<u32>,
}

/// Compresses one body after the other.
#[derive(Default)]
pub(crate) struct Compressor {
    /// Made when it is first needed: some hundred kilobytes.
    context: Option<CCtx<'static>>,
    /// The dictionaries in use, ready: at most one a lane.
    dictionaries: HashMap<LaneId, (Arc<Packing>, Option<CDict<'static>>)>,
}

impl Compressor {
    /// Compresses the body of a lane's batch as its route asks for; nothing when it does not, or when that makes it no shorter.
    pub(crate) fn compress(
        &mut self,
        lane: LaneId,
        packing: &Arc<Packing>,
        body: &[u8],
    ) -> Option<Compressed> {
        let Compression::Zstd(dictionary) = packing.compression.as_ref()?;
        if self.context.is_none() {
            self.context = CCtx::try_create(); // Without memory for it bodies stay as they are.
        }
        let context = self.context.as_mut()?;
        let mut bytes = Vec::with_capacity(compress_bound(body.len()));
        let Some(dictionary) = dictionary else {
            context.compress(&mut bytes, body, LEVEL).ok()?;
            return (bytes.len() < body.len()).then_some(Compressed { bytes, dictionary: None });
        };
        let ready = self.dictionaries.get(&lane).is_some_and(|(of, _)| Arc::ptr_eq(of, packing));
        if !ready {
            let made = CDict::try_create(&dictionary.bytes, LEVEL);
            self.dictionaries.insert(lane, (Arc::clone(packing), made));
        }
        let (_, made) = self.dictionaries.get(&lane)?;
        context.compress_using_cdict(&mut bytes, body, made.as_ref()?).ok()?;
        (bytes.len() < body.len()).then_some(Compressed { bytes, dictionary: Some(dictionary.id) })
    }
}

/// The number of a dictionary that zstd has trained; nothing when it is none.
pub(crate) fn dictionary_id(dictionary: &[u8]) -> Option<u32> {
    let id = get_dict_id_from_dict(dictionary)?;
    CDict::try_create(dictionary, LEVEL).map(|_| id.get())
}

/// Trains a dictionary of at most so many bytes on samples of what will be compressed.
///
/// # Errors
/// In words, when the samples are too few or too short.
pub(crate) fn train(samples: &[Vec<u8>], most_bytes: usize) -> Result<Vec<u8>, String> {
    zstd::dict::from_samples(samples, most_bytes).map_err(|error| error.to_string())
}
