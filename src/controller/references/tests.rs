//! The index and its watches against a scripted API server.

use std::time::Duration;

use fake_api_server::{ApiServer, Fault, Match, Verb};
use kube::api::ObjectMeta;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::*;

struct Stage {
    server: ApiServer,
    references: References,
    requeued: mpsc::UnboundedReceiver<ObjectRef<GuardedPair>>,
}

impl Stage {
    fn new() -> Self {
        let server = ApiServer::new();
        let (requeue, requeued) = mpsc::unbounded_channel();
        Self {
            references: References::new(server.client(), requeue),
            server,
            requeued,
        }
    }

    fn put(&self, name: &str, value: &str) {
        self.server.put(&secret("netcool", name, value));
    }

    async fn read(&self, pair: &ObjectRef<GuardedPair>, names: &[&str]) -> Contents {
        let wanted = names.iter().map(|name| Reference::secret(name)).collect();
        self.references.read(pair, &wanted).await.unwrap()
    }

    fn unchanged(&self, contents: &Contents) -> bool {
        self.references.unchanged("netcool", &versions(contents))
    }

    /// The watches are open, and all that was requeued until then.
    async fn watched(&mut self, watches: usize) -> Vec<ObjectRef<GuardedPair>> {
        let open = |server: &ApiServer| server.count(&Match::any().verb(Verb::Watch)) >= watches;
        timeout(Duration::from_secs(10), self.server.until(open))
            .await
            .expect("the watches are open");
        self.requeued().await
    }

    /// All that is requeued before nothing happens any more.
    async fn requeued(&mut self) -> Vec<ObjectRef<GuardedPair>> {
        // Time is paused: it passes when no task has anything to do.
        sleep(Duration::from_millis(1)).await;
        let mut pairs = Vec::new();
        while let Ok(pair) = self.requeued.try_recv() {
            pairs.push(pair);
        }
        pairs
    }
}

fn secret(namespace: &str, name: &str, value: &str) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([("key".to_owned(), k8s_openapi::ByteString(value.into()))].into()),
        ..Secret::default()
    }
}

fn pair(name: &str) -> ObjectRef<GuardedPair> {
    ObjectRef::new(name).within("netcool")
}

