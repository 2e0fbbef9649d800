//! RS-485: half duplex, with RTS switching the transmitter on. The kernel's driver does it, where the port can.

use std::io;
use std::os::fd::AsRawFd;

/// From linux/serial.h, which libc does not have.
const TIOCSRS485: libc::Ioctl = 0x542F;
const SER_RS485_ENABLED: u32 = 1;
const SER_RS485_RTS_ON_SEND: u32 = 1 << 1;

/// `struct serial_rs485`.
#[repr(C)]
#[derive(Default)]
struct SerialRs485 {
    flags: u32,
    delay_rts_before_send_ms: u32,
    delay_rts_after_send_ms: u32,
    padding: [u32; 5],
}

/// Switches a port to RS-485.
///
/// # Errors
/// When its driver has none: the operator must choose another port, or an adapter that switches by itself.
pub(super) fn enable(port: &impl AsRawFd) -> io::Result<()> {
    let wanted = SerialRs485 { flags: SER_RS485_ENABLED | SER_RS485_RTS_ON_SEND, ..SerialRs485::default() };
    #[allow(
        unsafe_code,
        reason = "no crate in the tree has this ioctl; the kernel reads the struct and keeps nothing"
    )]
    // SAFETY: the descriptor is open, and `wanted` is a whole `struct serial_rs485` that outlives the call.
    let result = unsafe { libc::ioctl(port.as_raw_fd(), TIOCSRS485, &raw const wanted) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOTTY | libc::EINVAL) => io::Error::other(
            "its driver cannot switch RS-485 (`rs485`): take that out for an adapter that switches by itself, or use another port",
        ),
        _ => error,
    })
}
