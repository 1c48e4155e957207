//! `catalog.properties`: a few of the real server's, kept over a restart as the real one keeps them in its properties file.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Options;

const NAME: &str = "Name";
const SERVER_NAME: &str = "ServerName";
const BACKUP: &str = "BackupObjectServer";
const ACTING_PRIMARY: &str = "ActingPrimary";
const RESTRICT_PROXY_SQL: &str = "RestrictProxySQL";

/// The properties.
#[derive(Debug)]
pub struct Properties {
    name: String,
    file: PathBuf,
    truths: Mutex<BTreeMap<String, bool>>,
}

/// Why a property was not set.
#[derive(Debug, thiserror::Error)]
pub enum NotSet {
    /// There is none of this name that can be changed.
    #[error("Property '{0}' cannot be changed.")]
    Name(String),
    /// All that can be changed are TRUE or FALSE.
    #[error("'{0}' is neither TRUE nor FALSE.")]
    Value(String),
    /// It could not be kept.
    #[error("failed to write {file}: {source}")]
    Keep {
        /// Where.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Properties {
    /// Those that were kept, else those of a primary, or of a backup that does not stand in.
    pub fn load(options: &Options) -> anyhow::Result<Self> {
        let file = options.data.join("properties.json");
        let kept = match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let mut truths = BTreeMap::from([
            (ACTING_PRIMARY.to_owned(), !options.backup),
            (RESTRICT_PROXY_SQL.to_owned(), false),
        ]);
        truths.extend(kept);
        truths.insert(BACKUP.to_owned(), options.backup);
        if options.deny_sql {
            truths.insert(RESTRICT_PROXY_SQL.to_owned(), true);
        }
        Ok(Self {
            name: options.name.clone(),
            file,
            truths: Mutex::new(truths),
        })
    }

    /// Whether a proxy may do no more than insert events.
    pub fn restricts_proxies(&self) -> bool {
        self.truths().get(RESTRICT_PROXY_SQL).copied().unwrap_or_default()
    }

    /// Names and values.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = vec![
            (NAME.to_owned(), self.name.clone()),
            (SERVER_NAME.to_owned(), self.name.clone()),
        ];
        let truths = self.truths();
        rows.extend(truths.iter().map(|(name, value)| {
            let word = if *value { "TRUE" } else { "FALSE" };
            (name.clone(), word.to_owned())
        }));
        rows
    }

    /// Sets one and keeps it.
    pub fn set(&self, name: &str, value: &str) -> Result<(), NotSet> {
        let value = match value.to_ascii_uppercase().as_str() {
            "TRUE" => true,
            "FALSE" => false,
            _ => return Err(NotSet::Value(value.to_owned())),
        };
        let mut truths = self.truths();
        let slot = truths.get_mut(name).ok_or_else(|| NotSet::Name(name.to_owned()))?;
        *slot = value;
        tracing::info!(name, value, "property set");
        let keep = || {
            let fresh = self.file.with_extension("fresh");
            fs::write(&fresh, serde_json::to_vec(&*truths)?)?;
            fs::rename(&fresh, &self.file)
        };
        keep().map_err(|source| NotSet::Keep {
            file: self.file.display().to_string(),
            source,
        })
    }

    fn truths(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.truths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
