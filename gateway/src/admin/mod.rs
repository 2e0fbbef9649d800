//! The administrator's side: health, metrics and status over HTTP, on loopback unless the operator says otherwise.
//! It only looks: nothing here changes what the gateway does.

pub mod status;

pub use status::Status;
