//! Who a client is: what its certificate, its user name and password, or its address say, and which names are its own.
//! Pure state: verifies nothing itself (that is slow, and the shell's), knows no packets, and tells the client nothing.
//!
//! A device's clients are called like the device, or the device's id, `@` and anything: no other identity may use those names, so
//! that nobody takes over another's session. Ids of configured devices have no `@` for that reason.
//!
//! Guessing is slowed down by address and, where the secret is a password that somebody chose, by device. A device at an address
//! where it has signed in before is held to neither: guesses from elsewhere do not lock it out, nor do its neighbours'.

use super::acl::Acl;
use super::certificates::Certificates;
use super::guessing::{Addresses, Failures, place};
use crate::event::{Anonymous, DeviceSetup, Peer, Proof, Secret, Setup};
use crate::id::{CLIENT_SEPARATOR, ConnId, DeviceId};
use crate::limits::Limits;
use crate::time::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses remembered at which a device has signed in.
const KNOWN_ADDRESSES: usize = 4;

/// As whom a client is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The configured device; `None` for a client that is nobody in particular.
    pub(super) device: Option<DeviceId>,
    pub(super) proof: Proof,
    /// What its password was verified against.
    secret: Option<Arc<Secret>>,
}

impl Identity {
    /// A client that is nobody in particular, and needed no proof.
    pub(super) const NOBODY: &'static Self = &Self { device: None, proof: Proof::None, secret: None };
}

/// What is remembered of whose a session is. Its client identifier says the rest: it begins with the device's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A client's that is nobody in particular.
    Nobody,
    /// A configured device's.
    Device,
    /// A device's that showed a certificate when it came last: it need not be configured.
    Certified,
}

/// Whose a session is, and its rights; without a device it is the client's own, and may do everything.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) device: Option<(DeviceId, Arc<Acl>)>,
}

/// What a client says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    pub(super) peer: &'a Peer,
    pub(super) client: &'a str,
    pub(super) username: Option<&'a str>,
    pub(super) password: Option<&'a [u8]>,
}

/// What is to be done with a claim.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is right.
    Granted(Identity),
    /// Its password is to be verified against this; the answer goes to [`Auth::verified`].
    Verify(Arc<Secret>),
    /// It is wrong, for this reason, which the client is not told.
    Refused(&'static str),
    /// Too many passwords are being verified.
    Busy,
}

/// A configured device.
#[derive(Debug)]
struct Device {
    acl: Arc<Acl>,
    secret: Option<Arc<Secret>>,
    has_credentials: bool,
    /// Where it has signed in with its password, the last first.
    known: [Option<IpAddr>; KNOWN_ADDRESSES],
    /// Wrong passwords from elsewhere, and from there; counted if verifying is slow.
    failures: Failures,
    known_failures: Failures,
}

impl Device {
    fn new(setup: &DeviceSetup) -> Self {
        Self {
            acl: Arc::new(Acl::new(setup.publish.clone(), setup.subscribe.clone())),
            secret: setup.secret.clone(),
            has_credentials: setup.has_credentials(),
            known: [None; KNOWN_ADDRESSES],
            failures: Failures::default(),
            known_failures: Failures::default(),
        }
    }

    fn knows(&self, address: IpAddr) -> bool {
        self.known.contains(&Some(address))
    }

    fn signed_in_at(&mut self, address: IpAddr) {
        let place =
            self.known.iter().position(|known| *known == Some(address)).unwrap_or(KNOWN_ADDRESSES - 1);
        self.known[..=place].rotate_right(1);
        self.known[0] = Some(address);
        self.known_failures = Failures::default();
    }
}

/// A password that is being verified.
#[derive(Debug)]
struct Pending {
    device: DeviceId,
    secret: Arc<Secret>,
    address: IpAddr,
    /// The device had signed in there before.
    known: bool,
}

/// The name of the device that a client identifier would belong to.
fn device_name(client: &str) -> &str {
    client.split_once(CLIENT_SEPARATOR).map_or(client, |(name, _)| name)
}

/// All identities.
#[derive(Debug)]
pub(super) struct Auth {
    anonymous: Anonymous,
    devices: BTreeMap<DeviceId, Device>,
    certificates: Certificates,
    addresses: Addresses,
    pending: BTreeMap<ConnId, Pending>,
}

