//! The login record: 568 bytes of fixed fields that open every session, followed by the client's capabilities in the same message.
//!
//! With packets of 512 bytes, which every client sends until the server changes the size, a login is always at least two packets. Sources: a
//! captured login of `tsql`, checked field by field against go-dblib `tds/loginConfig.go` and FreeTDS `src/tds/login.c`.

use std::fmt;

use super::capability::Capability;
use super::wire::{ByteOrder, Reader, Writer, text};
use super::{Error, token};

/// Length of the login record in bytes, without the capabilities after it.
pub const LOGIN_LEN: usize = 568;

/// Longest host, user, application, server, language and character set name in bytes, and longest password in the password field.
pub const NAME_MAX: usize = 30;

/// Longest password in bytes: a longer one than [`NAME_MAX`] travels in the remote password field only, as FreeTDS sends it.
pub const PASSWORD_MAX: usize = 253;

const PROGRAM_MAX: usize = 10;
const REMOTE_PASSWORDS_LEN: usize = 255;
const PACKET_SIZE_LEN: usize = 6;
const SHORT_INTEGERS_BIG: u8 = 2;
const SHORT_INTEGERS_LITTLE: u8 = 3;

/// What a client declares when it logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginRecord {
    /// Order of all integers in the session.
    pub order: ByteOrder,
    /// The client's machine.
    pub host: String,
    /// The user.
    pub user: String,
    /// The password in clear; empty when the client wants to send it encrypted later (see `encryption`).
    pub password: String,
    /// The client's process id as text.
    pub process: String,
    /// The application, shown as `AppName` in `catalog.connections`.
    pub application: String,
    /// The server that the client believes to talk to.
    pub server: String,
    /// The client's protocol library; at most 10 bytes.
    pub program: String,
    /// TDS version as four numbers; `[5, 0, 0, 0]`.
    pub tds_version: [u8; 4],
    /// Language of messages.
    pub language: String,
    /// Character set; empty asks for no conversion.
    pub charset: String,
    /// Packet size that the client asks for, as decimal text of at most 6 bytes.
    pub packet_size: String,
    /// Bit mask of encrypted logins that the client offers, such as [`OFFER`](super::encryption::OFFER); 0 means that the password above is the
    /// real one.
    pub encryption: u8,
    /// What the client can do.
    pub capability: Capability,
}

impl LoginRecord {
    /// A plain little-endian login that asks for UTF-8 and packets of 512 bytes.
    #[must_use]
    pub fn new(user: &str, password: &str, application: &str) -> Self {
        Self {
            order: ByteOrder::Little,
            host: String::new(),
            user: user.to_owned(),
            password: password.to_owned(),
            process: std::process::id().to_string(),
            application: application.to_owned(),
            server: String::new(),
            program: "proxypair".to_owned(),
            tds_version: [5, 0, 0, 0],
            language: "us_english".to_owned(),
            charset: "utf8".to_owned(),
            packet_size: "512".to_owned(),
            encryption: 0,
            capability: Capability::minimal(),
        }
    }

    /// Reads the payload of a login message.
    ///
    /// The password is the remote one for the empty server name when there is one, which is where clients put long passwords.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] for a short record, [`Error::TooLong`] for a length byte larger than its field, [`Error::Undefined`] for
    /// a byte order or a token after the record that does not exist.
    pub fn decode(payload: &[u8]) -> Result<Self, Error> {
        let record = payload.get(..LOGIN_LEN).ok_or(Error::Truncated {
            what: "login record",
            wanted: LOGIN_LEN,
            left: payload.len(),
        })?;
        let order = match record[124] {
            SHORT_INTEGERS_BIG => ByteOrder::Big,
            SHORT_INTEGERS_LITTLE => ByteOrder::Little,
            found => {
                return Err(Error::Undefined {
                    what: "byte order of the login record",
                    found: found.into(),
                });
            }
        };
        let mut reader = Reader::new(record, order);
        let host = field(&mut reader, NAME_MAX, "host name")?;
        let user = field(&mut reader, NAME_MAX, "user name")?;
        let short_password = field(&mut reader, NAME_MAX, "password")?;
        let process = field(&mut reader, NAME_MAX, "process")?;
        reader.bytes(16, "data representations")?;
        let application = field(&mut reader, NAME_MAX, "application name")?;
        let server = field(&mut reader, NAME_MAX, "server name")?;
        let remote = field(&mut reader, REMOTE_PASSWORDS_LEN, "remote passwords")?;
        let tds_version = reader.array("TDS version")?;
        let program = field(&mut reader, PROGRAM_MAX, "program name")?;
        reader.bytes(7, "program version")?;
        let language = field(&mut reader, NAME_MAX, "language")?;
        reader.bytes(3, "old security fields")?;
        let encryption = reader.u8("encryption offers")?;
        reader.bytes(10, "security fields")?;
        let charset = field(&mut reader, NAME_MAX, "character set")?;
        reader.u8("character set notification")?;
        let packet_size = field(&mut reader, PACKET_SIZE_LEN, "packet size")?;
        let mut after = Reader::new(&payload[LOGIN_LEN..], order);
        Ok(Self {
            order,
            host: text(host),
            user: text(user),
            password: text(own_password(remote, order).unwrap_or(short_password)),
            process: text(process),
            application: text(application),
            server: text(server),
            program: text(program),
            tds_version,
            language: text(language),
            charset: text(charset),
            packet_size: text(packet_size),
            encryption,
            capability: capability_after(&mut after)?,
        })
    }

