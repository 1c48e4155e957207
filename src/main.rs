//! The `proxypair` binary.

use kube::CustomResourceExt;

fn main() {
    print!("{}", serde_saphyr::to_string(&proxypair::api::ProxyPair::crd()).unwrap());
}
