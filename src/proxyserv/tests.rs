//! The steps on a directory that looks like a user's image, with a program in the place of nco_igen.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::*;

/// A directory of its own for each test. One at a time: a program that is being written cannot be run, and while a process is being
/// started it holds open what other threads write.
struct Image(PathBuf, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Image {
    fn new(igen: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("proxypair-files-{}-{number}", std::process::id()));
        for directory in ["nc/etc", "nc/bin", "secret", "private"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let image = Self(root, turn);
        image.put("nc/bin/nco_igen", igen);
        fs::set_permissions(image.at("nc/bin/nco_igen"), fs::Permissions::from_mode(0o755)).unwrap();
        image
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn put(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().permissions().mode() & 0o777
    }

    fn args(&self) -> WriteArgs {
        WriteArgs {
            nc_home: self.at("nc"),
            name: "PROXY_P".to_owned(),
            listen: "127.0.0.1:4410".parse().unwrap(),
            listen_ssl: false,
            object_server_name: "AGG_P".to_owned(),
            object_server: "aggp.example.com:4100".parse().unwrap(),
            object_server_ssl: true,
            properties: properties(r#"{"ConnectionRatio": 5}"#).unwrap(),
            secret_dir: Some(self.at("secret")),
            private_dir: self.at("private"),
        }
    }

    fn write(&self) -> Result<(), PrepareError> {
        prepare(&FilesArgs::Write(Box::new(self.args())))
    }

    fn refusal(&self) -> String {
        self.write().unwrap_err().to_string()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Compiles like nco_igen: reads omni.dat under NCHOME, writes a file beside it.
const IGEN: &str =
    "#!/bin/sh\ncp \"$NCHOME/etc/omni.dat\" \"$NCHOME/etc/interfaces\"; echo \"$OMNIHOME\" >\"$NCHOME/etc/home\"\n";

#[test]
fn writes_every_file_and_has_omni_dat_compiled() {
    let image = Image::new(IGEN);
    for (key, value) in [
        ("AuthUserName", "proxy\n"),
        ("AuthPassword", "p#ss word\r\n"),
        ("omni.kdb", "kdb"),
        ("omni.sth", "sth"),
        ("encryption.keyfile", "key"),
    ] {
        image.put(&format!("secret/{key}"), value);
    }
    image.write().unwrap();
    // A container that is started again finds what an earlier one left.
    image.write().unwrap();
    let omni_dat = "[PROXY_P]\n{\n\tPrimary: 127.0.0.1 4410\n}\n[AGG_P]\n{\n\tPrimary: aggp.example.com ssl 4100\n}\n";
    assert_eq!(image.read("nc/etc/omni.dat"), omni_dat);
    assert_eq!(image.read("nc/etc/interfaces"), omni_dat);
    assert_eq!(
        image.read("nc/etc/home").trim(),
        image.at("nc/omnibus").to_string_lossy()
    );
    let props = image.read("private/PROXY_P.props");
    for line in [
        "Name: 'PROXY_P'",
        "RemoteServer: 'AGG_P'",
        "AuthUserName: 'proxy'",
        "AuthPassword: 'p#ss word'",
        "ConnectionRatio: 5",
        &format!("ConfigKeyFile: '{}'", image.at("private/encryption.keyfile").display()),
    ] {
        assert!(props.lines().any(|found| found == line), "{line} is not in\n{props}");
    }
    assert_eq!(image.read("nc/etc/security/keys/omni.kdb"), "kdb");
    assert_eq!(image.read("nc/etc/security/keys/omni.sth"), "sth");
    for secret in [
        "private/PROXY_P.props",
        "private/encryption.keyfile",
        "nc/etc/security/keys/omni.kdb",
    ] {
        assert_eq!(image.mode(secret), 0o400, "{secret}");
    }
}

#[test]
fn a_proxy_without_a_secret_needs_none() {
    let image = Image::new(IGEN);
    let args = WriteArgs {
        secret_dir: None,
        listen_ssl: true,
        object_server_ssl: false,
        ..image.args()
    };
    prepare(&FilesArgs::Write(Box::new(args))).unwrap();
    let omni_dat = image.read("nc/etc/omni.dat");
    assert!(
        omni_dat.contains("Primary: 127.0.0.1 ssl 4410\n") && omni_dat.contains("aggp.example.com 4100\n"),
        "{omni_dat}"
    );
    let props = image.read("private/PROXY_P.props");
    assert!(!props.contains("Auth") && !props.contains("ConfigKeyFile"), "{props}");
}

#[test]
fn says_what_the_user_can_change() {
    let image = Image::new("#!/bin/sh\necho 'line 3: syntax error' >&2\nexit 2\n");
    assert_eq!(
        image.refusal(),
        "nco_igen failed (exit status: 2): line 3: syntax error"
    );
    image.put("secret/AuthUserName", "proxy");
    assert_eq!(image.refusal(), "the Secret has AuthUserName but no AuthPassword");
    image.put("secret/AuthPassword", "top'secret");
    fs::remove_file(image.at("private/PROXY_P.props")).unwrap();
    let said = image.refusal();
    assert!(
        said.starts_with("AuthPassword has a single quotation mark") && !said.contains("secret"),
        "{said}"
    );
    assert!(!image.at("private/PROXY_P.props").exists());
    fs::remove_file(image.at("secret/AuthUserName")).unwrap();
    fs::remove_file(image.at("secret/AuthPassword")).unwrap();
    fs::remove_file(image.at("nc/bin/nco_igen")).unwrap();
    assert!(
        image.refusal().contains("is proxy.ncHome where OMNIbus is installed"),
        "{}",
        image.refusal()
    );
}

#[test]
fn copies_a_tree_as_it_is() {
    let image = Image::new(IGEN);
    image.put("from/omni.dat", "old");
    image.put("from/deep/er/script", "#!/bin/sh");
    fs::set_permissions(image.at("from/deep/er/script"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("omni.dat", image.at("from/link")).unwrap();
    fs::create_dir(image.at("to")).unwrap();
    let copy = FilesArgs::Copy {
        from: image.at("from"),
        to: image.at("to"),
    };
    prepare(&copy).unwrap();
    image.put("to/omni.dat", "changed since");
    prepare(&copy).unwrap();
    assert_eq!(image.read("to/omni.dat"), "old");
    assert_eq!(image.mode("to/deep/er/script"), 0o755);
    assert_eq!(fs::read_link(image.at("to/link")).unwrap(), Path::new("omni.dat"));
}

#[test]
fn an_image_without_the_directory_is_told_apart() {
    let image = Image::new(IGEN);
    let error = prepare(&FilesArgs::Copy {
        from: image.at("nowhere/etc"),
        to: image.at("nc/etc"),
    });
    let said = error.unwrap_err().to_string();
    assert!(
        said.ends_with("nowhere/etc: set proxy.ncHome to where OMNIbus is installed in it"),
        "{said}"
    );
}

#[test]
fn installs_the_running_program() {
    let image = Image::new(IGEN);
    install(&image.at("private")).unwrap();
    assert_eq!(
        fs::read(image.at("private/proxypair")).unwrap(),
        fs::read("/proc/self/exe").unwrap()
    );
    assert_eq!(image.mode("private/proxypair"), 0o755);
}
