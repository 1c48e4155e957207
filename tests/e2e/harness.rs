//! Runs the tests: three at a time, a namespace for each, evidence of those that fail.
//!
//! A harness of its own, because it is known only at run time which tests can be run: those that reach below Kubernetes need the project's
//! own cluster, and are counted and shown as ignored on any other.

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result, anyhow};
use futures::{FutureExt, future::LocalBoxFuture};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use libtest_mimic::{Arguments, Failed, Trial};
use testkit::{
    cluster::Cluster, directory::repository, evidence, hold::Hold, namespace::TESTER, operator::Operator, stage::Scene,
};
use tokio::{
    runtime::Runtime,
    sync::{OnceCell, RwLock},
};

/// How many tests run at a time unless the command line says otherwise.
const AT_A_TIME: usize = 3;

/// What a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Any cluster.
    AnyCluster,
    /// The project's own, whose nodes and processes can be reached.
    OwnCluster,
    /// The project's own, with no other test beside it, as it takes a node away.
    OwnClusterAlone,
}

/// A test.
pub struct Test {
    name: &'static str,
    needs: Needs,
    run: Box<dyn Fn(Arc<Scene>) -> LocalBoxFuture<'static, Result<()>> + Send>,
}

/// Makes a test of a function.
pub fn test<F, R>(name: &'static str, needs: Needs, run: F) -> Test
where
    F: Fn(Arc<Scene>) -> R + Send + 'static,
    R: Future<Output = Result<()>> + 'static,
{
    Test {
        name,
        needs,
        run: Box::new(move |scene| run(scene).boxed_local()),
    }
}

struct Suite {
    runtime: Runtime,
    cluster: OnceCell<Cluster>,
    /// A test that takes a node away is the only one to run.
    nodes: RwLock<()>,
}

/// Runs those tests that the command line selects.
pub fn run(tests: Vec<Test>) -> ExitCode {
    static SUITE: OnceLock<Suite> = OnceLock::new();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let suite = SUITE.get_or_init(|| Suite {
        runtime,
        cluster: OnceCell::new(),
        nodes: RwLock::new(()),
    });
    let trials = tests.into_iter().map(|Test { name, needs, run }| {
        let ignored = needs != Needs::AnyCluster && !Cluster::is_own();
        if ignored {
            println!("{name}: not run, because it needs the project's own cluster: unset CLUSTER");
        }
        Trial::test(name, move || {
            suite
                .runtime
                .block_on(suite.one(name, needs, run))
                .map_err(|error| Failed::from(format!("{error:#}")))
        })
        .with_ignored_flag(ignored)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

impl Suite {
    async fn one(
        &self,
        name: &'static str,
        needs: Needs,
        run: Box<dyn Fn(Arc<Scene>) -> LocalBoxFuture<'static, Result<()>> + Send>,
    ) -> Result<()> {
        let cluster = self.cluster.get_or_try_init(prepared).await?;
        let (_alone, _beside) = match needs {
            Needs::OwnClusterAlone => (Some(self.nodes.write().await), None),
            Needs::AnyCluster | Needs::OwnCluster => (None, Some(self.nodes.read().await)),
        };
        let scene = Arc::new(Scene::open(cluster, name).await?);
        let outcome = AssertUnwindSafe(run(Arc::clone(&scene))).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", words_of(&*panic))));
        let words = outcome.as_ref().err().map(|error| format!("{error:#}\n"));
        scene.say(if words.is_some() { "FAILED" } else { "passed" });
        if words.is_some() || always_collect() {
            let timeline = scene
                .timeline
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone();
            match evidence::collect(&scene.namespace, name, words.as_deref(), timeline.as_deref()).await {
                Ok(directory) => scene.say(format_args!("logs, objects and events are in {}", directory.display())),
                Err(error) => scene.say(format_args!("the evidence could not be collected: {error:#}")),
            }
        }
        let cleaned = clean(&scene).await;
        outcome.and(cleaned.context("the test passed, but could not be cleaned up"))
    }
}

/// Whether to keep the evidence of tests that pass, too: to find out where the time goes.
fn always_collect() -> bool {
    std::env::var("E2E_EVIDENCE").as_deref() == Ok("always")
}

async fn clean(scene: &Scene) -> Result<()> {
    Hold::lift_all(&scene.namespace).await?;
    Operator::uninstall(&scene.namespace).await?;
    scene.namespace.delete().await
}

/// The cluster, with the CustomResourceDefinition applied.
async fn prepared() -> Result<Cluster> {
    let cluster = Cluster::connect().await?;
    let text = std::fs::read_to_string(repository().join("crds/proxypairs.yaml"))?;
    let definition: CustomResourceDefinition = serde_saphyr::from_str(&text)?;
    let name = definition.metadata.name.clone().context("the definition has no name")?;
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    api.patch(&name, &PatchParams::apply(TESTER).force(), &Patch::Apply(&definition))
        .await?;
    let established = kube::runtime::wait::conditions::is_crd_established();
    kube::runtime::wait::await_condition(api, &name, established).await?;
    Ok(cluster)
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|&words| words.to_owned());
    words
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a word".to_owned())
}