#[tokio::test(start_paused = true)]
async fn reads_what_is_there_and_says_what_is_not() {
    let stage = Stage::new();
    stage.put("login", "x");
    let contents = stage.read(&pair("a"), &["login", "absent"]).await;
    let login = contents[&Reference::secret("login")].as_ref().unwrap();
    assert_eq!(login.data["key"], b"x");
    assert_eq!(contents[&Reference::secret("absent")], None);
    assert!(stage.unchanged(&contents));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_to_those_who_refer_to_it_and_to_nobody_else() {
    let mut stage = Stage::new();
    stage.put("login", "1");
    let contents = stage.read(&pair("a"), &["login", "absent"]).await;
    assert_eq!(stage.watched(1).await, [], "what was read is not told again");
    stage.read(&pair("b"), &["other"]).await;
    assert!(stage.unchanged(&contents));

    stage.put("unrelated", "1");
    assert_eq!(stage.requeued().await, []);
    stage.put("login", "2");
    assert_eq!(stage.requeued().await, [pair("a")]);
    assert!(!stage.unchanged(&contents));

    let contents = stage.read(&pair("a"), &["login", "absent"]).await;
    stage.put("absent", "1");
    assert_eq!(stage.requeued().await, [pair("a")], "it was created");
    assert!(!stage.unchanged(&contents));
    let contents = stage.read(&pair("a"), &["login"]).await;
    stage.server.delete::<Secret>("netcool", "login");
    assert_eq!(stage.requeued().await, [pair("a")]);
    assert!(!stage.unchanged(&contents));
    stage.put("absent", "2");
    assert_eq!(stage.requeued().await, [], "it is no longer referred to");
}

#[tokio::test(start_paused = true)]
async fn a_change_while_it_is_read_is_not_lost() {
    let mut stage = Stage::new();
    stage.put("login", "1");
    stage.read(&pair("a"), &["login"]).await;
    stage.watched(1).await;
    let fault = Fault::SlowAnswer(Duration::from_secs(1));
    stage.server.fault(Match::new(Verb::Get, "secrets"), fault);
    let of = pair("a");
    let (contents, ()) = futures::join!(stage.read(&of, &["login"]), async {
        sleep(Duration::from_millis(500)).await;
        stage.put("login", "2");
    });
    assert!(!stage.unchanged(&contents));
    assert_eq!(stage.requeued().await, [pair("a")]);
}

#[tokio::test(start_paused = true)]
async fn a_change_between_the_reading_and_the_first_list_of_its_watch_is_not_lost() {
    let mut stage = Stage::new();
    stage.put("login", "1");
    stage.put("gone", "1");
    let slow = Fault::SlowRequest(Duration::from_secs(5));
    stage.server.fault(Match::new(Verb::List, "secrets"), slow);
    let contents = stage.read(&pair("a"), &["login"]).await;
    let other = stage.read(&pair("b"), &["gone"]).await;
    stage.put("login", "2");
    stage.server.delete::<Secret>("netcool", "gone");
    let mut requeued = stage.watched(1).await;
    requeued.sort_by_key(|pair| pair.name.clone());
    assert_eq!(requeued, [pair("a"), pair("b")]);
    assert!(!stage.unchanged(&contents) && !stage.unchanged(&other));
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_while_the_watch_was_down_is_read_again() {
    let mut stage = Stage::new();
    stage.put("login", "1");
    stage.put("kept", "1");
    let contents = stage.read(&pair("a"), &["login", "kept", "absent"]).await;
    let kept = stage.read(&pair("b"), &["kept"]).await;
    stage.watched(1).await;
    stage
        .server
        .fault(Match::new(Verb::Watch, "secrets"), Fault::status(500));
    stage.server.end_watches();
    stage
        .server
        .until(|server| server.count(&Match::new(Verb::Watch, "secrets")) == 2)
        .await;
    stage.server.delete::<Secret>("netcool", "login");
    stage.server.forget_history();
    sleep(Duration::from_secs(120)).await;
    assert!(stage.requeued().await.contains(&pair("a")));
    assert!(!stage.unchanged(&contents) && stage.unchanged(&kept));
}

#[tokio::test(start_paused = true)]
async fn the_content_is_read_once_for_each_reading_and_not_for_each_watch_event() {
    let mut stage = Stage::new();
    stage.put("login", "0");
    stage.read(&pair("a"), &["login"]).await;
    stage.watched(1).await;
    for value in 1..20 {
        stage.put("login", &value.to_string());
        stage.requeued().await;
    }
    assert_eq!(stage.server.count(&Match::new(Verb::Get, "secrets")), 1);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_referred_to_is_watched() {
    let mut stage = Stage::new();
    stage.server.put(&secret("elsewhere", "x", "1"));
    assert_eq!(stage.watched(0).await, []);
    stage.read(&pair("a"), &["login"]).await;
    stage.read(&pair("b"), &["login", "other"]).await;
    stage.watched(1).await;
    let watches = |server: &ApiServer| -> Vec<_> {
        let requests = server
            .requests()
            .into_iter()
            .filter(|request| request.verb == Verb::Watch);
        requests
            .map(|request| (request.resource, request.namespace.unwrap_or_default()))
            .collect()
    };
    assert_eq!(watches(&stage.server), [("secrets".to_owned(), "netcool".to_owned())]);

    // It ends with the last who needs it.
    stage.references.forget(&pair("a"));
    stage.put("login", "1");
    assert_eq!(stage.requeued().await, [pair("b")]);
    stage.references.forget(&pair("b"));
    stage.put("login", "2");
    assert_eq!(stage.requeued().await, []);
    assert!(stage.references.index.entries().is_empty());
    stage.server.take_requests();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(stage.server.requests(), []);
}
