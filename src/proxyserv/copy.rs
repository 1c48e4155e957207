//! Copies a directory tree: files with the permissions they have, links as links.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use super::PrepareError;

/// Copies the content of `from` to `to`, and replaces what an earlier attempt left there. Sockets and pipes are not
/// copied.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), PrepareError> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PrepareError::NoDirectory(from.to_owned()));
        }
        Err(error) => return Err(PrepareError::Read(from.to_owned(), error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| PrepareError::Read(from.to_owned(), error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let unread = |error| PrepareError::Read(source.clone(), error);
        let unwritten = |error| PrepareError::Write(target.clone(), error);
        let metadata = fs::symlink_metadata(&source).map_err(unread)?;
        if metadata.is_dir() {
            match fs::create_dir(&target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unwritten(error)),
                _ => {}
            }
            copy(&source, &target)?;
        } else if metadata.is_symlink() {
            remove(&target).map_err(unwritten)?;
            symlink(fs::read_link(&source).map_err(unread)?, &target).map_err(unwritten)?;
        } else if metadata.is_file() {
            let content = fs::read(&source).map_err(unread)?;
            remove(&target).map_err(unwritten)?;
            fs::write(&target, content).map_err(unwritten)?;
            // The proxy may have to write files that have another owner in the image.
            let mode = metadata.permissions().mode() & 0o777 | 0o600;
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).map_err(unwritten)?;
        }
    }
    Ok(())
}

/// Removes a file if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
