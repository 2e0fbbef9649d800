//! placeholder, replaced by the CoAP session

/// placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt;
