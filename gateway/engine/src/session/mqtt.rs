//! placeholder, replaced by the MQTT session

/// placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt;
