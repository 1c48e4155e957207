//! The import arrows of docs/architecture.md, read from the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each module, and the modules of this crate that it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("address", &[]),
    ("clock", &[]),
    ("foreign", &[]),
    ("net", &[]),
    ("dial", &["address", "net", "tls"]),
    ("lookout", &["net", "protocol"]),
    ("tds", &[]),
    ("tls", &["foreign"]),
    ("telemetry", &[]),
    ("metrics", &["api"]),
    ("omnibus", &["api"]),
    ("admin", &["net"]),
    ("process", &["net"]),
    ("protocol", &[]),
    ("leader", &["clock"]),
    ("domain", &["address", "api", "foreign", "omnibus", "protocol"]),
    ("proxyserv", &["address", "api", "omnibus"]),
    (
        "gate",
        &[
            "admin", "api", "clock", "dial", "lookout", "net", "process", "protocol", "tds", "tls",
        ],
    ),
    (
        "check",
        &["dial", "domain", "foreign", "lookout", "net", "protocol", "tds", "tls"],
    ),
    ("cluster", &["api", "domain", "leader", "metrics"]),
    (
        "worker",
        &[
            "address",
            "api",
            "check",
            "clock",
            "cluster",
            "dial",
            "domain",
            "foreign",
            "metrics",
            "protocol",
            "telemetry",
            "tls",
        ],
    ),
    (
        "controller",
        &[
            "api",
            "check",
            "clock",
            "cluster",
            "domain",
            "foreign",
            "leader",
            "metrics",
            "telemetry",
            "tls",
            "worker",
        ],
    ),
    ("agent", &["admin", "api", "cluster", "domain", "process"]),
    (
        "operator",
        &["admin", "api", "controller", "domain", "leader", "metrics", "process"],
    ),
];

/// Crates that talk to an API server: only these modules may hold a client.
const CLIENTS: &[&str] = &["agent", "cluster", "controller", "leader", "operator", "worker"];

/// What makes a function impure; `domain` has none of it.
const IMPURE: &[&str] = &[
    "tokio::",
    "Instant::now()",
    "Timestamp::now()",
    "async fn",
    "std::fs",
    "std::net::Tcp",
];

fn sources(module: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
                && !path.iter().any(|part| part == "tests")
            {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![src.join(format!("{module}.rs"))];
    below(&src.join(module), &mut found);
    found
}

/// The code of a file without its comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .to_owned();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules of this crate that a piece of code names as `crate::module`, alone or in a group.
fn named(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 1 && c != '}' && c != ',' {
                    item.push(c);
                }
                if (depth == 1 && c == ',') || depth == 0 {
                    found.insert(word(item.trim()));
                    item.clear();
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.insert(word(rest));
        }
    }
    found.remove("");
    found
}

#[test]
fn every_module_has_its_arrows() {
    let declared: BTreeSet<_> = ARROWS.iter().map(|(module, _)| (*module).to_owned()).collect();
    let lib = code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let modules: BTreeSet<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    assert_eq!(declared, modules);
}

#[test]
fn no_module_imports_against_the_arrows() {
    let mut wrong = Vec::new();
    for (module, may) in ARROWS {
        for path in sources(module) {
            for other in named(&code(&path)) {
                if other != *module && !may.contains(&other.as_str()) {
                    wrong.push(format!("{}: {module} may not know of {other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_these_modules_hold_a_client() {
    for (module, _) in ARROWS.iter().filter(|(module, _)| !CLIENTS.contains(module)) {
        for path in sources(module) {
            let code = code(&path);
            for client in ["kube::Client", "Client,", "kube::Api", "kube_runtime", "kube::runtime"] {
                let holds = code.contains("kube") && code.contains(client);
                assert!(!holds, "{} holds {client}", path.display());
            }
        }
    }
}

#[test]
fn decisions_are_pure() {
    for path in sources("domain") {
        let code = code(&path);
        for impure in IMPURE {
            assert!(!code.contains(impure), "{} has {impure}", path.display());
        }
    }
}

/// Cargo looks for no tests by itself, as some of those in `tests` belong to testkit.
#[test]
fn every_test_belongs_to_a_package() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests = ["Cargo.toml", "testkit/Cargo.toml"].map(|path| fs::read_to_string(root.join(path)).unwrap());
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.join("main.rs").exists() || path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let test = format!("[[test]]\nname = \"{name}\"\n");
            assert!(
                manifests.iter().any(|manifest| manifest.contains(&test)),
                "no package has the test {name}"
            );
        }
    }
}
