//! A stand-in `nco_proxyserv`: what tests use in place of the user's proxy server.
//!
//! It is found, configured and refused as the real one is: `$NCHOME/etc/omni.dat`, made into `$NCHOME/etc/interfaces` by `nco_igen` (this program
//! under that name), and `$OMNIHOME/etc/<NAME>.props` with checked names and types. It terminates each client's login, checks it when `SecureMode`
//! is TRUE, and sends the statements of `ConnectionRatio` clients through one session with the ObjectServer.
//!
//! `NCHOME` is /opt/IBM/tivoli/netcool unless set, `OMNIHOME` its directory `omnibus`. For TLS to the ObjectServer the real one takes GSKit's
//! key store; this one takes PEM authorities at the same place, `$NCHOME/etc/security/keys/omni.kdb`, beside an `omni.sth` that it does not read.
//! A listener with TLS, AES-encrypted properties and another `ConfigCryptoAlg` than AES are not for this stand-in: it refuses to start.
//!
//! What the real one does when its ObjectServer goes is open, so this one does each on request, by `--when-objectserver-goes` or the environment
//! variable `WHEN_OBJECTSERVER_GOES`: `exit`; `stay`, which accepts clients and lets their statements wait; `answer-errors`, which accepts clients
//! and answers their statements with an error.

mod interfaces;
mod pool;
mod properties;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use proxypair::tds::login::LoginRecord;
use stand_ins::dial::{Target, tls_from};
use stand_ins::process::asked_to_stop;

use interfaces::Interfaces;
use pool::{Pool, WhenGone};
use properties::Properties;

/// Application name of a proxy server.
const APPLICATION: &str = "PROXY";

/// Largest answer of the ObjectServer in bytes.
const ANSWER_MAX: usize = 16 << 20;

const NCHOME: &str = "/opt/IBM/tivoli/netcool";

/// Where everything is.
struct Home {
    etc: PathBuf,
    omnibus_etc: PathBuf,
}

#[derive(Default)]
struct Arguments {
    name: Option<String>,
    props_file: Option<PathBuf>,
    secure: bool,
    when_gone: Option<String>,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default().to_owned();
    let result = if called == "nco_igen" { compile() } else { proxy() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", called.display());
            ExitCode::FAILURE
        }
    }
}

impl Home {
    fn find() -> Self {
        let directory = |name| std::env::var_os(name).map(PathBuf::from);
        let nchome = directory("NCHOME").unwrap_or_else(|| NCHOME.into());
        let omnihome = directory("OMNIHOME").unwrap_or_else(|| nchome.join("omnibus"));
        Self {
            etc: nchome.join("etc"),
            omnibus_etc: omnihome.join("etc"),
        }
    }

    fn omni_dat(&self) -> PathBuf {
        self.etc.join("omni.dat")
    }

    fn interfaces(&self) -> PathBuf {
        self.etc.join("interfaces")
    }
}

/// `nco_igen`: omni.dat into interfaces.
fn compile() -> anyhow::Result<()> {
    if let Some(argument) = std::env::args().nth(1) {
        bail!("unknown option {argument}");
    }
    let home = Home::find();
    let source = home.omni_dat();
    let text = std::fs::read_to_string(&source).with_context(|| format!("failed to read {}", source.display()))?;
    let compiled = Interfaces::from_omni_dat(&text).with_context(|| source.display().to_string())?;
    let target = home.interfaces();
    std::fs::write(&target, compiled.to_string()).with_context(|| format!("failed to write {}", target.display()))
}

fn proxy() -> anyhow::Result<()> {
    let arguments = read_arguments(std::env::args().skip(1))?;
    let when_gone = match arguments
        .when_gone
        .clone()
        .or_else(|| std::env::var("WHEN_OBJECTSERVER_GOES").ok())
    {
        Some(word) => word.parse()?,
        None => WhenGone::Stay,
    };
    let home = Home::find();
    let mut properties = read_properties(&arguments, &home)?;
    properties.secure |= arguments.secure;
    if let Some(file) = &properties.key_file {
        std::fs::read(file).with_context(|| format!("failed to read ConfigKeyFile {file}"))?;
        bail!("AES-encrypted properties are not for this stand-in");
    }
    let algorithm = &properties.crypto_alg;
    ensure!(
        algorithm == "AES",
        "ConfigCryptoAlg {algorithm} is not for this stand-in"
    );
    let interfaces = read_interfaces(&home)?;
    let own = interfaces.find(&properties.name)?;
    ensure!(!own.ssl, "a listener with TLS is not for this stand-in");
    let remote = interfaces.find(&properties.remote)?;
    let tls = if remote.ssl {
        let keys = home.etc.join("security/keys");
        std::fs::metadata(keys.join("omni.sth")).context("no stash file beside omni.kdb")?;
        Some(tls_from(&keys.join("omni.kdb"), &properties.remote)?)
    } else {
        None
    };
    let mut login = LoginRecord::new(&properties.user, &properties.password, APPLICATION);
    login.process.clone_from(&properties.name);
    login.server.clone_from(&properties.remote);
    let target = Target {
        address: remote.address(),
        tls,
        login,
        answer_max: ANSWER_MAX,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (pool, gone) = Pool::start(target, when_gone, &properties).await?;
        let address = own.address();
        let listener = tokio::net::TcpListener::bind(&address).await;
        let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
        tracing::info!(name = properties.name, address, remote = properties.remote, "listening");
        tokio::select! {
            () = server::accept_all(listener, Arc::new(properties), pool) => Ok(()),
            Ok(error) = gone => Err(error),
            () = asked_to_stop() => Ok(()),
        }
    })
}

fn read_arguments(mut given: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(option) = given.next() {
        let mut value = || given.next().with_context(|| format!("{option} needs a value"));
        match option.as_str() {
            "-name" => arguments.name = Some(value()?),
            "-propsfile" => arguments.props_file = Some(value()?.into()),
            "-secure" => arguments.secure = true,
            "--when-objectserver-goes" => arguments.when_gone = Some(value()?),
            _ => bail!("unknown option {option}"),
        }
    }
    Ok(arguments)
}

fn read_properties(arguments: &Arguments, home: &Home) -> anyhow::Result<Properties> {
    let name = arguments.name.as_deref().unwrap_or("NCO_PROXY");
    let default = home.omnibus_etc.join(format!("{name}.props"));
    let file = arguments.props_file.as_deref().unwrap_or(&default);
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut properties = Properties::parse(&text).with_context(|| file.display().to_string())?;
    if let Some(name) = &arguments.name {
        properties.name.clone_from(name);
    }
    Ok(properties)
}

fn read_interfaces(home: &Home) -> anyhow::Result<Interfaces> {
    let (source, compiled) = (home.omni_dat(), home.interfaces());
    let modified = |file: &Path| std::fs::metadata(file)?.modified();
    let made = modified(&compiled).with_context(|| format!("no {}: run nco_igen", compiled.display()))?;
    let changed = modified(&source).with_context(|| format!("no {}", source.display()))?;
    ensure!(
        made >= changed,
        "{} is newer than {}: run nco_igen",
        source.display(),
        compiled.display()
    );
    let text = std::fs::read_to_string(&compiled)?;
    Interfaces::parse(&text).with_context(|| compiled.display().to_string())
}
