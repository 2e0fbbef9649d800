//! Content formats and the media types that they stand for (RFC 7252, 12.3, and the IANA registry).
//! Only those that carry telemetry or commands; the others keep their number.

/// `text/plain; charset=utf-8`
pub const TEXT: u16 = 0;
/// `application/link-format` (RFC 6690)
pub const LINK_FORMAT: u16 = 40;
/// `application/xml`
pub const XML: u16 = 41;
/// `application/octet-stream`
pub const OCTET_STREAM: u16 = 42;
/// `application/exi`
pub const EXI: u16 = 47;
/// `application/json`
pub const JSON: u16 = 50;
/// `application/cbor`
pub const CBOR: u16 = 60;
/// `application/senml+json` (RFC 8428)
pub const SENML_JSON: u16 = 110;
/// `application/senml+cbor` (RFC 8428)
pub const SENML_CBOR: u16 = 112;

const MEDIA_TYPES: [(u16, &str); 9] = [
    (TEXT, "text/plain; charset=utf-8"),
    (LINK_FORMAT, "application/link-format"),
    (XML, "application/xml"),
    (OCTET_STREAM, "application/octet-stream"),
    (EXI, "application/exi"),
    (JSON, "application/json"),
    (CBOR, "application/cbor"),
    (SENML_JSON, "application/senml+json"),
    (SENML_CBOR, "application/senml+cbor"),
];

/// The media type of a content format; `None` when this module does not know the number.
#[must_use]
pub fn media_type(format: u16) -> Option<&'static str> {
    MEDIA_TYPES.iter().find(|(number, _)| *number == format).map(|(_, media_type)| *media_type)
}

/// The content format of a media type, written exactly as [`media_type`] writes it.
#[must_use]
pub fn format(media_type: &str) -> Option<u16> {
    MEDIA_TYPES.iter().find(|(_, text)| *text == media_type).map(|(number, _)| *number)
}
