//! Files that are read again when they change: Secrets and ConfigMaps mounted into the pod.
//!
//! The kubelet replaces a directory behind a symbolic link, so reads in a row may see two generations; a set that does not fit together is
//! not used, and the next look finds the whole new one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::tls::TlsError;

/// Time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was made of the newest usable files. Until there are any, why not.
pub type Current<T> = Result<T, String>;

/// What is known before the first look.
///
/// # Errors
///
/// Always: nothing is known.
pub fn unread<T>() -> Current<T> {
    Err("the files have not been read yet".to_owned())
}

/// Reads a file.
///
/// # Errors
///
/// [`TlsError::Read`], which says which.
pub fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads files again and again for ever and publishes what `load` makes of each new set. A bad set leaves the old one in force, with one
/// warning. `purpose` says in the log what they are for.
pub async fn keep_current<F: PartialEq, T>(
    purpose: &'static str,
    read: impl Fn() -> Result<F, TlsError>,
    load: impl Fn(&F) -> Result<T, TlsError>,
    current: &watch::Sender<Current<T>>,
) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    let mut complaint = None;
    loop {
        looks.tick().await;
        // Small files in memory, a few a minute: not worth a thread.
        let found = read().and_then(|files| {
            if seen.as_ref() == Some(&files) {
                return Ok(None);
            }
            let loaded = load(&files);
            seen = Some(files);
            loaded.map(Some)
        });
        match found {
            Ok(Some(loaded)) => {
                current.send_modify(|current| *current = Ok(loaded));
                complaint = None;
                info!(purpose, "certificates loaded");
            }
            Ok(None) => {}
            Err(error) => {
                let text = error.to_string();
                if complaint.as_ref() == Some(&text) {
                    continue;
                }
                warn!(
                    purpose,
                    error = text,
                    "certificates cannot be used, keeping those from before"
                );
                current.send_if_modified(|current| {
                    let is_needed = current.is_err();
                    if is_needed {
                        *current = Err(text.clone());
                    }
                    is_needed
                });
                complaint = Some(text);
            }
        }
    }
}
