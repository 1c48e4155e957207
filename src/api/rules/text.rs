//! Rules on single texts.

use super::SpecRule;

/// Whether `text` begins and ends with a character that `at_ends` takes, and has only characters that `within` takes.
fn made_of(text: &str, at_ends: fn(char) -> bool, within: fn(char) -> bool) -> bool {
    text.starts_with(at_ends) && text.ends_with(at_ends) && text.chars().all(within)
}

/// Whether `text` has at least one character, and only characters that `of` takes.
fn only(text: &str, of: fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(of)
}

fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// `metadata.name`, with which the names of all children begin.
pub fn pair_name() -> SpecRule<str> {
    SpecRule::new(
        "self.metadata.name.size() <= 46 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        |name| {
            let of_name = |c: char| lower_or_digit(c) || c == '-';
            let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
            name.len() <= 46 && begins && made_of(name, lower_or_digit, of_name)
        },
        "metadata.name becomes the name of a Service: use at most 46 lower-case letters, digits and dashes, beginning \
         with a letter, such as proxy-v",
    )
}

/// The name of a server of OMNIbus.
pub fn server_name() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[A-Z_][A-Z0-9_]{0,28}$')",
        |name| {
            let of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            name.len() <= 29 && only(name, of_name) && !name.starts_with(|c: char| c.is_ascii_digit())
        },
        "OMNIbus allows server names of at most 29 upper-case letters, digits and underscores, not beginning with a \
         digit, such as AGG_P or PROXY_P",
    )
}

/// A host name or an IP address.
pub fn host() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?[.]?$') || self.matches('^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$')",
        |host| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.');
            // With a dot at its end a name is complete, and no search domain is tried.
            let name = host.strip_suffix('.').unwrap_or(host);
            let is_name = made_of(name, |c| c.is_ascii_alphanumeric(), of_name);
            is_name || host.contains(':') && only(host, of_address)
        },
        "write a host name or an IP address without port or brackets, such as aggp.example.com; the port has a field \
         of its own",
    )
}

const OBJECT_NAME: &str = "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')";

fn is_object_name(name: &str) -> bool {
    made_of(name, lower_or_digit, |c| lower_or_digit(c) || matches!(c, '-' | '.'))
}

/// The name of a ConfigMap.
pub fn config_map_name() -> SpecRule<str> {
    SpecRule::new(
        OBJECT_NAME,
        is_object_name,
        "write the name of a ConfigMap: lower-case letters, digits, dashes and dots",
    )
}

/// The name of a Secret.
pub fn secret_name() -> SpecRule<str> {
    SpecRule::new(
        OBJECT_NAME,
        is_object_name,
        "write the name of a Secret: lower-case letters, digits, dashes and dots",
    )
}

/// A key in a ConfigMap or Secret.
pub fn key() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[-._A-Za-z0-9]+$')",
        |key| only(key, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')),
        "write a key of a ConfigMap or Secret: letters, digits, dashes, dots and underscores, such as ca.crt",
    )
}

/// An `AppDescription` that can stand in a query.
pub fn gateway_description() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[A-Za-z0-9_ .:/-]+$')",
        |text| {
            only(text, |c| {
                c.is_ascii_alphanumeric() || matches!(c, '_' | ' ' | '.' | ':' | '/' | '-')
            })
        },
        "gatewayDescription is compared with AppDescription in catalog.connections: use letters, digits, blanks and _ \
         . : / - only, such as failover_gate",
    )
}

/// Where an image is pulled from.
pub fn image() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[A-Za-z0-9][-A-Za-z0-9_./:@]*$')",
        |image| {
            let of_image = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@');
            only(image, of_image) && image.starts_with(|c: char| c.is_ascii_alphanumeric())
        },
        "write an image as registry/name:tag or registry/name@sha256:digest, without spaces",
    )
}

/// An absolute path that is safe in arguments and mounts.
pub fn nc_home() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^(/[A-Za-z0-9_][-A-Za-z0-9_.]*)+$')",
        |path| {
            let of_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let is_part = |part: &str| only(part, of_part) && !part.starts_with(['-', '.']);
            path.strip_prefix('/').is_some_and(|path| path.split('/').all(is_part))
        },
        "write ncHome as an absolute path without a slash at its end, such as /opt/IBM/tivoli/netcool",
    )
}

/// A log that a properties file can name.
pub fn message_log() -> SpecRule<str> {
    SpecRule::new(
        "self.matches('^[-A-Za-z0-9_./$]+$')",
        |path| {
            only(path, |c| {
                c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '$')
            })
        },
        "write MessageLog as stdout, stderr or a path of letters, digits and _ . - / $, such as \
         $OMNIHOME/log/proxy.log",
    )
}

#[cfg(test)]
mod tests {
    use kube::core::cel::Validator;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn rules() -> [SpecRule<str>; 9] {
        [
            server_name(),
            host(),
            config_map_name(),
            secret_name(),
            key(),
            gateway_description(),
            image(),
            nc_home(),
            message_log(),
        ]
    }

    /// Whether an API server takes `value` where the schema has `rule`.
    fn accepted(rule: &SpecRule<str>, type_: &str, value: &Value) -> bool {
        let schema = json!({"type": type_, "x-kubernetes-validations": [rule.cel()]});
        Validator::new().validate(&schema, value, None).is_ok()
    }

    proptest! {
        #[test]
        fn cel_and_rust_agree(text in "[aZ09_:./$@ -]{0,6}|[A-Z_0-9]{28,31}|(/[a-z.-]{0,2}){0,3}|\\PC{0,3}") {
            for rule in rules() {
                let in_rust = rule.check("field", &text).is_ok();
                prop_assert_eq!(accepted(&rule, "string", &json!(text)), in_rust, "{}", rule.message);
            }
        }

        #[test]
        fn cel_and_rust_agree_on_names_of_pairs(name in "[aZ09.-]{0,4}|[a-z]{45,48}") {
            let object = json!({"metadata": {"name": name}});
            let in_rust = pair_name().check("metadata.name", &name).is_ok();
            prop_assert_eq!(accepted(&pair_name(), "object", &object), in_rust);
        }
    }
}
