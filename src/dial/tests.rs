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

/// A self-signed certificate and its key.
fn certificate_of(name: &str) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// A server with this certificate that sends one byte on each connection.
async fn serving((certificate, key): &(rcgen::Certificate, KeyPair)) -> (SocketAddr, tokio::task::JoinHandle<()>) {
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
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                stream.write_all(b"!").await.unwrap();
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_rejected_certificate_is_a_typed_error_and_an_accepted_one_shows_its_expiry() {
    let identity = certificate_of("AGG_P");
    let (address, _serving) = serving(&identity).await;
    let dialer = |name| {
        let tls = ObjectServerTls::new(identity.0.pem().as_bytes(), name).unwrap();
        let address = Address::new("127.0.0.1".to_owned(), address.port());
        Dialer::new(address, Duration::from_secs(20)).with_tls(tls)
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

/// A listener whose full backlog swallows connections without an answer, as a machine that is gone does; and what fills it.
fn silent(address: SocketAddr) -> (TcpListener, Vec<std::net::TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = (0..8).filter_map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok());
    let fill = fill.collect();
    (listener, fill)
}

fn several(unresponsive_after: Duration) -> Dialer {
    Dialer::new(Address::new("several.test".to_owned(), 4100), unresponsive_after)
}

#[tokio::test]
async fn a_silent_address_does_not_keep_the_next_one_waiting() {
    let (dead, _fill) = silent("127.0.0.1:0".parse().unwrap());
    let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [dead.local_addr().unwrap(), alive.local_addr().unwrap()];
    let dialer = several(Duration::from_secs(60));
    let start = std::time::Instant::now();
    let stream = dialer
        .dial_any(addresses.to_vec(), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(stream.socket().peer_addr().unwrap(), addresses[1]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_last_of_many_dead_addresses_gets_its_whole_time() {
    let closed: Vec<_> = (0..20)
        .map(|_| {
            std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        })
        .collect();
    let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses: Vec<_> = closed.into_iter().chain([alive.local_addr().unwrap()]).collect();
    let dialer = several(Duration::from_secs(60));
    dialer.dial_any(addresses, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_hangs_in_the_handshake_does_not_keep_the_next_address_waiting() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let certificate = certificate_of("AGG_P");
    let (alive, _serving) = serving(&certificate).await;
    let addresses = vec![hanging.local_addr().unwrap(), alive];
    let tls = ObjectServerTls::new(certificate.0.pem().as_bytes(), "AGG_P").unwrap();
    let dialer = several(Duration::from_secs(60)).with_tls(tls);
    dialer.dial_any(addresses, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn the_error_does_not_depend_on_the_order_of_the_addresses() {
    let refusing = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (silent, _fill) = silent("127.0.0.1:0".parse().unwrap());
    let mut addresses = vec![refusing, silent.local_addr().unwrap()];
    for _ in 0..2 {
        addresses.reverse();
        let dialer = several(Duration::from_secs(1));
        let error = dialer
            .dial_any(addresses.clone(), Duration::from_secs(1))
            .await
            .unwrap_err();
        assert!(
            matches!(error, DialError::Connect { .. }) && !error.is_local(),
            "{error}"
        );
    }
}

#[test]
fn while_no_resolver_answers_the_last_addresses_are_dialled() {
    let dialer = several(Duration::from_secs(1));
    let trouble = || io::Error::other("failed to lookup address information: Temporary failure in name resolution");
    let address: SocketAddr = "192.0.2.1:4100".parse().unwrap();
    assert!(dialer.addresses(Err(trouble())).unwrap_err().is_local());
    assert_eq!(dialer.addresses(Ok(vec![address])).unwrap(), [address]);
    assert_eq!(dialer.clone().addresses(Err(trouble())).unwrap(), [address]);
    // A name that has no address any more is not dialled.
    let gone = io::Error::other("failed to lookup address information: Name or service not known");
    assert!(matches!(dialer.addresses(Err(gone)), Err(DialError::Resolve { .. })));
}

#[tokio::test]
async fn a_name_without_an_address_is_told_from_a_resolver_that_does_not_answer() {
    let dialer = Dialer::new(
        Address::new("nothing.invalid".to_owned(), 4100),
        Duration::from_secs(30),
    );
    match dialer.dial().await.unwrap_err() {
        error @ DialError::Resolve { .. } => assert!(!error.is_local()),
        // No resolver answers on this machine.
        error @ DialError::Local { .. } => assert!(error.is_local()),
        error => panic!("{error}"),
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
