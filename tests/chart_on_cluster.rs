//! The chart on a real Kubernetes: install, upgrade, uninstall, install again. `make cluster image` comes first.
//!
//! Other operators may run in the same cluster. The operator here looks after a namespace of its own, and what is done to the definition is
//! done to a copy of it in another API group.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::helm::{attempt, chart, in_repository, run, run_refused};

/// How long anything that a test waits for may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Two namespaces of one test's own: for the release and for its ProxyPairs. Both end with the test, and all that is in them.
struct Namespaces {
    release: String,
    pairs: String,
}

impl Namespaces {
    fn create(test: &str) -> Self {
        let release = format!("chart-{test}-{}", std::process::id());
        let pairs = format!("{release}-pairs");
        for name in [&release, &pairs] {
            run("kubectl", &["create", "namespace", name]);
            run(
                "kubectl",
                &[
                    "label",
                    "namespace",
                    name,
                    "pod-security.kubernetes.io/enforce=restricted",
                ],
            );
        }
        Self { release, pairs }
    }

    fn tell(&self) {
        for namespace in [&self.release, &self.pairs] {
            for args in [
                &[
                    "get",
                    "all,proxypairs.proxypair.dev,leases",
                    "--namespace",
                    namespace,
                    "--output",
                    "wide",
                ][..],
                &["get", "events", "--namespace", namespace],
                &[
                    "logs",
                    "--namespace",
                    namespace,
                    "--selector",
                    "app.kubernetes.io/name=proxypair",
                    "--tail=40",
                    "--prefix",
                ],
            ] {
                eprintln!("{}", String::from_utf8_lossy(&attempt("kubectl", args).stdout));
            }
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        for args in [
            &[
                "uninstall",
                "proxypair",
                "--namespace",
                &self.release,
                "--ignore-not-found",
            ][..],
            &["uninstall", "other", "--namespace", &self.release, "--ignore-not-found"],
        ] {
            attempt("helm", args);
        }
        attempt(
            "kubectl",
            &["delete", "namespace", &self.pairs, &self.release, "--wait=false"],
        );
    }
}

/// `IMAGE`, or what `make image` builds without it, as repository and tag.
fn image_values() -> [String; 2] {
    let image = std::env::var("IMAGE").unwrap_or_else(|_| "proxypair.test/proxypair:dev".to_owned());
    let (repository, tag) = image.rsplit_once(':').expect("IMAGE has no tag");
    [format!("image.repository={repository}"), format!("image.tag={tag}")]
}

#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > DEADLINE => panic!("not within {DEADLINE:?}: {what}; last seen: {seen}"),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn got(args: &[&str]) -> Result<Value, String> {
    let mut all = vec!["get", "--output", "json"];
    all.extend(args);
    let output = attempt("kubectl", &all);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

/// The ProxyPair that the notes offer to copy.
fn manifest_in(notes: &str) -> String {
    let lines = notes
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("apiVersion: proxypair.dev"));
    lines
        .take_while(|line| !line.trim().is_empty())
        .fold(String::new(), |text, line| {
            text + line.get(5..).unwrap_or_default() + "\n"
        })
}

fn apply(manifest: &str) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pair-{}.yaml", std::process::id()));
    fs::write(&path, manifest).unwrap();
    run("kubectl", &["apply", "--filename", &path.display().to_string()]);
}

struct Operator {
    namespaces: Namespaces,
}

impl Operator {
    fn helm(&self, verb: &str, more: &[&str]) -> String {
        let (chart, watch) = (chart(), format!("watchNamespace={}", self.namespaces.pairs));
        let [repository, tag] = image_values();
        let mut args = vec![
            verb,
            "proxypair",
            &chart,
            "--namespace",
            &self.namespaces.release,
            "--wait",
            "--timeout",
            "90s",
        ];
        for value in [&repository, &tag, &watch, "crds.install=false"] {
            args.extend(["--set", value]);
        }
        args.extend(more);
        run("helm", &args)
    }

    fn can(&self, verb: &str, resource: &str, namespace: &str) -> bool {
        let account = format!("system:serviceaccount:{}:proxypair", self.namespaces.release);
        let output = attempt(
            "kubectl",
            &[
                "auth",
                "can-i",
                verb,
                resource,
                "--namespace",
                namespace,
                "--as",
                &account,
            ],
        );
        output.status.success()
    }