impl Auth {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut auth = Self {
            anonymous: setup.anonymous,
            devices: BTreeMap::new(),
            certificates: Certificates::default(),
            addresses: Addresses::default(),
            pending: BTreeMap::new(),
        };
        auth.configure(setup);
        auth
    }

    /// Takes over a configuration; what is known of the guesses at a device stays.
    pub(super) fn configure(&mut self, setup: &Setup) {
        self.anonymous = setup.anonymous;
        let mut before = std::mem::take(&mut self.devices);
        let devices = setup.devices.iter().map(|device| {
            let mut new = Device::new(device);
            if let Some(old) = before.remove(&device.id) {
                (new.known, new.failures, new.known_failures) = (old.known, old.failures, old.known_failures);
            }
            (device.id.clone(), new)
        });
        // Made at once its nodes are full; one by one, in order, each is left half empty.
        self.devices = devices.collect();
        self.certificates = Certificates::new(&setup.devices);
    }

    /// The configured device that a client identifier belongs to, and its rights.
    pub(super) fn owner(&self, client: &str) -> Option<(DeviceId, Arc<Acl>)> {
        self.find_owner(client).map(|(id, device)| (id.clone(), Arc::clone(&device.acl)))
    }

    fn find_owner(&self, client: &str) -> Option<(&DeviceId, &Device)> {
        self.devices.get_key_value(device_name(client))
    }

    /// Whose a session is that somebody with this identity has.
    pub(super) fn holder(&self, identity: &Identity) -> Holder {
        let owner = match (&identity.device, identity.proof) {
            (None, _) => Owner::Nobody,
            (Some(_), Proof::Certificate) => Owner::Certified,
            (Some(_), _) => Owner::Device,
        };
        let device = identity.device.as_ref().map(|device| (device.clone(), self.rights(device)));
        Holder { owner, device }
    }

    /// Whose a client's session is now that was an owner's before, if it may go on. A name that has become a device's is the
    /// device's with everything under it. Of an owner that is not known (the records of older gateways do not say) the best
    /// is assumed that the configuration allows.
    ///
    /// # Errors
    /// Why the session must end, for the operator.
    pub(super) fn judge(&self, client: &str, owner: Option<Owner>) -> Result<Holder, &'static str> {
        let closed = self.anonymous == Anonymous::Never;
        match (self.owner(client), owner) {
            (Some(device), Some(owner @ Owner::Certified)) => Ok(Holder { owner, device: Some(device) }),
            (Some(device), _) => Ok(Holder { owner: Owner::Device, device: Some(device) }),
            (None, Some(Owner::Device)) => Err("its device is not configured any more"),
            (None, owner) if owner == Some(Owner::Certified) || owner.is_none() && closed => {
                let device =
                    DeviceId::new(device_name(client)).map_err(|_| "its name cannot be a device's")?;
                let acl = self.rights(&device);
                Ok(Holder { owner: Owner::Certified, device: Some((device, acl)) })
            }
            (None, _) if closed => Err("no client may come without credentials any more (access.anonymous)"),
            (None, _) => Ok(Holder { owner: Owner::Nobody, device: None }),
        }
    }

    /// Whether this peer may come without credentials.
    fn allows(&self, peer: &Peer) -> bool {
        match self.anonymous {
            Anonymous::Never => false,
            Anonymous::Loopback => peer.address.ip().to_canonical().is_loopback(),
            Anonymous::Everywhere => true,
        }
    }

    /// What a device may do.
    pub(super) fn rights(&self, device: &DeviceId) -> Arc<Acl> {
        let known = self.devices.get(device);
        known.map_or_else(|| Arc::new(Acl::default_of(device)), |device| Arc::clone(&device.acl))
    }

    /// Looks at a client's claim.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        conn: ConnId,
        claim: &Claim<'_>,
        limits: &Limits,
    ) -> Verdict {
        if let Some(device) = claim.peer.certificate.as_deref().and_then(|one| self.certificates.device(one))
        {
            return match claim.username {
                Some(name) if name != device.as_str() => {
                    Verdict::Refused("its certificate and its user name are of different devices")
                }
                _ => Verdict::Granted(Identity {
                    device: Some(device),
                    proof: Proof::Certificate,
                    secret: None,
                }),
            };
        }
        // While no device is configured, user names mean nothing.
        if self.devices.is_empty() || claim.username.is_none() && claim.password.is_none() {
            return self.unproven(claim);
        }
        let address = place(claim.peer.address.ip());
        match self.look_up(now, claim, address) {
            Ok((device, secret)) => {
                let known = self.devices.get(&device).is_some_and(|device| device.knows(address));
                if secret.slow {
                    // Guesses from elsewhere do not keep a device waiting where it has been before.
                    let slow = self.pending.values().filter(|one| one.secret.slow && one.known == known);
                    let own = slow.clone().filter(|pending| pending.device == device);
                    if own.count() >= limits.verifications_per_device || slow.count() >= limits.verifications
                    {
                        return Verdict::Busy;
                    }
                }
                self.pending.insert(conn, Pending { device, secret: Arc::clone(&secret), address, known });
                Verdict::Verify(secret)
            }
            Err(reason) => {
                self.addresses.failed(now, address, limits);
                Verdict::Refused(reason)
            }
        }
    }

    /// A client without credentials: where that is allowed, under every name that is not a device's with credentials.
    fn unproven(&self, claim: &Claim<'_>) -> Verdict {
        if !self.allows(claim.peer) {
            return Verdict::Refused("this peer may not connect without credentials");
        }
        let owner = self.find_owner(claim.client);
        if owner.is_some_and(|(_, device)| device.has_credentials) {
            return Verdict::Refused(
                "its client identifier is a device's that has credentials, and it showed none",
            );
        }
        let device = owner.map(|(id, _)| id.clone());
        Verdict::Granted(Identity { device, proof: Proof::None, secret: None })
    }

    /// The device of a user name, and what its password is to be verified against.
    fn look_up(
        &self,
        now: Instant,
        claim: &Claim<'_>,
        address: IpAddr,
    ) -> Result<(DeviceId, Arc<Secret>), &'static str> {
        let Some((id, device)) = claim.username.and_then(|name| self.devices.get_key_value(name)) else {
            return Err("its user name is not a device's");
        };
        let Some(secret) = &device.secret else { return Err("this device has no password") };
        if claim.password.is_none_or(<[u8]>::is_empty) {
            return Err("it sent no password");
        }
        let waits = if device.knows(address) {
            secret.slow && device.known_failures.waits(now)
        } else {
            self.addresses.waits(now, address) || secret.slow && device.failures.waits(now)
        };
        if waits {
            return Err("too many wrong passwords came before; it must wait");
        }
        Ok((id.clone(), Arc::clone(secret)))
    }

    /// A password was verified; nothing when nobody had asked.
    pub(super) fn verified(
        &mut self,
        now: Instant,
        conn: ConnId,
        genuine: bool,
        limits: &Limits,
    ) -> Option<Result<Identity, &'static str>> {
        let Pending { device: id, secret, address, .. } = self.pending.remove(&conn)?;
        let device = self.devices.get_mut(&id).filter(|device| device.secret.as_ref() == Some(&secret));
        let Some(device) = device else { return Some(Err("its password was changed meanwhile")) };
        if genuine {
            device.signed_in_at(address);
            return Some(Ok(Identity { device: Some(id), proof: Proof::Password, secret: Some(secret) }));
        }
        let known = device.knows(address);
        if secret.slow {
            let (failures, longest) = if known {
                (&mut device.known_failures, limits.guess_wait_known_max)
            } else {
                (&mut device.failures, limits.guess_wait_max)
            };
            failures.count(now, longest, limits);
        }
        self.addresses.failed(now, address, limits);
        Some(Err("wrong password"))
    }

    /// Whether somebody who was let in would be let in still.
    pub(super) fn still_allows(&self, peer: &Peer, client: &DeviceId, identity: &Identity) -> bool {
        let owner = self.find_owner(client.as_str());
        if identity.proof != Proof::Certificate && owner.map(|(id, _)| id) != identity.device.as_ref() {
            return false;
        }
        match identity.proof {
            Proof::None => self.allows(peer) && !owner.is_some_and(|(_, device)| device.has_credentials),
            Proof::Password => owner.is_some_and(|(_, device)| device.secret == identity.secret),
            Proof::Certificate => {
                let certified = peer.certificate.as_deref().and_then(|one| self.certificates.device(one));
                certified.is_some() && certified == identity.device
            }
            // No MQTT client proves itself so.
            Proof::Oscore => false,
        }
    }

    /// Whether somebody with this identity may use a client identifier.
    pub(super) fn owns(identity: &Identity, client: &str) -> bool {
        let Some(device) = &identity.device else { return true };
        client
            .strip_prefix(device.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(CLIENT_SEPARATOR))
    }
}
