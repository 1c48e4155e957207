//! Against the kernel, in a network namespace of its own. `tests/node_agent.rs` has more.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::*;

/// Has the kernel track connections, which it does only for rules that need it. Says why it cannot be.
fn track() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace can be made: {error}"))?;
    let rule = "table inet t { chain c { type filter hook output priority 0\n ct state new accept\n }\n }";
    for command in [["ip", "link", "set", "lo", "up"].as_slice(), &["nft", rule]] {
        let status = Command::new(command[0]).args(&command[1..]).status();
        let status = status.map_err(|error| format!("{} cannot be run: {error}", command[0]))?;
        assert!(status.success(), "{command:?}");
    }
    Ok(())
}

#[test]
fn only_the_entry_with_the_same_identity_is_deleted() {
    let tested = thread::spawn(|| {
        track()?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap().local_addr().unwrap();
        let mut table = Conntrack::open().unwrap();
        let known = table.find(client, server).unwrap().expect("an entry");
        let other = entry(known.original, known.reply, 7, None);
        assert!(!table.delete(&other).unwrap());
        assert_eq!(table.find(client, server).unwrap(), Some(known.clone()));
        assert!(table.delete(&known).unwrap());
        assert_eq!(table.find(client, server).unwrap(), None);
        assert!(!table.delete(&known).unwrap());
        Ok::<_, String>(())
    });
    if let Err(reason) = tested.join().unwrap() {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        eprintln!("not tested: {reason}");
    }
}
