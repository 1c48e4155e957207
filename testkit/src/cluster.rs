//! The cluster that tests run on, and the faults that only the project's own cluster can have.

use std::{
    path::PathBuf,
    process::{Command as BlockingCommand, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::process::Command;

use crate::directory::repository;

fn program() -> PathBuf {
    repository().join("tests/cluster/cluster")
}

/// A running cluster.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to its API server as an administrator.
    pub client: Client,
    config: Config,
    kubeconfig: PathBuf,
    tools: PathBuf,
}

impl Cluster {
    /// Whether the cluster is this project's, so that nodes can be cut and processes frozen.
    pub fn is_own() -> bool {
        std::env::var("CLUSTER").as_deref() != Ok("current")
    }

    /// Connects to the cluster that `make cluster` started, or with `CLUSTER=current` to that of the current context.
    pub async fn connect() -> Result<Self> {
        let kubeconfig = PathBuf::from(ask("kubeconfig").await?);
        ensure!(
            kubeconfig.exists(),
            "there is no cluster: run `make cluster` first, or set CLUSTER=current to use that of the current kubectl context"
        );
        let tools = PathBuf::from(ask("tools").await?);
        let read = Kubeconfig::read_from(&kubeconfig).context("failed to read the kubeconfig")?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config.clone())?;
        let version = client.apiserver_version().await;
        let version = version.context("the cluster does not answer: run `make cluster` first")?;
        println!("cluster: Kubernetes {} at {}", version.git_version, config.cluster_url);
        Ok(Self {
            client,
            config,
            kubeconfig,
            tools,
        })
    }

    /// A client that acts as somebody else.
    pub fn client_as(&self, user: &str) -> Result<Client> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        Ok(Client::try_from(config)?)
    }

    /// A command with the cluster's kubeconfig and tools, such as `helm`.
    pub fn tool(&self, name: &str) -> Command {
        let path = self.tools.join(name);
        let mut command = Command::new(if path.exists() { path } else { PathBuf::from(name) });
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .current_dir(repository());
        command
    }

    /// Sends a signal to all processes of a pod's containers.
    pub async fn signal(&self, namespace: &str, pod: &str, signal: &str) -> Result<()> {
        run(&["pod-signal", namespace, pod, signal]).await.map(drop)
    }

    /// Sends a signal to those processes of a pod's containers that run `program`. Fails if there is none.
    pub async fn signal_program(&self, namespace: &str, pod: &str, program: &str, signal: &str) -> Result<()> {
        run(&["pod-signal", namespace, pod, signal, program]).await.map(drop)
    }

    /// Cuts a node off, until the guard is dropped.
    pub async fn cut_node(&self, node: &str) -> Result<Fault> {
        Fault::make(&["node-cut", node], &["node-restore", node]).await
    }

    /// Drops all packets between a pod and the API server, until the guard is dropped.
    pub async fn cut_api(&self, namespace: &str, pod: &str) -> Result<Fault> {
        Fault::make(&["api-cut", namespace, pod], &["api-restore", namespace, pod]).await
    }

    /// Stops the API server with a signal, until the guard is dropped: connections are accepted, and nothing is answered.
    pub async fn freeze_api_server(&self) -> Result<Fault> {
        Fault::make(&["api-freeze"], &["api-thaw"]).await
    }

    /// Drops all packets between a pod and another pod's address, until the guard is dropped.
    pub async fn cut_path(&self, namespace: &str, pod: &str, address: &str) -> Result<Fault> {
        let [begin, end] = ["path-cut", "path-restore"].map(|command| [command, namespace, pod, address]);
        Fault::make(&begin, &end).await
    }
}

/// A fault that ends when this is dropped, at the latest when its test fails.
#[must_use]
pub struct Fault(Vec<String>);

impl Fault {
    async fn make(begin: &[&str], end: &[&str]) -> Result<Self> {
        // Made first, so that a test that is cancelled in the middle of the command still undoes it.
        let fault = Self(end.iter().map(|&word| word.to_owned()).collect());
        run(begin).await?;
        Ok(fault)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        let status = BlockingCommand::new(program()).args(&self.0).status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("failed to undo a fault: {}: {status:?}", self.0.join(" "));
        }
    }
}

async fn ask(what: &str) -> Result<String> {
    Ok(run(&[what]).await?.trim().to_owned())
}

/// Runs a command of `tests/cluster/cluster` and gives what it prints.
pub async fn run(arguments: &[&str]) -> Result<String> {
    let output = Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await?;
    if !output.status.success() {
        bail!(
            "tests/cluster/cluster {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