    /// Appends the payload of a login message.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] for a text that does not fit its field. Only `host` is cut instead: pod names are longer than the field.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        let mut writer = Writer::new(out, self.order);
        let password = self.password.as_bytes();
        if password.len() > PASSWORD_MAX {
            return Err(Error::TooLong {
                what: "password",
                length: password.len(),
                limit: PASSWORD_MAX,
            });
        }
        let short_password = if password.len() > NAME_MAX { &[] } else { password };
        let big = self.order == ByteOrder::Big;
        put(&mut writer, prefix(&self.host, NAME_MAX), NAME_MAX, "host name")?;
        put(&mut writer, self.user.as_bytes(), NAME_MAX, "user name")?;
        put(&mut writer, short_password, NAME_MAX, "password")?;
        put(&mut writer, self.process.as_bytes(), NAME_MAX, "process")?;
        writer.bytes(if big { &[2, 0, 6, 4, 8] } else { &[3, 1, 6, 10, 9] });
        writer.bytes(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(&mut writer, self.application.as_bytes(), NAME_MAX, "application name")?;
        put(&mut writer, self.server.as_bytes(), NAME_MAX, "server name")?;
        let mut remote = Vec::new();
        if !password.is_empty() || self.encryption == 0 {
            let mut entry = Writer::new(&mut remote, self.order);
            entry.u8(0);
            entry.counted8(password, "password")?;
        }
        put(&mut writer, &remote, REMOTE_PASSWORDS_LEN, "remote passwords")?;
        writer.bytes(&self.tds_version);
        put(&mut writer, self.program.as_bytes(), PROGRAM_MAX, "program name")?;
        writer.bytes(&[5, 0, 0, 0, 0]);
        writer.bytes(if big { &[12, 16] } else { &[13, 17] });
        put(&mut writer, self.language.as_bytes(), NAME_MAX, "language")?;
        writer.bytes(&[0, 0, 0]);
        writer.u8(self.encryption);
        writer.bytes(&[0; 10]);
        put(&mut writer, self.charset.as_bytes(), NAME_MAX, "character set")?;
        writer.u8(1);
        put(&mut writer, self.packet_size.as_bytes(), PACKET_SIZE_LEN, "packet size")?;
        writer.bytes(&[0; 4]);
        debug_assert_eq!(out.len() - start, LOGIN_LEN, "length of the login record");
        out.push(token::CAPABILITY);
        self.capability.encode(&mut Writer::new(out, self.order))
    }
}

impl fmt::Debug for LoginRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRecord")
            .field("order", &self.order)
            .field("host", &self.host)
            .field("user", &self.user)
            .field("application", &self.application)
            .field("server", &self.server)
            .field("program", &self.program)
            .field("tds_version", &self.tds_version)
            .field("charset", &self.charset)
            .field("packet_size", &self.packet_size)
            .field("encryption", &self.encryption)
            .finish_non_exhaustive()
    }
}

fn field<'a>(reader: &mut Reader<'a>, limit: usize, what: &'static str) -> Result<&'a [u8], Error> {
    let bytes = reader.bytes(limit, what)?;
    let length = usize::from(reader.u8(what)?);
    bytes.get(..length).ok_or(Error::TooLong { what, length, limit })
}

fn put(writer: &mut Writer<'_>, bytes: &[u8], limit: usize, what: &'static str) -> Result<(), Error> {
    let length = bytes.len();
    let too_long = Error::TooLong { what, length, limit };
    let padding = limit.checked_sub(length).ok_or_else(|| too_long.clone())?;
    writer.bytes(bytes);
    writer.bytes(&vec![0; padding]);
    writer.u8(u8::try_from(length).map_err(|_| too_long)?);
    Ok(())
}

fn prefix(text: &str, limit: usize) -> &[u8] {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
        .as_bytes()
}

/// The password for the server that is logged in to: the remote entry with an empty server name. A damaged list counts as none.
fn own_password(remote: &[u8], order: ByteOrder) -> Option<&[u8]> {
    let mut reader = Reader::new(remote, order);
    while !reader.is_empty() {
        let server = reader.counted8("remote server").ok()?;
        let password = reader.counted8("remote password").ok()?;
        if server.is_empty() {
            return Some(password);
        }
    }
    None
}

fn capability_after(reader: &mut Reader<'_>) -> Result<Capability, Error> {
    if reader.is_empty() {
        return Ok(Capability::default());
    }
    match reader.u8("token after the login record")? {
        token::CAPABILITY => Capability::decode(reader),
        found => Err(Error::Undefined {
            what: "token after the login record",
            found: found.into(),
        }),
    }
}

#[cfg(test)]
mod tests;
