//! `tidegate device`: makes a device's credentials. It changes no file: what it prints goes into the configuration.

use super::Exit;
use crate::access::{hexadecimal, password};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::io::{self, Write};
use tidegate_engine::id::{CLIENT_SEPARATOR, DeviceId, MAX_CONFIGURED_ID_BYTES};

/// A master secret's bytes: as many as the key has that is made from it.
const OSCORE_SECRET_BYTES: usize = 16;
/// Bytes of a device's OSCORE id, which every request carries: enough that some thousand by chance are all different.
const OSCORE_ID_BYTES: usize = 4;

/// A pre-shared key's bytes: as many as the cipher's key has.
const PSK_BYTES: usize = 16;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Device {
    /// Make a token for a device, and the table that belongs into the configuration
    Add {
        /// The device's id: its MQTT user name and client identifier
        #[arg(value_parser = id)]
        id: DeviceId,
        /// Make an OSCORE context (RFC 8613) instead, for a device that speaks CoAP
        #[arg(long)]
        oscore: bool,
        /// Make a pre-shared key for DTLS instead, for a device that speaks CoAP
        #[arg(long, conflicts_with = "oscore")]
        psk: bool,
    },
}

fn id(text: &str) -> Result<DeviceId, String> {
    let id = DeviceId::new(text).map_err(|error| error.to_string())?;
    if text.contains(CLIENT_SEPARATOR) {
        return Err(format!(
            "leave out the {CLIENT_SEPARATOR:?}: it stands between a device's id and its clients' names"
        ));
    }
    if text.len() > MAX_CONFIGURED_ID_BYTES {
        return Err(format!("use {MAX_CONFIGURED_ID_BYTES} bytes at the most"));
    }
    Ok(id)
}

pub(super) fn run(device: &Device, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    let Device::Add { id, oscore, psk } = device;
    let added = match (oscore, psk) {
        (true, _) => add_oscore(id, out, err)?,
        (_, true) => add_psk(id, out, err)?,
        _ => add_token(id, out, err)?,
    };
    if added.is_none() {
        writeln!(err, "error: the kernel gives no random numbers")?;
        return Ok(Exit::Failure);
    }
    Ok(Exit::Well)
}

/// The table's header.
fn header(id: &DeviceId) -> String {
    // Ids may have characters that a bare key must not have (TOML 1.0, keys).
    let bare = id.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let key = if bare { id.to_string() } else { format!("\"{id}\"") };
    format!("[device.{key}]")
}

fn add_token(id: &DeviceId, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Option<()>> {
    let Ok((token, hash)) = password::token() else { return Ok(None) };
    writeln!(out, "{}\npassword_hash = \"{hash}\"", header(id))?;
    writeln!(
        err,
        "# Client: user name {id}, password {token}; it is not kept: hand it to the device now.\n\
         # The table goes into the configuration, or into a file that `gateway.devices` names; then reload the gateway."
    )?;
    Ok(Some(()))
}

fn add_psk(id: &DeviceId, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Option<()>> {
    let mut key = [0; PSK_BYTES];
    if SystemRandom::new().fill(&mut key).is_err() {
        return Ok(None);
    }
    let key = hexadecimal::digits(&key);
    writeln!(out, "{}\npsk = \"{key}\"", header(id))?;
    writeln!(
        err,
        "# Device: PSK identity {id}, key {key} (hexadecimal), TLS_PSK_WITH_AES_128_CCM_8, Extended Master Secret.\n\
         # The table goes into a file that only the gateway may read (chmod 0600) and that `gateway.devices` names; then\n\
         # reload the gateway. [coap.dtls] must be there."
    )?;
    Ok(Some(()))
}

fn add_oscore(id: &DeviceId, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Option<()>> {
    let (mut secret, mut name) = ([0; OSCORE_SECRET_BYTES], [0; OSCORE_ID_BYTES]);
    let random = SystemRandom::new();
    if random.fill(&mut secret).is_err() || random.fill(&mut name).is_err() {
        return Ok(None);
    }
    let (secret, name) = (hexadecimal::digits(&secret), hexadecimal::digits(&name));
    let file = format!("{}.oscore", id.as_str().replace('/', "_"));
    writeln!(out, "{}\noscore = {{ device_id = \"{name}\", secret_file = \"{file}\" }}", header(id))?;
    writeln!(
        err,
        "# Device: master secret {secret} (hexadecimal), no salt, no ID context, sender id {name}, recipient id 01,\n\
         # AES-CCM-16-64-128, HKDF SHA-256. The secret is not kept: hand it to the device now.\n\
         # Gateway: write the secret's digits to {file} beside the configuration (chmod 0600). The table goes into the\n\
         # configuration, or into a file that `gateway.devices` names; then reload the gateway.\n\
         # Should the gateway's data folder ever be lost, make a new secret: which numbers the old one has used is kept there."
    )?;
    Ok(Some(()))
}
