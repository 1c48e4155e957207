//! The rule applied to certificates as they occur in practice, each presented in a real handshake.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
    string::{BmpString, TeletexString, UniversalString},
};
use rustls::{
    ServerConfig,
    client::danger::ServerCertVerifier,
    pki_types::{PrivateKeyDer, UnixTime},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsAcceptor;

use super::{
    certificate::{CommonNameError, Presented},
    rejection::{ChainFault, NameFault},
    *,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn named(name: impl Into<DnValue>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority_called(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's certificates, its own first, and its key.
struct Shown(Vec<CertificateDer<'static>>, KeyPair);

fn signed(params: &CertificateParams, authority: &CertifiedIssuer<'static, KeyPair>) -> Shown {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Shown(vec![certificate.der().clone()], key)
}

/// The result of a handshake with the ObjectServer `AGG_P`, which presents these certificates.
async fn handshake(
    bundle: &str,
    Shown(chain, key): Shown,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Option<Timestamp>, HandshakeError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let (near, far) = duplex(65536);
    let server = async {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(far).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await
    };
    let tls = ObjectServerTls::new(bundle.as_bytes(), "AGG_P").unwrap();
    let client = async {
        let mut stream = tls.handshake(near).await?;
        stream.read_exact(&mut [0; 5]).await.unwrap();
        Ok(peer_expires(stream.get_ref().1))
    };
    let (_served, result) = tokio::join!(server, client);
    result
}

async fn rejection(bundle: &str, shown: Shown) -> CertificateRejection {
    match handshake(bundle, shown, &[&TLS13, &TLS12]).await {
        Err(HandshakeError::Rejected(rejection)) => {
            println!("{rejection}");
            rejection
        }
        other => panic!("{other:?}"),
    }
}

async fn chain_fault(bundle: &str, shown: Shown) -> (ChainFault, Box<Presented>, String) {
    match rejection(bundle, shown).await {
        CertificateRejection::Chain {
            fault,
            presented,
            trusted,
        } => (fault, presented, trusted),
        other => panic!("{other}"),
    }
}

async fn name_fault(bundle: &str, shown: Shown) -> NameFault {
    match rejection(bundle, shown).await {
        CertificateRejection::CommonName { fault, expected, .. } => {
            assert_eq!(expected, "AGG_P");
            fault
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn accepts_the_right_name_without_any_alternative_name_over_both_versions() {
    let authority = authority_called("CA");
    let mut params = named("AGG_P");
    let end = SystemTime::now() + 90 * DAY;
    params.not_after = end.into();
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let expires = handshake(&authority.pem(), signed(&params, &authority), versions)
            .await
            .unwrap();
        let off = expires.unwrap().duration_since(Timestamp::try_from(end).unwrap());
        assert!(off.abs().as_secs() <= 1, "{expires:?}");
    }
}

#[tokio::test]
async fn an_alternative_name_neither_helps_nor_hurts() {
    let authority = authority_called("CA");
    let mut params = CertificateParams::new(vec!["AGG_P".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "AGG_B");
    let fault = name_fault(&authority.pem(), signed(&params, &authority)).await;
    assert_eq!(fault, NameFault::Other("AGG_B".to_owned()));
    params.distinguished_name.push(DnType::CommonName, "AGG_P");
    params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.example.com".try_into().unwrap())];
    handshake(&authority.pem(), signed(&params, &authority), &[&TLS13])
        .await
        .unwrap();
}

#[tokio::test]
async fn names_are_compared_exactly() {
    let authority = authority_called("CA");
    for other in ["agg_p", "AGG_P ", "AGG", "AGG_P\0", "AGG_P,CN=AGG_P", "*"] {
        let fault = name_fault(&authority.pem(), signed(&named(other), &authority)).await;
        assert!(matches!(fault, NameFault::Other(_)), "{other:?}: {fault}");
    }
    let mut nameless = CertificateParams::default();
    nameless.distinguished_name = rcgen::DistinguishedName::new();
    nameless.distinguished_name.push(DnType::OrganizationName, "AGG_P");
    let fault = name_fault(&authority.pem(), signed(&nameless, &authority)).await;
    assert_eq!(fault, NameFault::None(CommonNameError::Missing));
}

#[tokio::test]
async fn decodes_the_name_in_every_string_type() {
    let authority = authority_called("CA");
    let values = [
        DnValue::Utf8String("AGG_P".to_owned()),
        DnValue::TeletexString(TeletexString::try_from("AGG_P").unwrap()),
        DnValue::BmpString(BmpString::try_from("AGG_P").unwrap()),
        DnValue::UniversalString(UniversalString::try_from("AGG_P").unwrap()),
    ];
    for value in values {
        let shown = signed(&named(value.clone()), &authority);
        handshake(&authority.pem(), shown, &[&TLS13])
            .await
            .unwrap_or_else(|error| panic!("{value:?}: {error}"));
    }
}

#[tokio::test]
async fn distinguishes_an_unknown_ca_from_one_of_the_same_name() {
    let (ours, theirs, namesake) = (
        authority_called("CA"),
        authority_called("other"),
        authority_called("CA"),
    );
    let (fault, presented, trusted) = chain_fault(&ours.pem(), signed(&named("AGG_P"), &theirs)).await;
    assert_eq!(fault, ChainFault::UnknownIssuer);
    assert_eq!(
        (presented.subject.as_str(), presented.issuer.as_str()),
        ("CN=AGG_P", "CN=other")
    );
    assert_eq!(trusted, "\"CN=CA\"");
    let (fault, ..) = chain_fault(&ours.pem(), signed(&named("AGG_P"), &namesake)).await;
    assert_eq!(fault, ChainFault::BadSignature);
    let both = format!("{}{}", ours.pem(), theirs.pem());
    handshake(&both, signed(&named("AGG_P"), &theirs), &[&TLS13])
        .await
        .unwrap();
}

#[tokio::test]
async fn distinguishes_expired_from_not_yet_valid() {
    let authority = authority_called("CA");
    let now = SystemTime::now();
    let mut params = named("AGG_P");
    params.not_before = (now - 2 * DAY).into();
    params.not_after = (now - DAY).into();
    let (fault, presented, _) = chain_fault(&authority.pem(), signed(&params, &authority)).await;
    assert_eq!(fault, ChainFault::Expired(presented.not_after));
    params.not_before = (now + DAY).into();
    params.not_after = (now + 2 * DAY).into();
    let (fault, presented, _) = chain_fault(&authority.pem(), signed(&params, &authority)).await;
    assert_eq!(fault, ChainFault::NotYetValid(presented.not_before));
}

#[tokio::test]
async fn follows_intermediates_and_detects_an_expired_one() {
    let root = authority_called("root");
    let mut params = named("between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    for (days, good) in [(1, true), (-1, false)] {
        let end = SystemTime::now() + 10 * DAY;
        params.not_after = (if days > 0 { end } else { end - 11 * DAY }).into();
        let between = CertifiedIssuer::signed_by(params.clone(), copy(&key), &root).unwrap();
        let Shown(mut chain, own_key) = signed(&named("AGG_P"), &between);
        chain.push(between.der().clone());
        let shown = Shown(chain, own_key);
        if good {
            handshake(&root.pem(), shown, &[&TLS12]).await.unwrap();
        } else {
            let (fault, ..) = chain_fault(&root.pem(), shown).await;
            assert!(matches!(fault, ChainFault::IssuerExpired(_)), "{fault}");
        }
    }
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).unwrap()
}

fn self_signed(is_ca: bool, end: SystemTime) -> (Certificate, KeyPair) {
    let mut params = named("AGG_P");
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.not_after = end.into();
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

#[tokio::test]
async fn a_self_signed_certificate_is_accepted_only_if_it_is_in_the_bundle_itself() {
    let end = SystemTime::now() + DAY;
    for is_ca in [false, true] {
        let (certificate, key) = self_signed(is_ca, end);
        let shown = Shown(vec![certificate.der().clone()], key);
        for version in [&TLS12, &TLS13] {
            let shown = Shown(shown.0.clone(), copy(&shown.1));
            handshake(&certificate.pem(), shown, &[version])
                .await
                .unwrap_or_else(|error| panic!("CA:{is_ca}: {error}"));
        }
        let (twin, _) = self_signed(is_ca, end);
        let (fault, ..) = chain_fault(&twin.pem(), shown).await;
        let expected = if is_ca {
            ChainFault::Authority
        } else {
            ChainFault::BadSignature
        };
        assert_eq!(fault, expected);

        let (over, key) = self_signed(is_ca, SystemTime::now() - DAY);
        let (fault, ..) = chain_fault(&over.pem(), Shown(vec![over.der().clone()], key)).await;
        assert!(matches!(fault, ChainFault::Expired(_)), "{fault}");
    }
}

#[tokio::test]
async fn a_ca_in_the_bundle_is_not_accepted_for_a_server_of_another_name() {
    let authority = authority_called("CA");
    let shown = Shown(vec![authority.der().clone()], copy(authority.key()));
    let fault = name_fault(&authority.pem(), shown).await;
    assert_eq!(fault, NameFault::Other("CA".to_owned()));
}

#[tokio::test]
async fn a_certificate_for_clients_only_is_rejected() {
    let authority = authority_called("CA");
    let mut params = named("AGG_P");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (fault, ..) = chain_fault(&authority.pem(), signed(&params, &authority)).await;
    assert_eq!(fault, ChainFault::Purpose);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    handshake(&authority.pem(), signed(&params, &authority), &[&TLS13])
        .await
        .unwrap();
}

#[test]
fn any_of_several_names_is_accepted_and_the_message_names_all_of_them() {
    let authority = authority_called("CA");
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let bundle = vec![authority.der().clone()];
    let rule = rule::CommonNameRule::new(bundle, &["PROXY_P", "PROXY_B"], algorithms).unwrap();
    let judge = |name: &str| {
        let Shown(chain, _) = signed(&named(name), &authority);
        let nameless = ServerName::from(Ipv4Addr::UNSPECIFIED);
        let result = rule.verify_server_cert(&chain[0], &[], &nameless, &[], UnixTime::now());
        result
            .map(drop)
            .map_err(|error| CertificateRejection::within(&error).unwrap().to_string())
    };
    assert_eq!((judge("PROXY_P"), judge("PROXY_B")), (Ok(()), Ok(())));
    for name in ["PROXY_V", "PROXY_P,PROXY_B", ""] {
        let rejection = judge(name).unwrap_err();
        assert!(
            rejection.ends_with("expected: Common Name \"PROXY_P\" or \"PROXY_B\""),
            "{rejection}"
        );
    }
}

/// A sequence in DER.
fn sequence(content: &[u8]) -> Vec<u8> {
    let head = match u16::try_from(content.len()).unwrap().to_be_bytes() {
        [0, short @ 0..0x80] => vec![0x30, short],
        [0, length] => vec![0x30, 0x81, length],
        [high, low] => vec![0x30, 0x82, high, low],
    };
    [head, content.to_vec()].concat()
}

/// A certificate of version 1 with the names and the key of another. Its signature is wrong, which does not matter in a trusted CA.
fn of_version_1(certificate: &[u8]) -> Vec<u8> {
    let parsed = certificate::read(certificate).unwrap();
    let tbs: &[u8] = parsed.tbs_certificate.as_ref();
    let spki = parsed.tbs_certificate.subject_pki.raw;
    let end = tbs.windows(spki.len()).position(|window| window == spki).unwrap() + spki.len();
    // Tag and length of the whole, then [0] { INTEGER 2 }, which is five bytes long.
    let begin = tbs.windows(5).position(|window| window == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
    let signature =
        &certificate[certificate.windows(tbs.len()).position(|window| window == tbs).unwrap() + tbs.len()..];
    sequence(&[sequence(&tbs[begin..end]), signature.to_vec()].concat())
}

/// The result of the rule for one certificate, with this bundle.
fn check(bundle: &CertificateDer<'static>, shown: &CertificateDer<'_>, expected: &str) -> Result<(), rustls::Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    let rule = rule::CommonNameRule::new(vec![bundle.clone()], &[expected], algorithms).unwrap();
    let nameless = ServerName::from(Ipv4Addr::UNSPECIFIED);
    rule.verify_server_cert(shown, &[], &nameless, &[], UnixTime::now())
        .map(drop)
}

#[test]
fn a_ca_may_be_of_version_1_and_a_server_may_not() {
    let authority = authority_called("CA");
    let old_authority = CertificateDer::from(of_version_1(authority.der()));
    let Shown(chain, _) = signed(&named("AGG_P"), &authority);
    check(&old_authority, &chain[0], "AGG_P").unwrap();

    let old_server = CertificateDer::from(of_version_1(&chain[0]));
    for bundle in [authority.der(), &old_server] {
        let error = check(bundle, &old_server, "AGG_P").unwrap_err();
        let Some(CertificateRejection::Chain { fault, .. }) = CertificateRejection::within(&error) else {
            panic!("{error}");
        };
        assert_eq!(*fault, ChainFault::Version(1));
        assert!(fault.to_string().contains("version 1"), "{fault}");
    }
}

#[test]
fn distinguishes_a_weak_signature_from_a_wrong_one() {
    let authority = authority_called("CA");
    let Shown(chain, _) = signed(&named("AGG_P"), &authority);
    let mut weak = chain[0].to_vec();
    // ecdsa-with-SHA256 becomes ecdsa-with-SHA224 (RFC 5758, 3.2), which rustls does not support.
    let sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let places: Vec<_> = (0..weak.len()).filter(|at| weak[*at..].starts_with(&sha256)).collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|at| weak[at + 7] = 1);
    let error = check(authority.der(), &CertificateDer::from(weak), "AGG_P").unwrap_err();
    let Some(CertificateRejection::Chain { fault, .. }) = CertificateRejection::within(&error) else {
        panic!("{error}");
    };
    assert_eq!(*fault, ChainFault::Algorithm);
}

#[test]
fn names_the_fault_of_a_bundle() {
    let says = |text: &str| ObjectServerTls::new(text.as_bytes(), "AGG_P").unwrap_err().to_string();
    assert_eq!(says(""), "the CA bundle contains no certificate");
    assert!(says("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").contains("not PEM"));
    let good = authority_called("CA").pem();
    let bad = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    let said = says(&format!("{good}{bad}"));
    assert!(said.starts_with("certificate 2 of the CA bundle"), "{said}");
}

#[tokio::test]
async fn distinguishes_a_port_with_another_protocol_from_one_that_closes() {
    let tls = ObjectServerTls::new(authority_called("CA").pem().as_bytes(), "AGG_P").unwrap();
    let (near, mut far) = duplex(65536);
    // A TDS answer.
    far.write_all(&[4, 1, 0, 8, 0, 0, 0, 0]).await.unwrap();
    let failed = tls.handshake(near).await.unwrap_err();
    assert!(matches!(failed, HandshakeError::NotTls), "{failed}");
    let (near, mut far) = duplex(65536);
    // The alert handshake_failure.
    far.write_all(&[21, 3, 3, 0, 2, 2, 40]).await.unwrap();
    let failed = tls.handshake(near).await.unwrap_err();
    assert!(matches!(failed, HandshakeError::NothingInCommon(_)), "{failed}");
    let (near, far) = duplex(65536);
    drop(far);
    let failed = tls.handshake(near).await.unwrap_err();
    assert!(matches!(failed, HandshakeError::Closed(_)), "{failed}");
}

#[test]
fn a_time_beyond_the_calendar_is_its_end() {
    let mut params = named("AGG_P");
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(certificate::expires(certificate.der()), Some(Timestamp::MAX));
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[A-Z_][A-Z0-9_]{0,28}", "\\PC{1,40}", any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _name = common_name_of(&bytes);
        let _end = certificate::expires(&bytes);
    }

    #[test]
    fn a_damaged_certificate_is_accepted_or_rejected(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        static GOOD: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| self_signed(true, SystemTime::now() + DAY).0.der().to_vec());
        let mut bytes = GOOD.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(parsed) = certificate::read(&bytes) {
            let _shown = Presented::of(&parsed).to_string();
        }
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(common_name_of(&bytes).is_err());
    }

    #[test]
    fn the_name_that_was_encoded_is_the_name_that_is_decoded(name in name()) {
        static KEY: std::sync::LazyLock<KeyPair> = std::sync::LazyLock::new(|| KeyPair::generate().unwrap());
        let certificate = named(name.as_str()).self_signed(&*KEY).unwrap();
        prop_assert_eq!(common_name_of(certificate.der()), Ok(name));
    }

    #[test]
    fn only_the_same_name_passes(expected in name(), shown in name()) {
        static KEY: std::sync::LazyLock<KeyPair> = std::sync::LazyLock::new(|| KeyPair::generate().unwrap());
        let certificate = named(shown.as_str()).self_signed(&*KEY).unwrap();
        for (expected, passes) in [(&expected, expected == shown), (&shown, true)] {
            let judged = check(certificate.der(), certificate.der(), expected);
            prop_assert_eq!(judged.is_ok(), passes, "{:?}", judged);
        }
    }
}
