//! `[device.ID]`, in the configuration itself and in the files that `gateway.devices` names: who a device is and what it may do.
//! Every file has its own report, so that each mistake is shown where it stands.

use super::certificates::Surroundings;
use super::environment::Environment;
use super::mistake::quoted;
use super::read::{Report, Section};
use super::value::{self, Wrong, wrong};
use super::{document, oscore, psk, schema};
use crate::access::hexadecimal;
use crate::access::password::{self, HashError};
use crate::listen::dtls::PresharedKey;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate_engine::event::DeviceSetup;
use tidegate_engine::id::{CLIENT_SEPARATOR, DeviceId, MAX_CONFIGURED_ID_BYTES};
use tidegate_engine::limits::Limits;
use tidegate_engine::session::acl::Acl;
use tidegate_engine::topic::Filter;
use toml::de::DeValue;

/// Devices in all: more than one gateway can serve.
const DEVICES: usize = 20_000;
/// The largest file of devices that is read, in bytes: some hundred devices.
const FILE_BYTES: u64 = 64 << 10;
/// Filters of one list: more cost time with every message.
const FILTERS: usize = 32;

/// The devices found so far, each with where it was found, in words.
struct Found<'a> {
    base: &'a Path,
    environment: &'a Environment,
    limits: &'a Limits,
    /// Some listener asks devices for a certificate.
    certified: bool,
    devices: BTreeMap<DeviceId, (DeviceSetup, String)>,
    certificates: BTreeMap<[u8; 32], DeviceId>,
    contexts: oscore::Contexts,
    /// By identity.
    keys: BTreeMap<Vec<u8>, PresharedKey>,
}

/// Reads every device, in the order of their ids, and the pre-shared keys of those that have one.
pub(super) fn devices(
    root: &Section<'_>,
    Surroundings { base, environment }: Surroundings<'_>,
    limits: &Limits,
    certified: bool,
) -> (Vec<DeviceSetup>, Vec<PresharedKey>) {
    let mut found = Found {
        base,
        environment,
        limits,
        certified,
        devices: BTreeMap::new(),
        certificates: BTreeMap::new(),
        contexts: oscore::Contexts::default(),
        keys: BTreeMap::new(),
    };
    found.read(root, "in the configuration itself");
    let gateway = root.section(&schema::GATEWAY);
    if let Some(files) = gateway.get("devices", |value| pattern(value, base)) {
        let span = files.span();
        for file in files.into_inner() {
            if found.devices.len() > DEVICES {
                break;
            }
            match read(&file) {
                Ok(source) => {
                    let report = Report::new(Some(&file), &source);
                    if let Some(document) = document(&report, &source) {
                        let (table, span) = (document.get_ref(), document.span());
                        let inside = Section::new(
                            &report,
                            &schema::DEVICE_FILE,
                            String::new(),
                            Some(table),
                            Some(span),
                        );
                        found.read(&inside, &format!("in {}", file.display()));
                    }
                    root.report.append(report);
                }
                Err(Wrong { what, right }) => root.report.error(Some(span.clone()), what, right),
            }
        }
    }
    if found.devices.len() > DEVICES {
        root.report.error(None, "there are too many devices", format!("configure {DEVICES} at the most"));
    }
    (found.devices.into_values().map(|(device, _)| device).collect(), found.keys.into_values().collect())
}

