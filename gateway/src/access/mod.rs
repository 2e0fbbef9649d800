//! What the engine leaves to the shell in matters of access: passwords are verified here, and what was decided is written to the
//! audit log. It decides nothing about devices.

pub mod audit;
pub mod hexadecimal;
pub mod password;
pub mod verifier;
