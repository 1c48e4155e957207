//! The first byte of each token. Sources: FreeTDS `include/freetds/proto.h`, go-dblib `tds/token.go`.

/// SQL text, from a client.
pub const LANGUAGE: u8 = 0x21;
/// End of the session, from a client.
pub const LOGOUT: u8 = 0x71;
/// Sets or asks an option.
pub const OPTIONCMD: u8 = 0xa6;
/// Answer to a login.
pub const LOGINACK: u8 = 0xad;
/// What the other end can do.
pub const CAPABILITY: u8 = 0xe2;
/// The server changed database, language, character set or packet size.
pub const ENVCHANGE: u8 = 0xe3;
/// A message of TDS 5.0: error or information.
pub const EED: u8 = 0xe5;
/// An error of TDS 4, which FreeTDS's own server library still sends.
pub const ERROR: u8 = 0xaa;
/// An information of TDS 4.
pub const INFO: u8 = 0xab;
/// Format of rows.
pub const ROWFMT: u8 = 0xee;
/// Format of rows with wide lengths and full column names.
pub const ROWFMT2: u8 = 0x61;
/// Formatting hints between format and rows.
pub const CONTROL: u8 = 0xae;
/// A row.
pub const ROW: u8 = 0xd1;
/// Columns that the rows are ordered by.
pub const ORDERBY: u8 = 0xa9;
/// The same with a wide length.
pub const ORDERBY2: u8 = 0x22;
/// Return value of a stored procedure.
pub const RETURNSTATUS: u8 = 0x79;
/// Format of parameters.
pub const PARAMFMT: u8 = 0xec;
/// Format of parameters with wide lengths.
pub const PARAMFMT2: u8 = 0x20;
/// Parameters.
pub const PARAMS: u8 = 0xd7;
/// A numbered message of the login negotiation.
pub const MSG: u8 = 0x65;
/// End of a result.
pub const DONE: u8 = 0xfd;
/// End of a stored procedure.
pub const DONEPROC: u8 = 0xfe;
/// End of a result inside a stored procedure.
pub const DONEINPROC: u8 = 0xff;