    fn pods(&self) -> Result<Vec<Value>, String> {
        let list = got(&["pods", "--namespace", &self.namespaces.release])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods
            .into_iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .collect())
    }

    fn leader(&self) -> Result<String, String> {
        let lease = got(&["lease", "proxypair", "--namespace", &self.namespaces.release])?;
        lease["spec"]["holderIdentity"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| lease["spec"].to_string())
    }

    fn led_by_one_of_its_pods(&self) {
        eventually("one of the pods leads", || {
            let (leader, pods) = (self.leader()?, self.pods()?);
            if pods.iter().any(|pod| pod["metadata"]["name"] == leader) {
                Ok(())
            } else {
                Err(leader)
            }
        });
    }

    fn logs(&self) -> String {
        run(
            "kubectl",
            &[
                "logs",
                "--namespace",
                &self.namespaces.release,
                "--selector",
                "app.kubernetes.io/name=proxypair",
                "--tail=-1",
            ],
        )
    }
}

#[test]
#[ignore = "needs the cluster"]
fn an_operator_is_installed_upgraded_taken_away_and_installed_again() {
    if got(&["crd", "proxypairs.proxypair.dev"]).is_err() {
        // As Helm, so that it can take the definition over later.
        let file = in_repository("crds/proxypairs.yaml").display().to_string();
        run(
            "kubectl",
            &["apply", "--server-side", "--field-manager=helm", "--filename", &file],
        );
    }
    let operator = Operator {
        namespaces: Namespaces::create("operator"),
    };
    let Namespaces { release, pairs } = &operator.namespaces;

    let notes = operator.helm("install", &[]);
    operator.led_by_one_of_its_pods();
    let mut nodes: Vec<_> = operator
        .pods()
        .unwrap()
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    nodes.sort();
    nodes.dedup();
    let schedulable = got(&["nodes"]).unwrap()["items"].as_array().map_or(0, Vec::len);
    assert_eq!(
        nodes.len(),
        schedulable.min(2),
        "leader and standby are on the same node: {nodes:?}"
    );

    apply(&manifest_in(&notes));
    for (kind, name) in [
        ("deployment", "proxy-v-primary"),
        ("deployment", "proxy-v-backup"),
        ("service", "proxy-v"),
        ("service", "proxy-v-primary"),
        ("secret", "proxy-v-gate-tls"),
        ("serviceaccount", "proxy-v-proxy"),
        ("poddisruptionbudget", "proxy-v"),
    ] {
        eventually(&format!("{kind} {name} is there"), || {
            got(&[kind, name, "--namespace", pairs])
        });
    }
    eventually("the operator has written the status", || {
        let pair = got(&["proxypairs.proxypair.dev", "proxy-v", "--namespace", pairs])?;
        if pair["status"]["conditions"].is_array() {
            Ok(())
        } else {
            Err(pair["status"].to_string())
        }
    });
    let proxy = eventually("a proxy pod runs the operator's image", || {
        let deployment = got(&["deployment", "proxy-v-primary", "--namespace", pairs])?;
        Ok(deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone())
    });
    assert_eq!(proxy, operator.pods().unwrap()[0]["spec"]["containers"][0]["image"]);

    // The rights that the chart gives are those that the code uses.
    let logs = operator.logs();
    assert!(
        !logs.to_lowercase().contains("forbidden"),
        "the operator was refused something: {logs}"
    );
    for (verb, resource, namespace, allowed) in [
        ("patch", "services", pairs, true),
        ("get", "secrets", pairs, true),
        ("delete", "secrets", pairs, false),
        ("get", "secrets", release, false),
        ("update", "proxypairs", pairs, false),
        ("create", "pods", pairs, false),
        ("delete", "leases", release, false),
        ("update", "leases/somebody-elses", release, false),
    ] {
        assert_eq!(
            operator.can(verb, resource, namespace),
            allowed,
            "{verb} {resource} in {namespace}"
        );
    }

    let done = AtomicBool::new(false);
    let fewest = thread::scope(|scope| {
        let fewest = scope.spawn(|| {
            let mut fewest = u64::MAX;
            while !done.load(Ordering::Relaxed) {
                if let Ok(deployment) = got(&["deployment", "proxypair", "--namespace", release]) {
                    fewest = fewest.min(deployment["status"]["availableReplicas"].as_u64().unwrap_or(0));
                }
                thread::sleep(Duration::from_millis(100));
            }
            fewest
        });
        operator.helm("upgrade", &["--set", r"log=info\,proxypair=debug"]);
        done.store(true, Ordering::Relaxed);
        fewest.join().unwrap()
    });
    assert!(fewest >= 2, "during the upgrade {fewest} operator pods were available");
    operator.led_by_one_of_its_pods();
    assert!(operator.pods().unwrap().iter().all(|pod| {
        pod["spec"]["containers"][0]["args"]
            .to_string()
            .contains("--log=info,proxypair=debug")
    }));

    let before = got(&["service", "proxy-v", "--namespace", pairs]).unwrap();
    run("helm", &["uninstall", "proxypair", "--namespace", release, "--wait"]);
    eventually("the operator is gone", || match operator.pods()?.len() {
        0 => Ok(()),
        some => Err(format!("{some} pods")),
    });
    got(&["proxypairs.proxypair.dev", "proxy-v", "--namespace", pairs]).unwrap();
    got(&["deployment", "proxy-v-primary", "--namespace", pairs]).unwrap();
    let after = got(&["service", "proxy-v", "--namespace", pairs]).unwrap();
    assert_eq!(before["spec"], after["spec"], "the Service changed with the uninstall");

    operator.helm("install", &[]);
    operator.led_by_one_of_its_pods();
}

