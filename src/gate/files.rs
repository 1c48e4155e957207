//! Files that are read again when they change: Secrets and ConfigMaps mounted into the pod.
//!
//! The kubelet replaces a directory behind a symbolic link, so consecutive reads may return files of two generations. A set that does not
//! fit together is not used, and the next look finds the complete new one.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The result of loading the newest usable files; until there are any, why there are none.
pub type Current<T> = Result<T, String>;

/// The state before the first look.
///
/// # Errors
///
/// Always.
pub fn unread<T>() -> Current<T> {
    Err("the files have not been read yet".to_owned())
}

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path}: {source}")]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// The kernel's error.
    pub source: io::Error,
}

/// Reads a file.
///
/// # Errors
///
/// [`ReadError`].
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    fs::read(path).map_err(|source| ReadError {
        path: path.to_owned(),
        source,
    })
}

/// Reads files periodically, for ever, and publishes the result of `load` for each new set. A set that cannot be loaded leaves the previous
/// one in force and is logged once. `purpose` names the use of the files in the log.
pub async fn keep_current<F: PartialEq, T, E: Display>(
    purpose: &'static str,
    read: impl Fn() -> Result<F, ReadError>,
    load: impl Fn(&F) -> Result<T, E>,
    current: &watch::Sender<Current<T>>,
) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    let mut logged = None;
    loop {
        looks.tick().await;
        // Small files in memory, a few a minute: not worth a thread.
        let found = read().map_err(|error| error.to_string()).and_then(|files| {
            if seen.as_ref() == Some(&files) {
                return Ok(None);
            }
            let loaded = load(&files).map_err(|error| error.to_string());
            seen = Some(files);
            loaded.map(Some)
        });
        match found {
            Ok(Some(loaded)) => {
                current.send_modify(|current| *current = Ok(loaded));
                logged = None;
                info!(purpose, "certificates loaded");
            }
            Ok(None) => {}
            Err(error) => {
                if logged.as_ref() == Some(&error) {
                    continue;
                }
                warn!(purpose, error, "certificates cannot be used, keeping the previous ones");
                current.send_if_modified(|current| {
                    let has_none = current.is_err();
                    if has_none {
                        *current = Err(error.clone());
                    }
                    has_none
                });
                logged = Some(error);
            }
        }
    }
}
