//! Who may come, as which device, and with which rights. Pure: credentials are verified before a request gets here.

use super::peer::Origin;
use crate::event::{Anonymous, Setup};
use crate::id::DeviceId;
use crate::session::acl::Acl;
use crate::topic::Topic;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// As whom a request is served.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) device: DeviceId,
    /// What it may do; `None` for a peer that is nobody in particular, where such peers may come.
    acl: Option<Arc<Acl>>,
}

impl Who {
    pub(super) fn may_publish(&self, topic: &Topic) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_publish(topic))
    }

    pub(super) fn may_receive(&self, topic: &Topic) -> bool {
        self.acl.as_ref().is_none_or(|acl| acl.may_receive(topic))
    }
}

/// The rules.
#[derive(Debug)]
pub(super) struct Access {
    anonymous: Anonymous,
    devices: BTreeMap<DeviceId, Known>,
}

#[derive(Debug)]
struct Known {
    acl: Arc<Acl>,
    has_credentials: bool,
}

impl Access {
    pub(super) fn new(setup: &Setup) -> Self {
        let known = |device: &crate::event::DeviceSetup| {
            let acl = Arc::new(Acl::new(device.publish.clone(), device.subscribe.clone()));
            (device.id.clone(), Known { acl, has_credentials: device.has_credentials() })
        };
        Self { anonymous: setup.anonymous, devices: setup.devices.iter().map(known).collect() }
    }

    /// Whether this peer may come at all.
    pub(super) fn admits(&self, origin: &Origin) -> bool {
        origin.device.is_some() || self.admits_stranger(origin.peer)
    }

    /// Whether somebody who has proved nothing may come from there.
    pub(super) fn admits_stranger(&self, peer: SocketAddr) -> bool {
        match self.anonymous {
            Anonymous::Never => false,
            // A line with no device of its own ends at this host, and has no port.
            Anonymous::Loopback => peer.ip().to_canonical().is_loopback() || peer.port() == 0,
            Anonymous::Everywhere => true,
        }
    }

    /// As whom a request is served whose path names a device: the identity that is proved, else that one. `None` when it has
    /// credentials, and none were shown.
    pub(super) fn who_as(&self, origin: &Origin, named: &DeviceId) -> Option<Who> {
        match &origin.device {
            Some(device) => Some(self.proved(device)),
            None => self.unproven(named.clone()),
        }
    }

    /// As whom any other is served: the identity that is proved, else the one that its topic says, else the address.
    pub(super) fn who(&self, origin: &Origin, topic: Option<&Topic>) -> Who {
        if let Some(device) = &origin.device {
            return self.proved(device);
        }
        let named = topic.and_then(sensor).and_then(|device| self.unproven(device));
        named.unwrap_or_else(|| Who { device: DeviceId::from(origin.peer.ip()), acl: None })
    }

    fn proved(&self, device: &DeviceId) -> Who {
        Who { device: device.clone(), acl: Some(self.rights(device)) }
    }

    fn unproven(&self, device: DeviceId) -> Option<Who> {
        match self.devices.get(&device) {
            Some(known) if known.has_credentials => None,
            Some(known) => Some(Who { acl: Some(Arc::clone(&known.acl)), device }),
            None => Some(Who { device, acl: None }),
        }
    }

    /// Whether a message may still go to somebody who subscribed as this device, proved or not.
    pub(super) fn may_receive(&self, device: &DeviceId, proved: bool, topic: &Topic) -> bool {
        match (self.devices.get(device), proved) {
            (Some(known), true) => known.acl.may_receive(topic),
            (Some(known), false) => !known.has_credentials && known.acl.may_receive(topic),
            (None, true) => Acl::default_of(device).may_receive(topic),
            (None, false) => true,
        }
    }

    fn rights(&self, device: &DeviceId) -> Arc<Acl> {
        let known = self.devices.get(device);
        known.map_or_else(|| Arc::new(Acl::default_of(device)), |known| Arc::clone(&known.acl))
    }
}

/// The device that a topic names.
fn sensor(topic: &Topic) -> Option<DeviceId> {
    let mut levels = topic.levels();
    match (levels.next(), levels.next(), levels.next()) {
        (Some("sensors"), Some(name), _) => DeviceId::new(name).ok(),
        _ => None,
    }
}