#[test]
#[ignore = "needs the cluster"]
fn whoever_may_edit_a_namespace_may_edit_its_proxypairs() {
    let operator = Operator {
        namespaces: Namespaces::create("roles"),
    };
    let Namespaces { release, pairs } = &operator.namespaces;
    let [repository, tag] = image_values();
    let watch = format!("watchNamespace={pairs}");
    let chart = chart();
    let mut args = vec!["install", "proxypair", &chart, "--namespace", release];
    for value in [&repository, &tag, &watch, "crds.install=false", "rbac.aggregate=true"] {
        args.extend(["--set", value]);
    }
    run("helm", &args);
    for (role, user) in [("view", "viewer"), ("edit", "editor"), ("admin", "owner")] {
        let (role, user) = (format!("--clusterrole={role}"), format!("--user={user}"));
        run(
            "kubectl",
            &["create", "rolebinding", &user[7..], &role, &user, "--namespace", pairs],
        );
    }
    let may = |user: &str, verb: &str, what: &str| {
        attempt(
            "kubectl",
            &["auth", "can-i", verb, what, "--namespace", pairs, "--as", user],
        )
        .status
        .success()
    };
    for (user, verb, what, allowed) in [
        ("viewer", "list", "proxypairs.proxypair.dev", true),
        ("viewer", "patch", "proxypairs.proxypair.dev", false),
        ("viewer", "get", "secrets", false),
        ("editor", "get", "proxypairs.proxypair.dev", true),
        ("editor", "create", "proxypairs.proxypair.dev", true),
        ("owner", "delete", "proxypairs.proxypair.dev", true),
        ("stranger", "get", "proxypairs.proxypair.dev", false),
    ] {
        // The aggregation takes a moment, so what is to be refused is asked last by the order of the list.
        if allowed {
            eventually(&format!("{user} may {verb} {what}"), || {
                if may(user, verb, what) {
                    Ok(())
                } else {
                    Err("no".to_owned())
                }
            });
        } else {
            assert!(!may(user, verb, what), "{user} may {verb} {what}");
        }
    }
}

/// A copy of the chart whose definition has names of its own, short ones included, so that `kubectl get pp` goes on meaning the real one.
struct ChartCopy {
    directory: PathBuf,
    group: String,
}

impl ChartCopy {
    fn new(group: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(group);
        // One of a run that was killed.
        let _ = fs::remove_dir_all(&directory);
        for folder in ["templates", "files"] {
            fs::create_dir_all(directory.join(folder)).unwrap();
            for file in fs::read_dir(in_repository("charts/proxypair").join(folder))
                .unwrap()
                .map(Result::unwrap)
            {
                fs::copy(file.path(), directory.join(folder).join(file.file_name())).unwrap();
            }
        }
        for file in ["Chart.yaml", "values.yaml", "values.schema.json"] {
            fs::copy(in_repository("charts/proxypair").join(file), directory.join(file)).unwrap();
        }
        let copy = Self {
            directory,
            group: group.to_owned(),
        };
        copy.edit_definition(|text| {
            let words = [
                ("proxypair.dev", group),
                ("proxypairs", "paircopies"),
                ("singular: proxypair", "singular: paircopy"),
            ];
            let names = [("- pp\n", "- pairc\n"), ("- netcool\n", "- copies\n")];
            words
                .iter()
                .chain(&names)
                .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
        });
        copy
    }

    fn edit_definition(&self, edit: impl Fn(&str) -> String) {
        let path = self.directory.join("files/proxypairs.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let edited = edit(&text);
        assert_ne!(text, edited, "nothing was edited");
        fs::write(path, edited).unwrap();
    }

    fn definition(&self) -> String {
        format!("paircopies.{}", self.group)
    }

    /// The operator's pods do not run: their image does not exist.
    fn args<'a>(&'a self, verb: &'a str, release: &'a str, namespace: &'a str, chart: &'a str) -> Vec<&'a str> {
        let set = [
            "--set",
            "image.repository=proxypair.test/none",
            "--set",
            "image.pullPolicy=Never",
            "--set",
            "rbac.aggregate=false",
        ];
        let mut args = vec![verb, release, chart, "--namespace", namespace];
        args.extend(set);
        args
    }
}

