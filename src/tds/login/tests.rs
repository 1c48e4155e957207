//! The login record against captured bytes, and against malformed bytes.

use super::*;
use crate::tds::capability::WIDE_TABLES;
use proptest::prelude::*;

/// The login of `tsql` 1.3.17 for user `netcool`, password `secret`, as captured.
fn tsql_login() -> Vec<u8> {
    let mut payload = vec![0; LOGIN_LEN];
    let mut put = |offset: usize, bytes: &[u8]| payload[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x000, b"vm");
    put(0x01e, &[2]);
    put(0x01f, b"netcool");
    put(0x03d, &[7]);
    put(0x03e, b"secret");
    put(0x05c, &[6]);
    put(0x05d, b"7716");
    put(0x07b, &[4, 3, 1, 6, 10, 9, 1]);
    put(0x08c, b"TSQL");
    put(0x0aa, &[4]);
    put(0x0ab, b"127.0.0.1");
    put(0x0c9, &[9]);
    put(0x0ca, b"\0\x06secret");
    put(0x1c9, &[8, 5, 0, 0, 0]);
    put(0x1ce, b"TDS-Librar\x0a");
    put(0x1d9, &[5, 0, 0, 0, 0, 0x0d, 0x11]);
    put(0x1e0, b"us_english");
    put(0x1fe, &[10]);
    put(0x22c, &[1]);
    put(0x22d, b"512\0\0\0\x03");
    payload.extend([0xe2, 0x20, 0x00, 0x01, 0x0e]);
    payload.extend([
        0x00, 0x00, 0x60, 0x08, 0x81, 0x81, 0xe8, 0x0f, 0x6d, 0x7f, 0xff, 0xff, 0xff, 0xfe,
    ]);
    payload.extend([0x02, 0x0e]);
    payload.extend([
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x68, 0x00, 0x00, 0x00,
    ]);
    payload
}

fn tsql_record() -> LoginRecord {
    let mut record = LoginRecord::new("netcool", "secret", "TSQL");
    record.host = "vm".to_owned();
    record.process = "7716".to_owned();
    record.server = "127.0.0.1".to_owned();
    record.program = "TDS-Librar".to_owned();
    record.charset = String::new();
    record.capability = LoginRecord::decode(&tsql_login()).unwrap().capability;
    record
}

#[test]
fn reads_the_captured_login_of_tsql() {
    let record = LoginRecord::decode(&tsql_login()).unwrap();
    assert_eq!(record, tsql_record());
    assert!(record.capability.requests(WIDE_TABLES));
    assert_eq!(tsql_login().len(), 603);
}

#[test]
fn writes_the_captured_login_of_tsql_byte_for_byte() {
    let mut payload = Vec::new();
    tsql_record().encode(&mut payload).unwrap();
    assert_eq!(payload, tsql_login());
}

#[test]
fn reads_the_byte_order_that_jconnect_announces() {
    let mut payload = tsql_login();
    payload[0x07c..0x081].copy_from_slice(&[2, 0, 6, 4, 8]);
    payload[0x239..0x23b].copy_from_slice(&[0x00, 0x20]);
    let record = LoginRecord::decode(&payload).unwrap();
    assert_eq!(record.order, ByteOrder::Big);
    assert_eq!(record.user, "netcool");
}

#[test]
fn a_long_password_travels_in_the_remote_field_only() {
    let password = "p".repeat(PASSWORD_MAX);
    let mut payload = Vec::new();
    LoginRecord::new("root", &password, "nco").encode(&mut payload).unwrap();
    assert_eq!(payload[0x05c], 0);
    assert_eq!(LoginRecord::decode(&payload).unwrap().password, password);
}

#[test]
fn refuses_a_password_that_no_field_can_hold() {
    let error = LoginRecord::new("root", &"p".repeat(254), "nco")
        .encode(&mut Vec::new())
        .unwrap_err();
    assert!(matches!(
        error,
        Error::TooLong {
            what: "password",
            length: 254,
            limit: 253
        }
    ));
}

#[test]
fn cuts_a_long_host_name_between_characters() {
    let mut record = LoginRecord::new("root", "", "nco");
    record.host = format!("{}é", "h".repeat(29));
    let mut payload = Vec::new();
    record.encode(&mut payload).unwrap();
    assert_eq!(LoginRecord::decode(&payload).unwrap().host, "h".repeat(29));
}

#[test]
fn refuses_a_short_record() {
    let error = LoginRecord::decode(&tsql_login()[..567]).unwrap_err();
    assert_eq!(
        error,
        Error::Truncated {
            what: "login record",
            wanted: 568,
            left: 567
        }
    );
}

#[test]
fn refuses_a_length_larger_than_its_field() {
    let mut payload = tsql_login();
    payload[0x03d] = 31;
    let error = LoginRecord::decode(&payload).unwrap_err();
    assert_eq!(
        error,
        Error::TooLong {
            what: "user name",
            length: 31,
            limit: 30
        }
    );
}

#[test]
fn refuses_an_unknown_byte_order() {
    let mut payload = tsql_login();
    payload[0x07c] = 0;
    assert!(matches!(
        LoginRecord::decode(&payload),
        Err(Error::Undefined { found: 0, .. })
    ));
}

#[test]
fn debug_output_shows_no_password() {
    assert!(!format!("{:?}", tsql_record()).contains("secret"));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        user in "[a-z]{0,30}", password in "[ -~]{0,253}", application in "[A-Z]{0,30}", big in any::<bool>(),
    ) {
        let mut record = LoginRecord::new(&user, &password, &application);
        record.order = if big { ByteOrder::Big } else { ByteOrder::Little };
        let mut payload = Vec::new();
        record.encode(&mut payload).unwrap();
        prop_assert_eq!(LoginRecord::decode(&payload).unwrap(), record);
    }

    #[test]
    fn a_damaged_login_never_panics(position in 0_usize..603, byte in any::<u8>(), cut in 0_usize..603) {
        let mut payload = tsql_login();
        payload[position] = byte;
        let _ = LoginRecord::decode(&payload);
        let _ = LoginRecord::decode(&payload[..cut]);
    }
}
