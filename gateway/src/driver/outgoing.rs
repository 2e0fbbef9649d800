//! What is done to a publication before any upstream sees it, whichever it is: what its route asks for. It sends nothing.

use crate::senml;
use std::sync::Arc;
use tidegate_engine::event::{Input, Outcome, Publication, Senml};
use tidegate_engine::limits::Limits;

/// The publication as it leaves; or how it is settled, if the route cannot take its message.
pub(super) fn prepared(publication: Publication, limits: &Limits) -> Result<Publication, Input> {
    if publication.senml == Senml::Untouched {
        return Ok(publication);
    }
    match senml::resolve(&publication.message, limits) {
        Ok(message) => Ok(Publication { message: Arc::new(message), ..publication }),
        Err(unfit) => Err(Input::Settled {
            upstream: publication.upstream,
            tag: publication.tag,
            outcome: Outcome::Refused(format!(
                "the route resolves SenML, and this cannot be resolved: {unfit}"
            )),
        }),
    }
}
