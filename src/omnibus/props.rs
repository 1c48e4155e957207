//! Properties files: `Key: 'text'`, `Key: 10`, `Key: TRUE`.

use super::Unwritable;
use crate::api::ProxyProperties;

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyValue<'a> {
    /// Written in single quotation marks.
    Text(&'a str),
    /// A number.
    Number(i64),
    /// TRUE or FALSE.
    Flag(bool),
}

/// One line of a properties file.
///
/// # Errors
///
/// [`Unwritable::Property`] if the value has a quotation mark, a backslash, or anything but printable ASCII.
pub fn property(key: &str, value: PropertyValue<'_>) -> Result<String, Unwritable> {
    let written = match value {
        PropertyValue::Text(text) => {
            if let Some(character) = text.chars().find_map(unsafe_character) {
                return Err(Unwritable::Property {
                    key: key.to_owned(),
                    character,
                });
            }
            format!("'{text}'")
        }
        PropertyValue::Number(number) => number.to_string(),
        PropertyValue::Flag(true) => "TRUE".to_owned(),
        PropertyValue::Flag(false) => "FALSE".to_owned(),
    };
    Ok(format!("{key}: {written}\n"))
}

fn unsafe_character(c: char) -> Option<&'static str> {
    match c {
        '\'' => Some("a single quotation mark"),
        '\\' => Some("a backslash"),
        '\n' | '\r' => Some("a line break"),
        c if c.is_ascii_control() => Some("a control character"),
        c if !c.is_ascii() => Some("a character beyond ASCII"),
        _ => None,
    }
}

/// The login of a proxy server to its ObjectServer.
#[derive(Clone, Copy)]
pub struct ProxyCredentials<'a> {
    /// Value of AuthUserName.
    pub user: &'a str,
    /// Value of AuthPassword, plain or encrypted.
    pub password: &'a str,
}

/// Content of the properties file of an nco_proxyserv.
#[derive(Clone, Copy)]
pub struct Proxyserv<'a> {
    /// Value of Name.
    pub name: &'a str,
    /// Value of RemoteServer: the ObjectServer's name.
    pub remote_server: &'a str,
    /// Values of AuthUserName and AuthPassword.
    pub credentials: Option<ProxyCredentials<'a>>,
    /// Value of ConfigKeyFile, a path.
    pub key_file: Option<&'a str>,
    /// The properties in the ProxyPair's spec.
    pub properties: &'a ProxyProperties,
}

/// The text of the properties file of an nco_proxyserv. It logs to stderr unless the user sets MessageLog.
///
/// # Errors
///
/// [`Unwritable::Property`] if a value cannot be written.
pub fn proxyserv_props(proxy: &Proxyserv<'_>) -> Result<String, Unwritable> {
    let Proxyserv {
        name,
        remote_server,
        credentials,
        key_file,
        properties,
    } = proxy;
    let mut text = "# Written when the pod starts, from the ProxyPair and its Secret.\n".to_owned();
    text += &property("Name", PropertyValue::Text(name))?;
    text += &property("RemoteServer", PropertyValue::Text(remote_server))?;
    if let Some(ProxyCredentials { user, password }) = credentials {
        text += &property("AuthUserName", PropertyValue::Text(user))?;
        text += &property("AuthPassword", PropertyValue::Text(password))?;
    }
    if let Some(key_file) = key_file {
        text += &property("ConfigKeyFile", PropertyValue::Text(key_file))?;
    }
    if properties.message_log.is_none() {
        text += &property("MessageLog", PropertyValue::Text("stderr"))?;
    }
    // The API's own names are OMNIbus's.
    let set = serde_json::to_value(properties).unwrap_or_default();
    for (key, value) in set.as_object().into_iter().flatten() {
        let value = match value {
            serde_json::Value::Bool(flag) => PropertyValue::Flag(*flag),
            serde_json::Value::Number(number) => PropertyValue::Number(number.as_i64().unwrap_or_default()),
            other => PropertyValue::Text(other.as_str().unwrap_or_default()),
        };
        text += &property(key, value)?;
    }
    Ok(text)
}
