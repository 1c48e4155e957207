//! Writes the files that nco_proxyserv reads, and runs nco_igen.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::Command,
};

use super::{PrepareError, WriteArgs, copy::remove, props_file};
use crate::{
    address::Address,
    api::{AUTH_PASSWORD, AUTH_USER_NAME, ENCRYPTION_KEYFILE, OMNI_KDB, OMNI_STH},
    omnibus::{OmniDatEntry, OmniDatServer, ProxyCredentials, Proxyserv, Unwritable, omni_dat, proxyserv_props},
};

/// Length of the end of nco_igen's output that is reported, in bytes.
const OUTPUT_LENGTH: usize = 400;

pub(super) fn write(args: &WriteArgs) -> Result<(), PrepareError> {
    let etc = args.nc_home.join("etc");
    let entries = [
        entry(&args.name, &args.listen, false)?,
        entry(&args.object_server_name, &args.object_server, args.object_server_ssl)?,
    ];
    replace(&etc.join("omni.dat"), omni_dat(&entries).as_bytes(), 0o640)?;

    let secret = Secret(args.secret_dir.as_deref());
    let key_file = args.private_dir.join(ENCRYPTION_KEYFILE);
    let key = secret.bytes(ENCRYPTION_KEYFILE)?;
    if let Some(key) = &key {
        replace(&key_file, key, 0o400)?;
    }
    let keys = etc.join("security/keys");
    for name in [OMNI_KDB, OMNI_STH] {
        if let Some(content) = secret.bytes(name)? {
            fs::create_dir_all(&keys).map_err(|error| PrepareError::Write(keys.clone(), error))?;
            replace(&keys.join(name), &content, 0o400)?;
        }
    }
    let login = match (secret.text(AUTH_USER_NAME)?, secret.text(AUTH_PASSWORD)?) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(PrepareError::HalfALogin(AUTH_USER_NAME, AUTH_PASSWORD)),
        (None, Some(_)) => return Err(PrepareError::HalfALogin(AUTH_PASSWORD, AUTH_USER_NAME)),
    };
    let key_file = key_file.to_string_lossy();
    let props = proxyserv_props(&Proxyserv {
        name: &args.name,
        remote_server: &args.object_server_name,
        credentials: login
            .as_ref()
            .map(|(user, password)| ProxyCredentials { user, password }),
        key_file: key.is_some().then_some(&*key_file),
        properties: &args.properties,
    })?;
    replace(&args.private_dir.join(props_file(&args.name)), props.as_bytes(), 0o400)?;
    compile(&args.nc_home)
}

fn entry(name: &str, address: &Address, ssl: bool) -> Result<OmniDatEntry, Unwritable> {
    OmniDatEntry::new(name, OmniDatServer::new(address.host(), address.port(), ssl)?, None)
}

/// The mounted Secret, if there is one.
struct Secret<'a>(Option<&'a Path>);

impl Secret<'_> {
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, PrepareError> {
        let Some(path) = self.0.map(|directory| directory.join(key)) else {
            return Ok(None);
        };
        match fs::read(&path) {
            Ok(content) if content.is_empty() => Ok(None),
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrepareError::Read(path, error)),
        }
    }

    /// Without line breaks at the end, which editors add.
    fn text(&self, key: &'static str) -> Result<Option<String>, PrepareError> {
        let Some(content) = self.bytes(key)? else {
            return Ok(None);
        };
        let text = String::from_utf8(content).map_err(|_| PrepareError::NoText(key))?;
        let text = text.trim_end_matches(['\r', '\n']);
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    }
}

/// Writes a new file that has its permissions from the beginning, so that it is never readable for others.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PrepareError> {
    let write = || {
        remove(path)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        // The umask may have removed some.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)
    };
    write().map_err(|error| PrepareError::Write(path.to_owned(), error))
}

fn compile(nc_home: &Path) -> Result<(), PrepareError> {
    let program = nc_home.join("bin/nco_igen");
    let output = Command::new(&program)
        .env("NCHOME", nc_home)
        .env("OMNIHOME", nc_home.join("omnibus"))
        .output()
        .map_err(|error| PrepareError::NoIgen(program, error))?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    let lines: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = lines.join("; ");
    let from = words.ceil_char_boundary(words.len().saturating_sub(OUTPUT_LENGTH));
    Err(PrepareError::Igen(output.status, words[from..].to_owned()))
}
