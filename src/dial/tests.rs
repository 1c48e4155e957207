//! Addresses, dials with TLS, and the arithmetic of keepalives.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls::{CertificateRejection, rejection::NameFault};

#[tokio::test]
async fn a_rejected_certificate_is_a_typed_error_and_an_accepted_one_shows_its_expiry() {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "AGG_P");
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::new("127.0.0.1".to_owned(), listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"!").await.unwrap();
            }
        }
    });
    let dialer = |name| {
        let tls = ObjectServerTls::new(certificate.pem().as_bytes(), name).unwrap();
        Dialer::new(address.clone(), Duration::from_secs(20)).with_tls(tls)
    };

    let error = dialer("AGG_B").dial().await.unwrap_err();
    assert!(error.is_tls_rejected() && !error.is_closed_in_handshake(), "{error}");
    let DialError::Tls {
        source: HandshakeError::Rejected(CertificateRejection::CommonName { fault, expected, .. }),
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (fault, expected.as_str()),
        (NameFault::Other("AGG_P".to_owned()), "AGG_B")
    );

    let mut stream = dialer("AGG_P").dial().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    assert!(stream.peer_expires().is_some());
}

#[test]
fn parses_addresses() {
    for (text, host, port) in [
        ("aggp.example.com:4100", "aggp.example.com", 4100),
        ("192.0.2.1:4100", "192.0.2.1", 4100),
        ("[2001:db8::1]:4100", "2001:db8::1", 4100),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!(
            address,
            Address {
                host: host.to_owned(),
                port
            }
        );
        assert_eq!(address.to_string(), text);
    }
    for text in ["aggp", "aggp:", ":4100", "aggp:0", "aggp:70000", "2001:db8::1:4100", ""] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
}

#[test]
fn a_peer_is_lost_after_the_given_time_and_not_with_the_first_keepalive() {
    for seconds in 2..600 {
        let Keepalive {
            idle,
            interval,
            silence,
        } = Keepalive::for_silence(Duration::from_secs(seconds));
        let mut due = idle;
        let mut lost = 0;
        while due < silence {
            due += interval;
            lost += 1;
        }
        assert_eq!(due, Duration::from_secs(seconds));
        assert!(lost >= 2 || seconds == 2, "{seconds}s: {lost} keepalives");
    }
}

#[test]
fn a_watch_outlives_every_shorter_outage_and_no_much_longer_one() {
    for millis in (1000..20_000).step_by(250) {
        let outage = Duration::from_millis(millis);
        let Keepalive {
            idle,
            interval,
            silence,
        } = Keepalive::for_outage(outage);
        let mut due = idle;
        while due < silence {
            due += interval;
        }
        // The outage begins between the last packet received and the first keepalive after it.
        let (shortest, longest) = (due - idle, due);
        assert!(
            shortest >= outage && longest <= outage + Duration::from_secs(2),
            "{outage:?}: lost after {shortest:?} to {longest:?}"
        );
    }
}
