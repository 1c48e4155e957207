//! What a pair refers to, and cannot be used.

use k8s_openapi::api::core::v1::Secret;

use super::*;

fn tls_secret(certificate: &[u8], key: &[u8]) -> Secret {
    let text = |bytes: &[u8]| k8s_openapi::ByteString(bytes.to_vec());
    Secret {
        metadata: kube::api::ObjectMeta {
            name: Some("proxy-tls".to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..kube::api::ObjectMeta::default()
        },
        data: Some(
            [
                ("tls.crt".to_owned(), text(certificate)),
                ("tls.key".to_owned(), text(key)),
            ]
            .into(),
        ),
        ..Secret::default()
    }
}

fn issue(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A gate that starts with such a Secret accepts no probe, so no pod is made with it.
#[tokio::test(start_paused = true)]
async fn a_certificate_that_no_gate_could_present_is_a_problem_of_the_secret() {
    let (certificate, key) = issue("PROXY_P");
    let (_, key_of_another) = issue("PROXY_P");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let der = pem::parse(&certificate).unwrap().into_contents();
    for (certificate, key, words) in [
        (certificate.as_bytes(), key_of_another.as_bytes(), "cannot be used"),
        (certificate.as_bytes(), encrypted.as_bytes(), "not encrypted"),
        (der.as_slice(), key.as_bytes(), "tls.crt"),
        (b"garbage", key.as_bytes(), "tls.crt"),
    ] {
        let stage = Stage::new(json!({"proxy": {"tls": {"secretName": "proxy-tls"}}})).await;
        stage.server.put(&tls_secret(certificate, key));
        stage.reconcile().await.unwrap();
        let message = stage.until_ready_is("CertificateUnusable").await;
        assert!(message.contains("proxy-tls") && message.contains(words), "{message}");
        assert_eq!(stage.server.list::<Deployment>().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_fits_its_key_is_none() {
    let stage = Stage::new(json!({"proxy": {"tls": {"secretName": "proxy-tls"}}})).await;
    let (certificate, key) = issue("PROXY_P");
    stage.server.put(&tls_secret(certificate.as_bytes(), key.as_bytes()));
    stage.reconcile().await.unwrap();
    assert_eq!(stage.server.list::<Deployment>().len(), 2);
}

/// Quota, limit range, webhook and policy all show up in the same place.
#[tokio::test(start_paused = true)]
async fn a_pod_that_the_cluster_refuses_is_in_status_in_its_words() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    let words = "pods \"proxy-v-backup-1\" is forbidden: exceeded quota: q, requested: limits.cpu=2";
    let refuses = |status: &str| {
        let condition = json!({"type": "ReplicaFailure", "status": status, "reason": "FailedCreate", "message": words});
        json!({"status": {"conditions": [condition]}})
    };
    stage
        .server
        .merge::<Deployment>(NAMESPACE, "proxy-v-backup", &refuses("True"));
    stage.caches_follow().await;
    stage.settle().await;
    let message = stage.until_ready_is("PodRefused").await;
    assert!(
        message.contains("proxy-v-backup") && message.ends_with(words),
        "{message}"
    );
    // And it goes when the cluster allows the pod.
    stage
        .server
        .merge::<Deployment>(NAMESPACE, "proxy-v-backup", &refuses("False"));
    stage.caches_follow().await;
    stage.settle().await;
    for _ in 0..600 {
        if stage.ready().is_some_and(|(reason, _)| reason != "PodRefused") {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", stage.ready());
}
