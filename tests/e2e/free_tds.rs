//! FreeTDS, which nobody here wrote, as a client of the gates on the cluster.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Output, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use proxypair::api::Side;
use testkit::{
    directory::repository,
    pair::PORT,
    stage::{SOON, Scene, Stage},
};
use tokio::{io::AsyncWriteExt, process::Command};

/// `bsqldb` and `tsql` log in, insert and select through the gate that serves, before and after a failover, and are refused by the one
/// whose ObjectServer is dead.
pub async fn through_the_gate(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let primary = gate(&stage, Side::Primary).await?;
    send_and_read(&scene, &stage, Side::Primary).await?;
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    send_and_read(&scene, &stage, Side::Backup).await?;
    let output = run(&scene, primary, "bsqldb", &["-q"], "select 1\ngo\n").await?;
    ensure!(
        !output.status.success(),
        "the gate serves without an ObjectServer: {output:?}"
    );
    stage.finish().await.map(drop)
}

async fn send_and_read(scene: &Scene, stage: &Stage<'_>, side: Side) -> Result<()> {
    let gate = gate(stage, side).await?;
    let server = stage.server(side);
    let name = &server.name;
    let insert = format!("insert into alerts.status (Identifier, Summary) values ('freetds-{name}', 'it''s through')");
    let select =
        format!("select Identifier, Tally, Summary, ServerName from alerts.status where Identifier = 'freetds-{name}'");
    let output = run(
        scene,
        gate,
        "bsqldb",
        &["-q", "-h", "-t,"],
        &format!("{insert}\ngo\n{select}\ngo\n"),
    )
    .await?;
    ensure!(output.status.success(), "bsqldb: {output:?}");
    let rows = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        rows == format!("freetds-{name},1,it's through,{name}"),
        "bsqldb read {rows:?}"
    );
    let held = server
        .select(&format!(
            "select Tally from alerts.status where Identifier = 'freetds-{name}'"
        ))
        .await?;
    ensure!(held.len() == 1, "{name} holds {held:?}");

    let ask = "select Value from catalog.properties where PropName = 'ServerName'\ngo\nquit\n";
    let output = run(scene, gate, "tsql", &[], ask).await?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && words.contains(name.as_str()),
        "tsql: {output:?}"
    );
    scene.say(format_args!("bsqldb and tsql reached {name} through {gate}"));
    Ok(())
}

async fn gate(stage: &Stage<'_>, side: Side) -> Result<SocketAddr> {
    let address = stage
        .pair
        .pod(side)
        .await?
        .status
        .and_then(|status| status.pod_ip)
        .context("the pod has no address")?;
    Ok(SocketAddr::new(address.parse()?, PORT))
}

async fn run(scene: &Scene, server: SocketAddr, program: &str, arguments: &[&str], input: &str) -> Result<Output> {
    let home: PathBuf = repository().join("target/e2e/freetds").join(&scene.namespace.name);
    std::fs::create_dir_all(&home)?;
    let (host, port) = (server.ip(), server.port());
    std::fs::write(
        home.join("freetds.conf"),
        format!("[GATE]\nhost = {host}\nport = {port}\ntds version = 5.0\n"),
    )?;
    let child = Command::new(program)
        .args(["-S", "GATE", "-U", "root", "-P", ""])
        .args(arguments)
        .env("FREETDSCONF", home.join("freetds.conf"))
        .env("HOME", &home)
        .env("TDSVER", "5.0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.with_context(|| format!("{program} cannot be run: apt-get install freetds-bin"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that could not log in may be gone before it has read everything; its exit code tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await;
    std::fs::remove_dir_all(&home)?;
    Ok(output.with_context(|| format!("{program} did not end"))??)
}