impl Drop for ChartCopy {
    fn drop(&mut self) {
        attempt(
            "kubectl",
            &[
                "delete",
                "crd",
                &self.definition(),
                "--ignore-not-found",
                "--wait=false",
            ],
        );
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
#[ignore = "needs the cluster"]
fn the_definition_is_upgraded_with_the_chart_and_outlives_it() {
    let namespaces = Namespaces::create("definition");
    let Namespaces { release, pairs } = &namespaces;
    let copy = ChartCopy::new(&format!("chart{}.example.com", std::process::id()));
    let chart = copy.directory.display().to_string();
    let watch = format!("watchNamespace={pairs}");
    let helm = |verb: &str, name: &str, more: &[&str]| {
        let mut args = copy.args(verb, name, release, &chart);
        args.extend(["--set", &watch]);
        args.extend(more);
        run("helm", &args)
    };
    let definition = copy.definition();

    let notes = helm("install", "proxypair", &[]);
    run(
        "kubectl",
        &[
            "wait",
            "--for=condition=Established",
            "crd",
            &definition,
            "--timeout=30s",
        ],
    );
    apply(&manifest_in(&notes).replace("proxypair.dev", &copy.group));
    let still_there = || got(&[&definition, "proxy-v", "--namespace", pairs]).unwrap()["metadata"]["uid"].to_string();
    let uid = still_there();

    copy.edit_definition(|text| text.replace("The ObjectServer that receives the events.", "Where the events go."));
    helm("upgrade", "proxypair", &[]);
    let upgraded = got(&["crd", &definition]).unwrap().to_string();
    assert!(
        upgraded.contains("Where the events go."),
        "the upgrade left the definition as it was"
    );

    run("helm", &["uninstall", "proxypair", "--namespace", release]);
    assert_eq!(still_there(), uid);

    // The same release again takes it up, and upgrades it again.
    copy.edit_definition(|text| text.replace("Where the events go.", "Who gets the events."));
    helm("install", "proxypair", &[]);
    assert!(
        got(&["crd", &definition])
            .unwrap()
            .to_string()
            .contains("Who gets the events.")
    );
    helm("upgrade", "proxypair", &["--set", "crds.install=false"]);
    assert_eq!(still_there(), uid);
    run("helm", &["uninstall", "proxypair", "--namespace", release]);
    assert_eq!(still_there(), uid);

    // Another release is told whose it is, and has two ways on.
    let mut args = copy.args("install", "other", release, &chart);
    args.extend(["--set", &watch]);
    let said = run_refused("helm", &args);
    assert!(
        said.contains("invalid ownership metadata") && said.contains("must equal \"other\""),
        "{said}"
    );
    attempt(
        "helm",
        &["uninstall", "other", "--namespace", release, "--ignore-not-found"],
    );
    helm("install", "other", &["--set", "crds.install=false"]);
    run("helm", &["uninstall", "other", "--namespace", release]);
    helm("install", "other", &["--take-ownership"]);
    run("helm", &["uninstall", "other", "--namespace", release]);
    assert_eq!(still_there(), uid);
}

#[test]
#[ignore = "needs the cluster"]
fn the_api_server_accepts_whatever_the_chart_renders() {
    let namespaces = Namespaces::create("rendered");
    let Namespaces { release, pairs } = &namespaces;
    let chart = chart();
    let watch = format!("watchNamespace={pairs}");
    for values in [
        vec![],
        vec![
            "replicas=1",
            "podLabels.team=netcool",
            "priorityClassName=system-cluster-critical",
        ],
        vec![&watch, "tolerations[0].operator=Exists", "nodeSelector.zone=a"],
        vec![
            "imagePullSecrets[0].name=registry",
            "resources.limits.cpu=1",
            "serviceAccount.annotations.a=b",
            "podAnnotations.a=b",
        ],
    ] {
        let mut args = vec![
            "template",
            "proxypair",
            &chart,
            "--namespace",
            release,
            "--set",
            testkit::helm::REPOSITORY,
        ];
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("rendered-{}.yaml", std::process::id()));
        fs::write(&path, run("helm", &args)).unwrap();
        let file = path.display().to_string();
        let manager = "--field-manager=helm";
        let args = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "--force-conflicts",
            manager,
            "--filename",
            &file,
        ];
        let output = attempt("kubectl", &args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "with {values:?} the API server said: {said}"
        );
    }
}
