//! CoAP over datagrams (RFC 7252): a strict zero-copy view of a message and a writer into the caller's buffer.
//! Both sides speak through this module. It knows bytes only: no retransmission, no deduplication, no time.
//! Nothing here panics, whatever the input.
//!
//! ```
//! use tidegate_wire::coap::{Code, Header, Kind, Message, OptionNumber, Token, Writer, content};
//!
//! let mut buffer = [0; 64];
//! let header = Header { kind: Kind::Confirmable, code: Code::POST, message_id: 7 };
//! let bytes = Writer::new(&mut buffer, header, Token::new(&[1, 2]).unwrap())
//!     .option(OptionNumber::URI_PATH, b"t")
//!     .option(OptionNumber::URI_PATH, b"boiler")
//!     .uint(OptionNumber::CONTENT_FORMAT, content::JSON.into())
//!     .payload(b"{}")
//!     .finish()
//!     .unwrap();
//! let message = Message::parse(bytes).unwrap();
//! assert_eq!(message.header(), header);
//! assert_eq!(message.options_of(OptionNumber::URI_PATH).last(), Some(&b"boiler"[..]));
//! assert_eq!(message.payload(), b"{}");
//! ```

mod block;
pub mod content;
mod header;
mod message;
mod option;
pub mod stream;
mod writer;

pub use block::Block;
pub use header::{Code, Header, Kind, MAX_TOKEN_BYTES, Token};
pub use message::{Fault, Message, Opt, Options, ParseError};
pub use option::{Definition, OptionNumber, uint};
pub use writer::{WriteError, Writer};

/// The UDP port of `coap://` (RFC 7252, 6.1).
pub const DEFAULT_PORT: u16 = 5683;

/// The byte that separates options from payload (RFC 7252, 3).
pub const PAYLOAD_MARKER: u8 = 0xFF;
