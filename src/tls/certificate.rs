//! The fields of a certificate: its Common Name, its names for messages, and its validity.

use std::fmt;

use jiff::Timestamp;
use x509_parser::{
    asn1_rs::{Any, Class, Tag},
    certificate::X509Certificate,
    error::X509Error,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

use crate::foreign::cut;

/// Longer names, in characters, are truncated in messages.
const LONGEST_NAME: usize = 160;

/// Why a certificate has no Common Name that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommonNameError {
    /// The bytes are not an X.509 certificate.
    #[error("it is not an X.509 certificate: {0}")]
    Unreadable(String),
    /// The subject has none.
    #[error("its subject has no Common Name")]
    Missing,
    /// The subject has several, and no standard says which of them counts.
    #[error("its subject has {0} Common Names where one is expected")]
    Several(usize),
    /// It cannot be decoded as text.
    #[error("its Common Name is not text")]
    NotText,
}

/// The Common Name of a certificate in DER. All string types of X.520 are read; T.61 only if it is ASCII.
///
/// # Errors
///
/// [`CommonNameError`], whatever the bytes are.
pub fn common_name_of(der: &[u8]) -> Result<String, CommonNameError> {
    common_name(&read(der)?)
}

pub(super) fn read(der: &[u8]) -> Result<X509Certificate<'_>, CommonNameError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(CommonNameError::Unreadable(format!("{} bytes after it", rest.len()))),
        Err(error) => {
            let error: X509Error = error.into();
            Err(CommonNameError::Unreadable(error.to_string()))
        }
    }
}

pub(super) fn common_name(certificate: &X509Certificate<'_>) -> Result<String, CommonNameError> {
    if !is_name(certificate.subject().as_raw()) {
        return Err(CommonNameError::Unreadable("its subject is not DER".to_owned()));
    }
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().ok_or(CommonNameError::Missing)?;
    match names.count() {
        0 => text(name).ok_or(CommonNameError::NotText),
        more => Err(CommonNameError::Several(more + 1)),
    }
}

/// Whether this is a name in DER, down to the tag of each attribute's type and value. The parser does not check the tags of the types, so it
/// would accept as a Common Name what no other implementation does.
fn is_name(der: &[u8]) -> bool {
    fn sets(der: &[u8]) -> Option<()> {
        let (mut sets, []) = element(Some(Tag::Sequence), der)? else {
            return None;
        };
        while !sets.is_empty() {
            let (mut attributes, later) = element(Some(Tag::Set), sets)?;
            sets = later;
            while !attributes.is_empty() {
                let (attribute, later) = element(Some(Tag::Sequence), attributes)?;
                attributes = later;
                let (_, value) = element(Some(Tag::Oid), attribute)?;
                let (_, []) = element(None, value)? else { return None };
            }
        }
        Some(())
    }
    sets(der).is_some()
}

/// The content of the first value, which must have `tag` if given, and the bytes after it.
fn element(tag: Option<Tag>, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, value) = Any::from_der(der).ok()?;
    let is_list = matches!(value.tag(), Tag::Sequence | Tag::Set);
    let is_right = value.class() == Class::Universal
        && value.header.is_constructed() == is_list
        && tag.is_none_or(|tag| tag == value.tag());
    is_right.then_some((value.data, rest))
}

fn text(name: &AttributeTypeAndValue<'_>) -> Option<String> {
    let bytes = name.as_slice();
    match name.attr_value().tag() {
        // PrintableString does not allow "_", but real certificates contain it.
        Tag::Utf8String | Tag::PrintableString | Tag::NumericString | Tag::Ia5String => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        Tag::T61String | Tag::VisibleString if bytes.is_ascii() => String::from_utf8(bytes.to_vec()).ok(),
        Tag::BmpString => {
            let (pairs, []) = bytes.as_chunks() else { return None };
            let units: Vec<_> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16(&units).ok()
        }
        Tag::UniversalString => {
            let (quads, []) = bytes.as_chunks() else { return None };
            quads
                .iter()
                .map(|quad| char::from_u32(u32::from_be_bytes(*quad)))
                .collect()
        }
        _ => None,
    }
}

/// When a certificate in DER expires.
#[must_use]
pub fn expires(der: &[u8]) -> Option<Timestamp> {
    Some(moment(read(der).ok()?.validity().not_after.timestamp()))
}

/// A time of X.509, limited to the range of [`Timestamp`].
pub(super) fn moment(seconds: i64) -> Timestamp {
    let nearest = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(nearest)
}

/// The certificate that a server presented, as messages describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Subject, such as `CN=AGG_P`.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

impl Presented {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            subject: shown(certificate.subject()),
            issuer: shown(certificate.issuer()),
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        }
    }
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            issuer,
            not_before,
            not_after,
        } = self;
        write!(
            f,
            "subject \"{subject}\", issuer \"{issuer}\", valid from {not_before} to {not_after}"
        )
    }
}

/// A name for messages.
pub(super) fn shown(name: &X509Name<'_>) -> String {
    quoted(&name.to_string())
}

/// A text that stands between quotation marks: without control characters, and truncated to [`LONGEST_NAME`].
pub(super) fn quoted(text: &str) -> String {
    cut(&text.replace('\\', r"\\").replace('"', r#"\""#), LONGEST_NAME)
}
