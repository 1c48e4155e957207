//! The command lines of the stand-ins. With this test, `cargo test --workspace` builds the programs that the other tests start.

use std::process::Command;

const PROGRAMS: [&str; 4] = [
    env!("CARGO_BIN_EXE_gateway"),
    env!("CARGO_BIN_EXE_objectserver"),
    env!("CARGO_BIN_EXE_probe"),
    env!("CARGO_BIN_EXE_proxyserv"),
];

#[test]
fn refuses_an_option_that_does_not_exist_before_it_does_anything() {
    for program in PROGRAMS {
        let output = Command::new(program).arg("--no-such-option").output().unwrap();
        assert!(!output.status.success(), "{program}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("--no-such-option"), "{program}: {said}");
    }
}
