//! Which device a verified certificate stands for. Verifies nothing itself.

use crate::event::{Certificate, DeviceSetup};
use crate::id::{CLIENT_SEPARATOR, DeviceId, MAX_CONFIGURED_ID_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// The certificates that are configured (`device.ID.certificate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    pinned: BTreeMap<[u8; 32], DeviceId>,
    owners: BTreeSet<DeviceId>,
}

impl Certificates {
    /// Those of these devices.
    #[must_use]
    pub fn new(devices: &[DeviceSetup]) -> Self {
        let pinned: BTreeMap<_, _> =
            devices.iter().filter_map(|of| Some((of.certificate?, of.id.clone()))).collect();
        let owners = pinned.values().cloned().collect();
        Self { pinned, owners }
    }

    /// The device: the one that is configured with this certificate, else the one that it names, which need not be configured.
    /// Whoever signs certificates says with each that there is such a device. `None` when it names none, or one that has another.
    #[must_use]
    pub fn device(&self, certificate: &Certificate) -> Option<DeviceId> {
        if let Some(id) = self.pinned.get(&certificate.fingerprint) {
            return Some(id.clone());
        }
        let id = DeviceId::new(&certificate.name).ok()?;
        let valid = id.as_str().len() <= MAX_CONFIGURED_ID_BYTES && !id.as_str().contains(CLIENT_SEPARATOR);
        (valid && !self.owners.contains(&id)).then_some(id)
    }
}
