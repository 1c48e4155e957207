//! What the init containers of engine Proxyserv do: bring this program into the user's image, and make the files that nco_proxyserv reads.
//!
//! No shell is needed. In order, each step a container of its own:
//! 1. [`install`], in this program's own image: the program is copied to a volume that the user's image sees.
//! 2. [`FilesArgs::Copy`], in the user's image: `$NCHOME/etc` is copied to the volume that stands in its place afterwards, so that the root
//!    filesystem can stay read-only.
//! 3. [`FilesArgs::Write`], in the user's image: `omni.dat`, the properties file, key files; then nco_igen compiles `omni.dat`.
//!
//! Credentials are read from the mounted Secret and written to a volume in memory; no argument, no variable and no message ever has them.

mod copy;
mod write;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use clap::{Args, Subcommand};

use crate::{address::Address, api::ProxyProperties, omnibus::Unwritable};

/// Prepares the files of an nco_proxyserv.
#[derive(Clone, Debug, Subcommand)]
pub enum FilesArgs {
    /// Copy a directory and what is in it.
    Copy {
        /// The directory.
        from: PathBuf,
        /// Where its content goes; it exists.
        to: PathBuf,
    },
    /// Write omni.dat, the properties file and the key files, and run nco_igen.
    Write(Box<WriteArgs>),
}

/// What the files are to say.
#[derive(Clone, Debug, Args)]
pub struct WriteArgs {
    /// $NCHOME, with a writable `etc`.
    #[arg(long)]
    pub nc_home: PathBuf,

    /// Name of the proxy.
    #[arg(long)]
    pub name: String,

    /// Where the proxy listens.
    #[arg(long)]
    pub listen: Address,

    /// Name of the ObjectServer.
    #[arg(long)]
    pub object_server_name: String,

    /// Where the ObjectServer is.
    #[arg(long)]
    pub object_server: Address,

    /// The ObjectServer speaks TLS.
    #[arg(long)]
    pub object_server_ssl: bool,

    /// Further properties, as JSON.
    #[arg(long, value_parser = properties, default_value = "{}")]
    pub properties: ProxyProperties,

    /// Directory with AuthUserName, AuthPassword, omni.kdb, omni.sth and encryption.keyfile, as far as there are any.
    #[arg(long)]
    pub secret_dir: Option<PathBuf>,

    /// Where the properties file and the key file go: a volume in memory.
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

/// Why the files could not be made. The last line that a container writes is what status says of it.
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
    /// A value cannot stand in its file.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// A value of the Secret is no text.
    #[error("{0} in the Secret is no text")]
    NoText(&'static str),
    /// A login needs both.
    #[error("the Secret has {0} but no {1}")]
    HalfALogin(&'static str, &'static str),
    /// nco_igen could not be started.
    #[error("failed to run {0}: {1}; is proxy.ncHome where OMNIbus is installed in the image?")]
    NoIgen(PathBuf, io::Error),
    /// nco_igen refused omni.dat.
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

/// Does one of the steps in the user's image.
///
/// # Errors
///
/// [`PrepareError`], which says what the user can change.
pub fn prepare(args: &FilesArgs) -> Result<(), PrepareError> {
    match args {
        FilesArgs::Copy { from, to } => copy::copy(from, to),
        FilesArgs::Write(args) => write::write(args),
    }
}

#[cfg(test)]
mod tests;
