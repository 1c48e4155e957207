//! Who may log in.

use std::path::PathBuf;

use crate::Options;

/// The users: one from the options, or those of a file.
#[derive(Debug)]
pub enum Users {
    /// Name and password.
    One(String, String),
    /// A file with lines `name:password`. It is read at each login, so that a changed password counts from the next one on.
    File(PathBuf),
}

impl Users {
    /// As the options say.
    pub fn new(options: &Options) -> Self {
        match &options.users {
            Some(file) => Self::File(file.clone()),
            None => Self::One(options.user.clone(), options.password.clone()),
        }
    }

    /// Whether user and password are right, in a time that does not depend on where they differ. A file that cannot be read admits nobody.
    pub fn admit(&self, user: &str, password: &str) -> bool {
        match self {
            Self::One(name, right) => is_right((name, right), user, password),
            Self::File(file) => {
                let lines = std::fs::read_to_string(file).unwrap_or_else(|error| {
                    tracing::warn!(%error, file = %file.display(), "failed to read the users");
                    String::new()
                });
                let users = lines.lines().filter_map(|line| line.trim_end().split_once(':'));
                users.fold(false, |right, entry| right | is_right(entry, user, password))
            }
        }
    }
}

fn is_right((name, right): (impl AsRef<str>, impl AsRef<str>), user: &str, password: &str) -> bool {
    equal(user.as_bytes(), name.as_ref().as_bytes()) & equal(password.as_bytes(), right.as_ref().as_bytes())
}

fn equal(given: &[u8], right: &[u8]) -> bool {
    let mut difference = given.len() ^ right.len();
    for (index, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ right.get(index).unwrap_or(&0));
    }
    difference == 0
}
