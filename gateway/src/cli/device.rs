//! `tidegate device`: makes a device's credentials. It changes no file: what it prints goes into the configuration.

use super::Exit;
use crate::access::password;
use std::io::{self, Write};
use tidegate_engine::id::{CLIENT_SEPARATOR, DeviceId, MAX_CONFIGURED_ID_BYTES};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Device {
    /// Make a token for a device, and the table that belongs into the configuration
    Add {
        /// The device's id: its MQTT user name and client identifier
        #[arg(value_parser = id)]
        id: DeviceId,
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
    let Device::Add { id } = device;
    let Ok((token, hash)) = password::token() else {
        writeln!(err, "error: the kernel gives no random numbers")?;
        return Ok(Exit::Failure);
    };
    // Ids may have characters that a bare key must not have (TOML 1.0, keys).
    let bare = id.as_str().chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let key = if bare { id.to_string() } else { format!("\"{id}\"") };
    writeln!(out, "[device.{key}]\npassword_hash = \"{hash}\"")?;
    writeln!(
        err,
        "# Client: user name {id}, password {token}; it is not kept: hand it to the device now.\n\
         # The table goes into the configuration, or into a file that `gateway.devices` names; then reload the gateway."
    )?;
    Ok(Exit::Well)
}
