//! What the examples and the documents say is true as far as a test can tell: the CRD accepts their manifests, and what
//! they name exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

/// Manifests in a document of which only a part is shown are put over this one.
const WHOLE: &str = include_str!("../../../examples/proxypair-minimal.yaml");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_in(directory: &str, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(directory)).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|found| found == extension))
        .collect()
}

/// Every document and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = files_in("docs", "md");
    assert!(paths.len() >= 4, "{paths:?}");
    paths.extend(["README.md", "charts/proxypair/README.md"].map(|path| root().join(path)));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The YAML blocks of a document, without the indentation that a list gives them.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match open.take() {
            None if bare == "```yaml" => open = Some((line.len() - bare.len(), String::new())),
            None => {}
            Some((_, block)) if bare == "```" => blocks.push(block),
            Some((indent, mut block)) => {
                block.push_str(line.get(indent..).unwrap_or(bare));
                block.push('\n');
                open = Some((indent, block));
            }
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over.clone(),
    }
}

/// Paths of what was written and was not read: fields that mean nothing.
fn lost(written: &Value, read: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in written.as_object().into_iter().flatten() {
        match read.get(key) {
            Some(read) => lost(value, read, &format!("{path}.{key}"), found),
            None => found.push(format!("{path}.{key}")),
        }
    }
}

#[track_caller]
fn accepted_as_it_stands(manifest: &Value, whence: &str) {
    assert_eq!(refusals(manifest), Vec::<String>::new(), "{whence}");
    let pair: ProxyPair = serde_json::from_value(manifest.clone()).unwrap();
    let mut found = Vec::new();
    lost(manifest, &serde_json::to_value(&pair).unwrap(), "", &mut found);
    assert_eq!(found, Vec::<String>::new(), "{whence}");
}

#[test]
fn the_examples_are_accepted_and_have_no_field_that_means_nothing() {
    let examples = files_in("examples", "yaml");
    assert!(examples.len() >= 3, "{examples:?}");
    for path in examples {
        let manifest: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        accepted_as_it_stands(&manifest, &path.display().to_string());
    }
}

#[test]
fn the_full_example_has_every_field() {
    fn missing(schema: &Value, written: &Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            match written.get(name) {
                Some(written) => missing(field, written, &path, found),
                None => found.push(path),
            }
        }
    }
    let crd = serde_json::to_value(ProxyPair::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let text = fs::read_to_string(root().join("examples/proxypair-full.yaml")).unwrap();
    let written: Value = serde_saphyr::from_str(&text).unwrap();
    let mut found = Vec::new();
    missing(schema, &written["spec"], "", &mut found);
    // Fields of Kubernetes, what a side overrides, fields that exclude each other, and those of the other engine.
    let elsewhere = |path: &str| {
        [
            "affinity",
            "resources",
            "gateResources",
            "initResources",
            "imagePullSecrets",
        ]
        .iter()
        .any(|field| path.contains(&format!(".{field}.")))
            || path.contains(".affinity")
            || path.starts_with(".primary.proxy.")
            || path.starts_with(".backup.proxy.")
            || path.starts_with(".proxy.podSecurityContext.")
            || path.contains(".caBundle.")
            || [
                ".proxy.image",
                ".proxy.imagePullPolicy",
                ".proxy.ncHome",
                ".proxy.properties",
                ".proxy.secretName",
                ".proxy.gateResources",
                ".proxy.initResources",
            ]
            .contains(&path)
    };
    found.retain(|path| !elsewhere(path));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_manifests_in_the_documents_are_accepted() {
    let mut count = 0;
    for (path, text) in documents() {
        for block in blocks(&text) {
            for manifest in block.split("\n---\n") {
                let whence = format!("{}: {manifest}", path.display());
                let mut manifest: Value = serde_saphyr::from_str(manifest).expect(&whence);
                if manifest.get("kind").is_none() {
                    let part = manifest;
                    manifest = serde_saphyr::from_str(WHOLE).unwrap();
                    merge(&mut manifest, &part);
                }
                if manifest["kind"] == "ProxyPair" {
                    accepted_as_it_stands(&manifest, &whence);
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 5, "{count} manifests");
}

#[test]
fn the_tests_that_the_documents_name_exist() {
    let mut count = 0;
    for (path, text) in documents() {
        for word in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = word.split_once(".rs::") else {
                continue;
            };
            let source = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            assert!(
                source.contains(&format!("fn {test}(")),
                "{}: there is no {word}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count >= 20, "{count} tests");
}

#[test]
fn the_end_to_end_tests_whose_numbers_are_told_exist() {
    let tests = fs::read_to_string(root().join("tests/e2e/main.rs")).unwrap();
    let mut count = 0;
    for (path, text) in documents() {
        for name in text.split("e2e `").skip(1).filter_map(|rest| rest.split('`').next()) {
            assert!(
                tests.contains(&format!("\"{name}\"")),
                "{}: there is no {name}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count >= 10, "{count} tests");
}

#[test]
fn the_links_in_the_documents_lead_somewhere() {
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let there = path.parent().unwrap_or(&path).join(file);
            assert!(
                link.starts_with("http") || there.exists(),
                "{}: there is no {link}",
                path.display()
            );
        }
    }
}
