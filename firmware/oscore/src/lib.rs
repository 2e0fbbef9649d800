//! OSCORE (RFC 8613): what a CoAP message says, encrypted and bound to its request between two ends that share a secret.
//! `no_std`, no allocation, no I/O, no time, no randomness: state by values, buffers by the caller. AES-CCM-16-64-128
//! and HKDF with SHA-256, which every implementation has. Nothing here panics, whatever the input, and no key is printed.
//!
//! [`Context`] has the keys, [`Session`] the state that changes beside them: what it must never forget is the
//! [`Sequence`], or a nonce is used twice and the key is broken. Each end is client, server, or both.
//!
//! ```
//! use tidegate_oscore::{Context, Opened, Parameters, Replay, Sequence, Session};
//! use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer};
//!
//! let device = Parameters { master_secret: &[7; 16], sender_id: &[0], recipient_id: &[1], ..Parameters::default() };
//! let gateway = Parameters { sender_id: &[1], recipient_id: &[0], ..device };
//! let session = |parameters| Session::new(Context::derive(parameters).unwrap(), Sequence::reserved(0, 100), Replay::fresh());
//! let (mut device, mut gateway) = (session(&device), session(&gateway));
//!
//! let header = Header { kind: Kind::Confirmable, code: Code::POST, message_id: 1 };
//! let mut plain = [0; 64];
//! let plain = Writer::new(&mut plain, header, Token::EMPTY).option(OptionNumber::URI_PATH, b"t").payload(b"21.5").finish().unwrap();
//! let mut sealed = [0; 128];
//! let (sealed, _exchange) = device.protect_request(&Message::parse(plain).unwrap(), &mut sealed).unwrap();
//!
//! let mut opened = [0; 128];
//! let request = Message::parse(sealed).unwrap();
//! let Ok(Opened::Request { datagram, .. }) = gateway.open_request(&request, &mut opened) else { panic!() };
//! assert_eq!(datagram, plain);
//! assert!(gateway.open_request(&request, &mut [0; 128]).is_err(), "it has been here before");
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod cbor;
mod context;
mod message;
mod option;
mod refusal;
mod sequence;
mod session;
mod window;

pub use context::{Context, DeriveError, Id, MAX_ID_BYTES, MAX_ID_CONTEXT_BYTES, Parameters};
pub use message::{MAX_EXPANSION_BYTES, ProtectError};
pub use option::{Header, HeaderError};
pub use refusal::Refusal;
pub use sequence::{PartialIv, Sequence, SequenceError};
pub use session::{Challenge, Exchange, Observation, Opened, Replay, Session};
pub use window::Window;
