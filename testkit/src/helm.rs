//! Helm on the project's chart. A run that ends otherwise than expected prints what was run and what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::directory::repository;

/// A name that is set in place of the image that the chart asks for.
pub const REPOSITORY: &str = "image.repository=registry.example.com/netcool/proxypair";

/// A path in the repository.
pub fn in_repository(path: &str) -> PathBuf {
    repository().join(path)
}

/// The chart.
pub fn chart() -> String {
    in_repository("charts/proxypair").display().to_string()
}

/// Runs a program of the test cluster's tools and gives what it printed, or panics with what it said.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = attempt(program, args);
    assert!(output.status.success(), "{}", told(program, args, &output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program that must fail, and gives what it said.
#[track_caller]
pub fn run_refused(program: &str, args: &[&str]) -> String {
    let output = attempt(program, args);
    assert!(
        !output.status.success(),
        "this should have been refused: {}",
        told(program, args, &output)
    );
    String::from_utf8(output.stderr).unwrap()
}

/// Runs a program to its end, whatever it is.
#[track_caller]
pub fn attempt(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(tools().join(program));
    command.args(args);
    if let Some(kubeconfig) = kubeconfig() {
        command.env("KUBECONFIG", kubeconfig);
    }
    command
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be run: {error}"))
}

fn told(program: &str, args: &[&str], output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{program} {}\n{}\n{stdout}{stderr}", args.join(" "), output.status)
}

/// The directory with kubectl and helm.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| ask_cluster("tools").unwrap_or_else(|said| panic!("no helm: {said}")))
}

/// Of the test cluster or of the current context; rendering needs neither.
fn kubeconfig() -> Option<&'static PathBuf> {
    static KUBECONFIG: OnceLock<Option<PathBuf>> = OnceLock::new();
    KUBECONFIG.get_or_init(|| ask_cluster("kubeconfig").ok()).as_ref()
}

fn ask_cluster(what: &str) -> Result<PathBuf, String> {
    let output = Command::new(in_repository("tests/cluster/cluster"))
        .arg(what)
        .output()
        .unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if output.status.success() {
        Ok(stdout.into())
    } else {
        Err(stderr)
    }
}

/// What `helm template` makes of the chart as release `pp` in namespace `netcool-system`, with these `--set` values.
#[track_caller]
pub fn rendered(values: &[&str]) -> Objects {
    rendered_as("pp", "netcool-system", values)
}

/// The same under another name.
#[track_caller]
pub fn rendered_as(release: &str, namespace: &str, values: &[&str]) -> Objects {
    let chart = chart();
    let mut args = vec!["template", release, &chart, "--namespace", namespace];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    Objects(serde_saphyr::from_multiple(&run("helm", &args)).unwrap())
}

/// Kubernetes objects.
#[derive(Debug)]
pub struct Objects(pub Vec<Value>);

impl Objects {
    /// All of one kind.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The only one of its kind.
    #[track_caller]
    pub fn one<'a>(&'a self, kind: &'a str) -> &'a Value {
        let found: Vec<_> = self.all(kind).collect();
        let [one] = found[..] else {
            panic!("{} objects of kind {kind}, not one", found.len())
        };
        one
    }

    /// One by kind and name.
    #[track_caller]
    pub fn named<'a>(&'a self, kind: &'a str, name: &str) -> &'a Value {
        let found = self.all(kind).find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| {
            panic!(
                "no {kind} {name} among {:?}",
                self.all(kind)
                    .map(|object| &object["metadata"]["name"])
                    .collect::<Vec<_>>()
            )
        })
    }
}