/// The files that `DIRECTORY/*.toml` stands for, by name.
fn pattern(value: &DeValue<'_>, base: &Path) -> Result<Vec<PathBuf>, Wrong> {
    let text = value::name(value)?;
    let pattern = base.join(&text);
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return wrong("this names no files", "write it like \"devices/*.toml\"");
    };
    if folder.to_string_lossy().contains('*') || name.matches('*').count() > 1 {
        return wrong("`*` can stand once, in the name of the files", "write it like \"devices/*.toml\"");
    }
    let Some((front, back)) = name.split_once('*') else { return Ok(vec![pattern]) };
    let unreadable = |error: std::io::Error| Wrong {
        what: format!("{} cannot be read: {error}", folder.display()),
        right: "make the folder, or mend the path; without devices leave the key out".to_owned(),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let matches = entry.file_name().to_str().is_some_and(|name| {
            name.len() >= front.len() + back.len()
                && name.starts_with(front)
                && name.ends_with(back)
                // As a shell does it: editors and package managers leave hidden files behind.
                && (!name.starts_with('.') || front.starts_with('.'))
        });
        if matches {
            files.push(entry.path());
        }
        if files.len() > DEVICES {
            return wrong("these are too many files", format!("keep {DEVICES} devices at the most"));
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, Wrong> {
    let shown = file.display();
    let refused = |error: &dyn std::fmt::Display| {
        wrong(format!("{shown} cannot be read: {error}"), "let the gateway's user read it, or take it away")
    };
    match std::fs::metadata(file) {
        Err(error) => return refused(&error),
        // Opening a named pipe would wait for its writer.
        Ok(metadata) if !metadata.is_file() => return refused(&"it is not a file"),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file);
    if let Err(error) = opened.and_then(|file| file.take(FILE_BYTES + 1).read_to_end(&mut bytes)) {
        return refused(&error);
    }
    if bytes.len() as u64 > FILE_BYTES {
        return wrong(format!("{shown} is too large"), "write 64 KiB at the most, one device a file");
    }
    String::from_utf8(bytes).or_else(|_| wrong(format!("{shown} is not UTF-8"), "save it as UTF-8 text"))
}

impl Found<'_> {
    fn read(&mut self, section: &Section<'_>, place: &str) {
        for (name, span, table) in section.named("device") {
            let path = format!("device.{name}");
            let inside = Section::new(section.report, &schema::DEVICE, path, Some(table), Some(span.clone()));
            let id = match id(name) {
                Ok(id) => id,
                Err(Wrong { what, right }) => {
                    section.report.error(Some(span), what, right);
                    continue;
                }
            };
            let device = self.device(&inside, id.clone());
            if let Some((_, other)) = self.devices.get(&id) {
                section.report.error(
                    Some(span),
                    format!("{} is configured twice; it also stands {other}", quoted(name)),
                    "take one of them away",
                );
                continue;
            }
            self.devices.insert(id, (device, place.to_owned()));
        }
    }

    fn device(&mut self, section: &Section<'_>, id: DeviceId) -> DeviceSetup {
        let filters = |key, default: Option<Filter>, publish: bool| {
            let limits = self.limits;
            let read = |value: &DeValue<'_>| filter(value, &id, limits, publish);
            match section.list(key, FILTERS, read) {
                Some(written) => written.into_iter().map(toml::Spanned::into_inner).collect(),
                None => default.into_iter().collect(),
            }
        };
        let publish = filters("publish", Acl::default_publish(&id), true);
        let subscribe = filters("subscribe", Acl::default_subscribe(&id), false);
        let secret = section.get("password_hash", hash).map(toml::Spanned::into_inner).map(Arc::new);
        let certificate = section.get("certificate", fingerprint);
        if let Some(written) = &certificate
            && let Some(other) = self.certificates.insert(*written.get_ref(), id.clone())
        {
            section.report.error(
                Some(written.span()),
                format!("this certificate is {}'s as well", quoted(other.as_str())),
                "give every device a certificate of its own",
            );
        }
        if let Some(written) = &certificate
            && !self.certified
        {
            section.report.warning(
                Some(written.span()),
                "no listener asks devices for a certificate: this one lets nobody in",
                "set `client_ca` under [mqtt.tls] or [mqtt.websocket.tls], or take the certificate out",
            );
        }
        let certificate = certificate.map(toml::Spanned::into_inner);
        let oscore = oscore::context(
            &section.section(&schema::DEVICE_OSCORE),
            &id,
            &mut self.contexts,
            self.base,
            self.environment,
        );
        let mut psk = false;
        if let Some(psk::Written { key, identity, span }) = psk::psk(section) {
            let identity = identity.unwrap_or_else(|| id.as_str().as_bytes().to_vec());
            psk = true;
            let key = PresharedKey { device: id.clone(), identity: identity.clone(), key };
            if let Some(other) = self.keys.insert(identity, key) {
                section.report.error(
                    Some(span),
                    format!("this PSK identity is {}'s as well", quoted(other.device.as_str())),
                    "give every device an identity of its own (`psk_identity`)",
                );
            }
        }
        DeviceSetup { id, publish, subscribe, secret, certificate, oscore, psk }
    }
}

/// The id of a configured device.
pub(super) fn id(name: &str) -> Result<DeviceId, Wrong> {
    let refused = |right: String| wrong(format!("{} cannot be a device's id", quoted(name)), right);
    match DeviceId::new(name) {
        Err(error) => refused(format!("{error}, like \"boiler-3\"")),
        Ok(_) if name.contains(CLIENT_SEPARATOR) => refused(format!(
            "leave out the `{CLIENT_SEPARATOR}`: it stands between a device's id and the rest of its clients' identifiers"
        )),
        Ok(id) if id.as_str().len() > MAX_CONFIGURED_ID_BYTES => {
            refused(format!("use {MAX_CONFIGURED_ID_BYTES} bytes at the most"))
        }
        Ok(id) => Ok(id),
    }
}

/// A topic filter in which `{device}` stands for the device's id.
fn filter(value: &DeValue<'_>, id: &DeviceId, limits: &Limits, publish: bool) -> Result<Filter, Wrong> {
    let text = value::text(value)?.replace("{device}", id.as_str());
    if text.contains(['{', '}']) {
        return wrong(format!("{} has braces", quoted(&text)), "`{device}` is all that is filled in here");
    }
    let filter = match Filter::new(&text) {
        Ok(filter) => filter,
        Err(error) => {
            return wrong(format!("{} is not a topic filter", quoted(&text)), format!("{error}"));
        }
    };
    if text.len() > limits.topic_bytes || filter.levels().count() > limits.topic_levels {
        return wrong(
            format!("{} is longer than any topic here", quoted(&text)),
            format!("use {} bytes and {} levels at the most", limits.topic_bytes, limits.topic_levels),
        );
    }
    if publish && text.starts_with('$') {
        return wrong(
            format!("{} is not for devices to publish", quoted(&text)),
            "topics that begin with `$` are the gateway's own; take it away",
        );
    }
    if text.starts_with("$share/") {
        return wrong(
            format!("{} is a shared subscription", quoted(&text)),
            "write the filter without `$share/GROUP/`; it holds for shared subscriptions as well",
        );
    }
    Ok(filter)
}

fn hash(value: &DeValue<'_>) -> Result<tidegate_engine::event::Secret, Wrong> {
    let text = value::text(value)?;
    password::parse(&text).or_else(|error| {
        let right = match error {
            HashError::TooExpensive => "make one with less, for example m=19456,t=2,p=1",
            _ => {
                "`tidegate device add ID` makes a token and its hash; for a password that somebody chose, write its Argon2id hash \
                 (\"$argon2id$v=19$…\")"
            }
        };
        wrong(error.to_string(), right)
    })
}

/// SHA-256 in hexadecimal digits, as openssl shows it, with or without colons.
fn fingerprint(value: &DeValue<'_>) -> Result<[u8; 32], Wrong> {
    let text = value::text(value)?;
    match hexadecimal::bytes(&text.replace(':', "")).map(TryInto::try_into) {
        Some(Ok(fingerprint)) => Ok(fingerprint),
        _ => wrong(
            format!("{} is not the SHA-256 fingerprint of a certificate", quoted(&text)),
            "write the 64 hexadecimal digits that `openssl x509 -in FILE -noout -fingerprint -sha256` shows",
        ),
    }
}
