//! The devices' pre-shared keys, and which of them the handshake at hand asked for.

use dimpl::PskResolver;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_engine::id::DeviceId;

/// A device's key, and the name by which it calls it (`psk`, `psk_identity`).
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey {
    /// Whose it is.
    pub device: DeviceId,
    /// The PSK identity (RFC 4279, 5.1).
    pub identity: Vec<u8>,
    /// The key itself.
    pub key: Vec<u8>,
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key: this may reach a log.
        f.debug_struct("PresharedKey").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What a handshake asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Known(Arc<PresharedKey>),
    Unknown(Vec<u8>),
}

/// All keys by identity.
#[derive(Debug, Default)]
pub(super) struct Keys {
    by_identity: HashMap<Vec<u8>, Arc<PresharedKey>>,
    asked: Mutex<Option<Asked>>,
}

impl Keys {
    pub(super) fn new(keys: &[PresharedKey]) -> Self {
        let by_identity = keys.iter().map(|key| (key.identity.clone(), Arc::new(key.clone()))).collect();
        Self { by_identity, asked: Mutex::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_identity.is_empty()
    }

    /// Whether this key still is what stands under its identity.
    pub(super) fn has(&self, key: &PresharedKey) -> bool {
        self.by_identity.get(&key.identity).is_some_and(|known| **known == *key)
    }

    /// What was asked for since the last call: one handshake at a time is told anything.
    pub(super) fn take_asked(&self) -> Option<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl PskResolver for Keys {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let found = self.by_identity.get(identity);
        let asked = match found {
            Some(found) => Asked::Known(Arc::clone(found)),
            None => Asked::Unknown(identity.to_vec()),
        };
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        found.map(|found| found.key.clone())
    }
}
