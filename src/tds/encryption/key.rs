//! RSA public keys as the protocol writes them: PKCS#1 in PEM.

use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use pem::{EncodeConfig, LineEnding, Pem};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::EncryptionError;

pub(super) const PKCS1_LABEL: &str = "RSA PUBLIC KEY";
pub(super) const SPKI_LABEL: &str = "PUBLIC KEY";

/// In DER: algorithm `rsaEncryption` (1.2.840.113549.1.1.1) with parameters NULL.
const RSA_ENCRYPTION: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

pub(super) const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// PKCS#1, as the protocol has it, or SubjectPublicKeyInfo, as everybody else.
pub(super) fn from_pem(text: &[u8]) -> Result<OaepPublicEncryptingKey, EncryptionError> {
    let bad = |reason: &str| EncryptionError::Key(reason.to_owned());
    let pem = pem::parse(text).map_err(|error| bad(&error.to_string()))?;
    let der = match pem.tag() {
        PKCS1_LABEL => public_key_info(pem.contents()),
        SPKI_LABEL => pem.contents().to_vec(),
        other => return Err(bad(&format!("it is a {other}"))),
    };
    let key = PublicEncryptingKey::from_der(&der).map_err(|error| bad(&error.to_string()))?;
    OaepPublicEncryptingKey::new(key).map_err(|_| EncryptionError::Crypto)
}

/// Wraps a PKCS#1 public key into a SubjectPublicKeyInfo (RFC 5280, 4.1).
pub(super) fn public_key_info(pkcs1: &[u8]) -> Vec<u8> {
    let no_unused_bits = [&[0], pkcs1].concat();
    let key = der(BIT_STRING, &no_unused_bits);
    der(SEQUENCE, &[&RSA_ENCRYPTION[..], &key].concat())
}

pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match *significant.as_slice() {
        [] => out.push(0),
        [short] if short < 0x80 => out.push(short),
        _ => {
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(u8::MAX));
            out.extend(significant);
        }
    }
    out.extend(content);
    out
}

/// The PEM of a key that is given as SubjectPublicKeyInfo in DER.
pub(in crate::tds) fn to_pem(info: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    let parsed = SubjectPublicKeyInfo::from_der(info);
    let (_, parsed) = parsed.map_err(|error| EncryptionError::Key(error.to_string()))?;
    let pem = Pem::new(PKCS1_LABEL, parsed.subject_public_key.data.as_ref());
    let unix = EncodeConfig::new().set_line_ending(LineEnding::LF);
    Ok(pem::encode_config(&pem, unix).into_bytes())
}
