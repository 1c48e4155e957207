//! The steps of the init containers of engine Proxyserv: copy this program into the user's image, and write the files
//! that nco_proxyserv reads.
//!
//! No shell is needed. In order, each step a container of its own:
//! 1. [`install`], in this program's own image: the program is copied to a volume that the user's image mounts.
//! 2. [`FilesArgs::Copy`], in the user's image: `$NCHOME/etc` is copied to the volume that is mounted in its place
//!    afterwards, so that the root filesystem can stay read-only.
//! 3. [`FilesArgs::Write`], in the user's image: `omni.dat`, the properties file, key files; then nco_igen compiles
//!    `omni.dat`.
//!
//! Credentials are read from the mounted Secret and written to a volume in memory. They never appear in arguments,
//! environment variables or messages.

mod copy;
mod write;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use clap::{Args, Subcommand};

use crate::{address::Address, api::ProxyProperties, omnibus::Unwritable};

/// Prepare the files of an nco_proxyserv.
#[derive(Clone, Debug, Subcommand)]
pub enum FilesArgs {
    /// Copy a directory and what is in it.
    Copy {
        /// Directory to copy.
        from: PathBuf,
        /// Existing directory to copy into.
        to: PathBuf,
    },
    /// Write omni.dat, the properties file and the key files, and run nco_igen.
    Write(Box<WriteArgs>),
}

/// Content of the files.
#[derive(Clone, Debug, Args)]
pub struct WriteArgs {
    /// $NCHOME, with a writable `etc`.
    #[arg(long)]
    pub nc_home: PathBuf,

    /// Name of the proxy server.
    #[arg(long)]
    pub name: String,

    /// Address on which the proxy server listens.
    #[arg(long)]
    pub listen: Address,

    /// Name of the ObjectServer.
    #[arg(long)]
    pub object_server_name: String,

    /// Address of the ObjectServer.
    #[arg(long)]
    pub object_server: Address,

    /// Connect to the ObjectServer with TLS.
    #[arg(long)]
    pub object_server_ssl: bool,

    /// Further properties, as JSON.
    #[arg(long, value_parser = properties, default_value = "{}")]
    pub properties: ProxyProperties,

    /// Directory with AuthUserName, AuthPassword, omni.kdb, omni.sth and encryption.keyfile; each may be missing.
    #[arg(long)]
    pub secret_dir: Option<PathBuf>,

    /// Directory for the properties file and the key file: a volume in memory.
    #[arg(long)]
    pub private_dir: PathBuf,
}

fn properties(text: &str) -> Result<ProxyProperties, serde_json::Error> {
    serde_json::from_str(text)
}

/// Name of the properties file of the proxy `name`.
pub fn props_file(name: &str) -> String {
    format!("{name}.props")
}

/// Why the files could not be prepared. The last lines that a container writes are in the ProxyPair's status.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The image has no such directory.
    #[error("the image has no directory {0}: set proxy.ncHome to where OMNIbus is installed in it")]
    NoDirectory(PathBuf),
    /// A file could not be read.
    #[error("failed to read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A file could not be written.
    #[error("failed to write {0}: {1}")]
    Write(PathBuf, io::Error),
    /// A value cannot be written into its file.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// A value of the Secret is not UTF-8.
    #[error("{0} in the Secret is not UTF-8 text")]
    NoText(&'static str),
    /// A login needs user and password.
    #[error("the Secret has {0} but no {1}")]
    HalfALogin(&'static str, &'static str),
    /// nco_igen could not be started.
    #[error("failed to run {0}: {1}; is proxy.ncHome where OMNIbus is installed in the image?")]
    NoIgen(PathBuf, io::Error),
    /// nco_igen rejected omni.dat.
    #[error("nco_igen failed ({0}): {1}")]
    Igen(ExitStatus, String),
}

/// Copies this program into `directory`, as `proxypair`.
///
/// # Errors
///
/// [`PrepareError`] if it cannot be read or written.
pub fn install(directory: &Path) -> Result<(), PrepareError> {
    let own = Path::new("/proc/self/exe");
    let program = fs::read(own).map_err(|error| PrepareError::Read(own.to_owned(), error))?;
    write::replace(&directory.join("proxypair"), &program, 0o755)
}

/// Runs one of the steps in the user's image.
///
/// # Errors
///
/// [`PrepareError`], with what the user can change.
pub fn prepare(args: &FilesArgs) -> Result<(), PrepareError> {
    match args {
        FilesArgs::Copy { from, to } => copy::copy(from, to),
        FilesArgs::Write(args) => write::write(args),
    }
}

#[cfg(test)]
mod tests;
