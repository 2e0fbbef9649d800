//! What the tests share: contracts that several implementations are held to.

pub mod store_contract;
pub mod store_history;
