//! The keys that every listener with TLS has: certificate, key, the devices' authorities and their revocations. Reads the files
//! and reports what is wrong with them at the key that names them.

use super::environment::Environment;
use super::file;
use super::read::{Section, Span};
use super::value::{self, Wrong};
use crate::tls::{self, Fault, Part, Pem, Tls};
use std::path::Path;

/// More than any certificate, or an authority's whole collection.
const CERTIFICATE_BYTES: u64 = 1 << 20;
/// Room for a hundred thousand revoked certificates.
const REVOCATION_BYTES: u64 = 4 << 20;

impl From<Fault> for Wrong {
    fn from(Fault { what, right }: Fault) -> Self {
        Self { what, right }
    }
}

/// Where the files stand and what the surroundings are.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) base: &'a Path,
    pub(super) environment: &'a Environment,
}

/// Reads the files that `section` names. Without a certificate of its own it has that of `other`. `None` when something is
/// wrong, which is reported.
pub(super) fn tls(section: &Section<'_>, other: Option<&Section<'_>>, at: Surroundings<'_>) -> Option<Tls> {
    let now = at.environment.now;
    let own = match other {
        Some(other) if section.at("certificate").is_none() && section.at("key").is_none() => other,
        _ => section,
    };
    let chain = required(own, section, "certificate", "its certificate (PEM)", at).and_then(|(pem, span)| {
        let mut warnings = Vec::new();
        let chain = report(own, &span, tls::chain(&pem, now, &mut warnings))?;
        warn(own, &span, warnings);
        Some((chain, span))
    });
    let key =
        required(own, section, "key", "the certificate's private key (PEM)", at).and_then(|(pem, span)| {
            let key = report(own, &span, tls::key(&pem))?;
            Some((key, pem.shown, span))
        });
    let authorities =
        match optional(section, "client_ca", "the certificates of the devices' authority (PEM)", at) {
            Ok(file) => match file
                .map(|(pem, span)| report(section, &span, tls::authorities(&pem)).map(|a| (a, span)))
            {
                Some(None) => Err(()),
                Some(Some(authorities)) => Ok(Some(authorities)),
                None => Ok(None),
            },
            Err(()) => Err(()),
        };
    let revoked = match optional(
        section,
        "client_crl",
        "the devices' authority's list of revoked certificates (PEM)",
        at,
    ) {
        Ok(Some((pem, span))) => {
            let mut warnings = Vec::new();
            let lists = report(section, &span, tls::revocations(&pem, now, &mut warnings)).ok_or(());
            warn(section, &span, warnings);
            lists.map(|lists| (lists, Some(span)))
        }
        Ok(None) => Ok((Vec::new(), None)),
        Err(()) => Err(()),
    };
    if section.at("client_ca").is_none()
        && let Some(span) = section.at("client_crl")
    {
        section.report.error(
            Some(span),
            "`client_crl` has no meaning without `client_ca`",
            "name the devices' authority in `client_ca`, or leave this out",
        );
        return None;
    }

    let ((chain, chain_span), (key, key_shown, key_span)) = (chain?, key?);
    let (authorities, (revoked, revoked_span)) = (authorities.ok()?, revoked.ok()?);
    let (authorities, authorities_span) = authorities.unzip();
    match tls::assemble(chain, key, &key_shown, authorities, revoked) {
        Ok(tls) => Some(tls),
        Err((part, fault)) => {
            let span = match part {
                Part::Certificate => Some(chain_span),
                Part::Key => Some(key_span),
                Part::ClientCrl => revoked_span.or(authorities_span),
            };
            section.report.error(span, fault.what, fault.right);
            None
        }
    }
}

type File = (Pem, Span);

/// A file that there must be; `Err` in [`optional`]'s sense is `None` here.
fn required(
    own: &Section<'_>,
    section: &Section<'_>,
    key: &'static str,
    what: &str,
    at: Surroundings<'_>,
) -> Option<File> {
    match optional(own, key, what, at) {
        Ok(Some(file)) => Some(file),
        Ok(None) => {
            section.report.error(
                section.span.clone(),
                format!("TLS needs `{key}` here"),
                format!("name the file that holds {what}"),
            );
            None
        }
        Err(()) => None,
    }
}

/// A file, if it is named; `Err` when it cannot be read, which is reported.
fn optional(
    section: &Section<'_>,
    key: &'static str,
    what: &str,
    at: Surroundings<'_>,
) -> Result<Option<File>, ()> {
    if section.at(key).is_none() {
        return Ok(None);
    }
    let most = if key == "client_crl" { REVOCATION_BYTES } else { CERTIFICATE_BYTES };
    let read =
        section.get(key, |value| file::read(&value::name(value)?, at.base, at.environment, what, most));
    let Some(read) = read else { return Err(()) };
    let span = read.span();
    let content = read.into_inner();
    if key == "key"
        && let Some(careless) = content.careless()
    {
        section.report.warning(Some(span.clone()), careless.what, careless.right);
    }
    Ok(Some((Pem { shown: content.path.display().to_string(), bytes: content.bytes }, span)))
}

fn report<T>(section: &Section<'_>, span: &Span, read: Result<T, Fault>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(fault) => {
            section.report.error(Some(span.clone()), fault.what, fault.right);
            None
        }
    }
}

fn warn(section: &Section<'_>, span: &Span, warnings: Vec<Fault>) {
    for warning in warnings {
        section.report.warning(Some(span.clone()), warning.what, warning.right);
    }
}
