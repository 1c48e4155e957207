//! Directories of tests, and where the programs that tests start are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory of one test's own, removed when dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one in the target directory.
    #[expect(
        clippy::new_without_default,
        reason = "it makes a directory, which a default does not"
    )]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = temporary().join(name);
        fs::create_dir_all(&path).expect("failed to make a directory");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The repository.
pub fn repository() -> &'static Path {
    let testkit = Path::new(env!("CARGO_MANIFEST_DIR"));
    testkit.parent().expect("testkit is in the repository")
}

/// Where tests keep what is of use until they end, or to the next run.
pub fn temporary() -> PathBuf {
    profile().with_file_name("tmp")
}

/// Where the program of this name is: `proxypair` or a stand-in, built in the same profile as the test.
pub fn program(name: &str) -> PathBuf {
    let path = profile().join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo test --workspace --no-run` builds it",
        path.display()
    );
    path
}

/// The directory of the profile, such as `target/x86_64-unknown-linux-gnu/debug`.
fn profile() -> PathBuf {
    let test = env::current_exe().expect("no path of the test");
    let profile = test.parent().and_then(Path::parent);
    profile.expect("tests are in <profile>/deps").to_owned()
}
