use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use kube::{api::ObjectMeta, client::Body};
use serde_json::{Value, json};

use super::*;

type Act = Box<dyn FnOnce() + Send>;

/// Secrets of namespace `netcool` behind HTTP.
#[derive(Clone, Default)]
struct Server {
    secrets: Arc<Mutex<HashMap<String, Value>>>,
    requests: Arc<AtomicUsize>,
    /// Runs between reading and answering.
    meanwhile: Arc<Mutex<Option<Act>>>,
}

impl Server {
    fn put(&self, name: &str, version: u32, key: &str) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": "netcool", "resourceVersion": version.to_string()},
            "data": {key: "eA=="},
        });
        self.secrets.lock().unwrap().insert(name.to_owned(), secret);
    }

    fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }
}

impl tower_service::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let name = request
            .uri()
            .path()
            .trim_start_matches("/api/v1/namespaces/netcool/secrets/");
        let found = self.secrets.lock().unwrap().get(name).cloned();
        if let Some(act) = self.meanwhile.lock().unwrap().take() {
            act();
        }
        let (code, body) = match found {
            Some(secret) => (200, secret),
            None => (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}),
            ),
        };
        let answer = http::Response::builder()
            .status(code)
            .body(Body::from(body.to_string().into_bytes()));
        Box::pin(async move { Ok(answer.unwrap()) })
    }
}

fn pair(name: &str) -> ObjectRef<GuardedPair> {
    ObjectRef::new(name).within("netcool")
}

fn wanted(names: &[&str]) -> BTreeSet<Reference> {
    names.iter().map(|name| Reference::secret(name)).collect()
}

fn secret(name: &str, version: u32) -> PartialObjectMeta<Secret> {
    PartialObjectMeta {
        types: None,
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("netcool".to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        },
        _phantom: std::marker::PhantomData,
    }
}

fn state(references: &Arc<References>) -> WatchState {
    WatchState {
        kind: ReferenceKind::Secret,
        references: Arc::clone(references),
        found: HashSet::new(),
    }
}

#[tokio::test]
async fn reads_what_is_there_and_says_what_is_not() {
    let (server, references) = (Server::default(), References::default());
    server.put("login", 7, "AuthUserName");
    let contents = references
        .read(&server.client(), &pair("a"), &wanted(&["login", "absent"]))
        .await
        .unwrap();
    let login = contents[&Reference::secret("login")].as_ref().unwrap();
    assert_eq!(login.data["AuthUserName"], b"x");
    assert_eq!(contents[&Reference::secret("absent")], None);
    assert!(references.unchanged("netcool", &versions(&contents)));
}

#[tokio::test]
async fn a_change_is_told_to_those_who_refer_to_it_and_to_nobody_else() {
    let (server, references) = (Server::default(), Arc::new(References::default()));
    server.put("login", 7, "AuthUserName");
    let mut state = state(&references);
    let client = server.client();
    let contents = references
        .read(&client, &pair("a"), &wanted(&["login", "absent"]))
        .await
        .unwrap();
    references.read(&client, &pair("b"), &wanted(&["other"])).await.unwrap();

    assert_eq!(
        state.take_in(Event::Apply(secret("login", 7))),
        [],
        "that version was read"
    );
    assert_eq!(state.take_in(Event::Apply(secret("unrelated", 9))), []);
    assert_eq!(state.take_in(Event::Apply(secret("login", 8))), [pair("a")]);
    assert!(!references.unchanged("netcool", &versions(&contents)));

    let contents = references
        .read(&client, &pair("a"), &wanted(&["login", "absent"]))
        .await
        .unwrap();
    assert_eq!(
        state.take_in(Event::Apply(secret("absent", 10))),
        [pair("a")],
        "it was created"
    );
    assert!(!references.unchanged("netcool", &versions(&contents)));
    let contents = references.read(&client, &pair("a"), &wanted(&["login"])).await.unwrap();
    assert_eq!(state.take_in(Event::Delete(secret("login", 11))), [pair("a")]);
    assert!(!references.unchanged("netcool", &versions(&contents)));
    assert_eq!(
        state.take_in(Event::Apply(secret("absent", 12))),
        [],
        "it is no longer referred to"
    );
}

#[tokio::test]
async fn a_change_while_it_is_read_is_not_lost() {
    let (server, references) = (Server::default(), Arc::new(References::default()));
    server.put("login", 7, "AuthUserName");
    let mut state = state(&references);
    *server.meanwhile.lock().unwrap() = Some(Box::new(move || {
        assert_eq!(state.take_in(Event::Apply(secret("login", 8))), [pair("a")]);
    }));
    let contents = references
        .read(&server.client(), &pair("a"), &wanted(&["login"]))
        .await
        .unwrap();
    assert!(!references.unchanged("netcool", &versions(&contents)));
}

#[tokio::test]
async fn what_was_deleted_while_the_watch_was_down_is_read_again() {
    let (server, references) = (Server::default(), Arc::new(References::default()));
    server.put("login", 7, "AuthUserName");
    server.put("kept", 8, "AuthUserName");
    let mut state = state(&references);
    let contents = references
        .read(&server.client(), &pair("a"), &wanted(&["login", "kept", "absent"]))
        .await
        .unwrap();
    state.take_in::<Secret>(Event::Init);
    state.take_in(Event::InitApply(secret("kept", 8)));
    state.take_in(Event::InitApply(secret("unrelated", 9)));
    assert_eq!(state.take_in::<Secret>(Event::InitDone), [pair("a")]);
    assert!(!references.unchanged("netcool", &versions(&contents)));
}

#[tokio::test]
async fn the_content_is_read_once_for_each_reading_and_not_for_each_watch_event() {
    let (server, references) = (Server::default(), Arc::new(References::default()));
    server.put("login", 7, "AuthUserName");
    let mut state = state(&references);
    references
        .read(&server.client(), &pair("a"), &wanted(&["login"]))
        .await
        .unwrap();
    for version in 8..20 {
        state.take_in(Event::Apply(secret("login", version)));
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_pair_that_is_gone_refers_to_nothing() {
    let (server, references) = (Server::default(), Arc::new(References::default()));
    let mut state = state(&references);
    references
        .read(&server.client(), &pair("a"), &wanted(&["login"]))
        .await
        .unwrap();
    references.forget(&pair("a"));
    assert_eq!(state.take_in(Event::Apply(secret("login", 8))), []);
    assert!(references.entries().is_empty());
}
