//! What errors of connections and lookups say.

use std::io;

/// Whether an error says that there is no way to the other machine, rather than that the machine refuses.
#[must_use]
pub fn is_unroutable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
    )
}

/// Whether an error of a lookup says that no resolver could be asked, or that none answered, rather than that the name has no address.
///
/// The codes of getaddrinfo do not reach [`io::Error`], only glibc's texts for them (`gai_strerror`). An `EAI_SYSTEM` comes as an errno.
#[must_use]
pub fn is_resolver_trouble(error: &io::Error) -> bool {
    const TEXTS: [&str; 3] = [
        "Temporary failure in name resolution",
        "Non-recoverable failure in name resolution",
        "Memory allocation failure",
    ];
    let text = error.to_string();
    error.raw_os_error().is_some()
        || error.kind() == io::ErrorKind::TimedOut
        || TEXTS.iter().any(|known| text.contains(known))
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_resolver_that_does_not_answer_is_told_from_a_name_without_address() {
        let lookup = |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        assert!(is_resolver_trouble(&lookup("Temporary failure in name resolution")));
        assert!(is_resolver_trouble(&io::Error::from_raw_os_error(Errno::EMFILE as i32)));
        assert!(!is_resolver_trouble(&lookup("Name or service not known")));
        assert!(!is_resolver_trouble(&lookup("No address associated with hostname")));
    }
}
