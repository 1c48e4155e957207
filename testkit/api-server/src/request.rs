//! A request, as the log and the faults see it.

use std::collections::BTreeMap;

use http::{header, request::Parts};
use serde_json::Value;

/// What a request asks for, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// GET of one object.
    Get,
    /// GET of a collection.
    List,
    /// GET of a collection with `watch=true`.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH of any kind.
    Patch,
    /// DELETE of one object.
    Delete,
}

impl Verb {
    /// Whether it changes objects.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Patch | Self::Delete)
    }
}

/// How the body of a PATCH is meant, from its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchKind {
    /// Server-side apply.
    Apply,
    /// RFC 7386. A strategic merge patch is treated as one, too.
    Merge,
    /// RFC 6902.
    Json,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What it asks for.
    pub verb: Verb,
    /// API group, empty for the core group.
    pub group: String,
    /// Plural name, such as `services`.
    pub resource: String,
    /// Such as `status`.
    pub subresource: Option<String>,
    /// `None` for cluster-scoped resources, and for collections over all namespaces.
    pub namespace: Option<String>,
    /// `None` for collections and for what is created.
    pub name: Option<String>,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// Set for PATCH alone.
    pub patch: Option<PatchKind>,
    /// Whether the answer has to be `PartialObjectMetadata`.
    pub metadata_only: bool,
    /// The body, `Null` if there is none.
    pub body: Value,
}

impl Request {
    /// Reads an HTTP request. The error says what cannot be understood.
    pub(crate) fn read(head: &Parts, body: &[u8]) -> Result<Self, String> {
        let path = head.uri.path();
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let group = match segments.next() {
            Some("api") => "",
            Some("apis") => segments.next().unwrap_or_default(),
            _ => return Err(format!("{path} is no path of an API resource")),
        };
        let _version = segments.next();
        let rest: Vec<&str> = segments.collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", _, "status" | "finalize"] => (None, &rest[..]),
            ["namespaces", namespace, more @ ..] if !more.is_empty() => (Some((*namespace).to_owned()), &rest[2..]),
            _ => (None, &rest[..]),
        };
        let (resource, name, subresource) = match *rest {
            [resource] => (resource, None, None),
            [resource, name] => (resource, Some(name), None),
            [resource, name, subresource] => (resource, Some(name), Some(subresource)),
            _ => return Err(format!("{path} is no path of an API resource")),
        };
        let query = query(head.uri.query().unwrap_or_default());
        let watch = query.get("watch").is_some_and(|value| value == "true" || value == "1");
        let verb = match (head.method.as_str(), name) {
            ("GET", Some(_)) => Verb::Get,
            ("GET", None) if watch => Verb::Watch,
            ("GET", None) => Verb::List,
            ("POST", _) => Verb::Create,
            ("PUT", Some(_)) => Verb::Update,
            ("PATCH", Some(_)) => Verb::Patch,
            ("DELETE", Some(_)) => Verb::Delete,
            (method, _) => return Err(format!("{method} of {path} is not supported")),
        };
        let header = |name| {
            head.headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let patch = match (verb, header(header::CONTENT_TYPE)) {
            (Verb::Patch, "application/apply-patch+yaml" | "application/apply-patch+cbor") => Some(PatchKind::Apply),
            (Verb::Patch, "application/merge-patch+json" | "application/strategic-merge-patch+json") => {
                Some(PatchKind::Merge)
            }
            (Verb::Patch, "application/json-patch+json") => Some(PatchKind::Json),
            (Verb::Patch, other) => return Err(format!("a patch of content type {other:?} is not supported")),
            _ => None,
        };
        let body = match body {
            [] => Value::Null,
            body => serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?,
        };
        Ok(Self {
            verb,
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.map(str::to_owned),
            namespace,
            name: name.map(str::to_owned),
            query,
            patch,
            metadata_only: header(header::ACCEPT).contains("as=PartialObjectMetadata"),
            body,
        })
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// Decodes `application/x-www-form-urlencoded`. A broken escape stays as it is.
fn decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        decoded.push(match (escaped, first) {
            (Some(byte), _) => byte,
            (None, b'+') => b' ',
            (None, byte) => *byte,
        });
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, uri: &str) -> Result<Request, String> {
        let (head, ()) = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(())
            .unwrap()
            .into_parts();
        Request::read(&head, b"")
    }

    #[test]
    fn a_path_is_taken_apart() {
        let request = read("PUT", "/apis/netcool.example.com/v1/namespaces/n/proxypairs/p/status?").unwrap();
        assert_eq!(
            (request.verb, request.group.as_str()),
            (Verb::Update, "netcool.example.com")
        );
        assert_eq!(
            (request.namespace.as_deref(), request.name.as_deref()),
            (Some("n"), Some("p"))
        );
        assert_eq!(
            (request.resource.as_str(), request.subresource.as_deref()),
            ("proxypairs", Some("status"))
        );
        let core = read("PATCH", "/api/v1/namespaces/n/pods/p").unwrap();
        assert_eq!((core.group.as_str(), core.resource.as_str()), ("", "pods"));
        assert_eq!(core.patch, Some(PatchKind::Merge));
    }

    #[test]
    fn a_namespace_is_a_resource_of_its_own() {
        let namespace = read("GET", "/api/v1/namespaces/n").unwrap();
        assert_eq!(
            (namespace.resource.as_str(), namespace.name.as_deref()),
            ("namespaces", Some("n"))
        );
        let status = read("GET", "/api/v1/namespaces/n/status").unwrap();
        assert_eq!(
            (status.resource.as_str(), status.subresource.as_deref()),
            ("namespaces", Some("status"))
        );
    }

    #[test]
    fn lists_and_watches_differ_by_their_query() {
        assert_eq!(read("GET", "/api/v1/pods?").unwrap().verb, Verb::List);
        let watch = read("GET", "/api/v1/pods?&watch=true&labelSelector=a%3Db%2Cc+d%").unwrap();
        assert_eq!(
            (watch.verb, watch.query["labelSelector"].as_str()),
            (Verb::Watch, "a=b,c d%")
        );
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        for (method, uri) in [
            ("GET", "/healthz"),
            ("DELETE", "/api/v1/pods"),
            ("GET", "/api/v1/a/b/c/d/e"),
        ] {
            assert!(read(method, uri).is_err(), "{method} {uri}");
        }
    }
}
