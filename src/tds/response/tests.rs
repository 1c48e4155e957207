//! Answers against captured bytes in both byte orders, and against damage.

use super::*;
use crate::tds::format::COLUMN_NULLABLE;
use crate::tds::request::RequestToken;
use crate::tds::value::DataType;
use proptest::prelude::*;

use ByteOrder::{Big, Little};

fn decode(payload: &[u8], order: ByteOrder) -> Result<Vec<Token>, Error> {
    Tokens::new(payload, order).collect()
}

fn encode(tokens: &[Token], order: ByteOrder) -> Vec<u8> {
    let mut answer = AnswerWriter::new(order);
    for token in tokens {
        answer.push(token).unwrap();
    }
    answer.into_payload()
}

fn assert_golden(bytes: &[u8], order: ByteOrder, tokens: &[Token]) {
    assert_eq!(decode(bytes, order).unwrap(), tokens);
    assert_eq!(encode(tokens, order), bytes);
}

fn value_column() -> Vec<Column> {
    vec![Column::nullable("Value", DataType::VarChar(255))]
}

fn acting_primary(wide: bool) -> Vec<Token> {
    vec![
        Token::RowFormat {
            wide,
            columns: value_column(),
        },
        Token::Row(vec![Value::Text(b"TRUE".to_vec())]),
        Token::Done(Done::statement(0, Some(1))),
    ]
}

#[test]
fn the_health_answer_in_narrow_format() {
    let bytes = b"\xee\x10\0\x01\0\x05Value\x20\0\0\0\0\x27\xff\0\xd1\x04TRUE\xfd\x10\0\0\0\x01\0\0\0";
    assert_golden(bytes, Little, &acting_primary(false));
}

#[test]
fn the_health_answer_in_wide_format() {
    let bytes =
        b"\x61\x1c\0\0\0\x01\0\x05Value\0\0\0\x05Value\x20\0\0\0\0\0\0\0\x27\xff\0\xd1\x04TRUE\xfd\x10\0\0\0\x01\0\0\0";
    assert_golden(bytes, Little, &acting_primary(true));
}

#[test]
fn the_health_answer_to_jconnect() {
    let bytes = b"\xee\0\x10\0\x01\x05Value\x20\0\0\0\0\x27\xff\0\xd1\x04TRUE\xfd\0\x10\0\0\0\0\0\x01";
    assert_golden(bytes, Big, &acting_primary(false));
}

#[test]
fn the_answer_to_spid() {
    let bytes = b"\xee\x0e\0\x01\0\x04spid\0\0\0\0\0\x38\0\xd1\x07\0\0\0\xfd\x10\0\0\0\x01\0\0\0";
    let columns = vec![Column {
        name: "spid".to_owned(),
        status: 0,
        data_type: DataType::Int4,
    }];
    let tokens = [
        Token::RowFormat { wide: false, columns },
        Token::Row(vec![Value::Int(7)]),
        Token::Done(Done::statement(0, Some(1))),
    ];
    assert_golden(bytes, Little, &tokens);
}

#[test]
fn the_full_login_reply() {
    let mut bytes = b"\xad\x14\0\x05\x05\0\0\0\x0aSQL Server\x0f\0\0\0".to_vec();
    bytes.extend(b"\xe3\x09\0\x04\x03512\x03512");
    bytes.extend(b"\xe3\x09\0\x01\x06master\0");
    bytes.extend(
        b"\xe5\x3f\0\x45\x16\0\0\x02\x0a\x05ZZZZZ\x02\0\0\x25\0Changed database context to 'master'.\x05NCOMS\0\x01\0",
    );
    bytes.extend(b"\xfd\0\0\0\0\0\0\0\0");
    let change = |kind, new: &str, old: &str| {
        Token::EnvChange(vec![EnvChange {
            kind,
            new: new.to_owned(),
            old: old.to_owned(),
        }])
    };
    let mut context = ServerMessage::new(5701, 10, "NCOMS", "Changed database context to 'master'.");
    context.state = 2;
    let tokens = [
        Token::LoginAck(LoginAck {
            status: LoginAck::SUCCEED,
            tds_version: [5, 0, 0, 0],
            program: "SQL Server".to_owned(),
            program_version: [15, 0, 0, 0],
        }),
        change(EnvChange::PACKET_SIZE, "512", "512"),
        change(EnvChange::DATABASE, "master", ""),
        Token::Message(context),
        Token::Done(Done::statement(0, None)),
    ];
    assert_golden(&bytes, Little, &tokens);
}

#[test]
fn an_sql_error() {
    let bytes = b"\xe5\x36\0\x66\0\0\0\x01\x0f\x05ZZZZZ\0\0\0\x1c\0Incorrect syntax near 'foo'.\x05NCOMS\0\x01\0\xfd\x02\0\0\0\0\0\0\0";
    let tokens = [
        Token::Message(ServerMessage::new(102, 15, "NCOMS", "Incorrect syntax near 'foo'.")),
        Token::Done(Done::statement(Done::ERROR, None)),
    ];
    assert_golden(bytes, Little, &tokens);
}

#[test]
fn a_demand_for_an_encrypted_password() {
    let mut bytes = b"\x65\x03\x01\x1e\0\xec\x22\0\x03\0\0\0\0\0\0\0\x38\0".to_vec();
    bytes.extend(b"\0\0\0\0\0\0\xe1\x04\0\0\0\0\0\0\0\0\0\0\xe1\x14\0\0\0\0");
    bytes.extend(b"\xd7\x01\0\0\0\x04\0\0\0PEM!\x02\0\0\0no");
    let field = |data_type| Column {
        name: String::new(),
        status: 0,
        data_type,
    };
    let tokens = [
        Token::Negotiation { status: 1, id: 30 },
        Token::ParamFormat {
            wide: false,
            fields: vec![
                field(DataType::Int4),
                field(DataType::LongBinary(4)),
                field(DataType::LongBinary(20)),
            ],
        },
        Token::Params(vec![
            Value::Int(1),
            Value::Binary(b"PEM!".to_vec()),
            Value::Binary(b"no".to_vec()),
        ]),
    ];
    assert_golden(&bytes, Little, &tokens);
}

#[test]
fn requests_in_both_byte_orders() {
    let sql = "select Value from catalog.properties where PropName = 'ActingPrimary'\n";
    let request = RequestToken::Language {
        sql: sql.to_owned(),
        has_parameters: false,
    };
    for (order, head) in [(Little, b"\x21\x47\0\0\0\0"), (Big, b"\x21\0\0\0\x47\0")] {
        let mut payload = Vec::new();
        request.encode(order, &mut payload).unwrap();
        assert_eq!(payload, [head.as_slice(), sql.as_bytes()].concat());
        assert_eq!(
            RequestToken::decode_all(&payload, order).unwrap(),
            std::slice::from_ref(&request)
        );
    }
}

#[test]
fn logout_is_two_bytes() {
    let mut payload = Vec::new();
    RequestToken::Logout.encode(Little, &mut payload).unwrap();
    assert_eq!(payload, [0x71, 0]);
    assert_eq!(
        RequestToken::decode_all(&payload, Little).unwrap(),
        [RequestToken::Logout]
    );
}

#[test]
fn an_unknown_request_ends_its_message() {
    let requests = RequestToken::decode_all(&[0xe6, 1, 2, 3], Little).unwrap();
    assert_eq!(requests, [RequestToken::Unknown { token: 0xe6 }]);
}

#[test]
fn refuses_sql_longer_than_its_message() {
    let error = RequestToken::decode_all(b"\x21\xff\xff\xff\x7f\0select", Little).unwrap_err();
    assert!(matches!(
        error,
        Error::Truncated {
            what: "LANGUAGE",
            wanted: 0x7fff_ffff,
            left: 7
        }
    ));
}

#[test]
fn refuses_a_row_without_a_format() {
    assert_eq!(decode(b"\xd1\x04TRUE", Little), Err(Error::NoFormat { what: "row" }));
}

#[test]
fn refuses_a_format_that_is_longer_than_its_columns() {
    let bytes = b"\xee\x11\0\x01\0\x05Value\x20\0\0\0\0\x27\xff\0\0";
    assert_eq!(
        decode(bytes, Little),
        Err(Error::Surplus {
            what: "format",
            left: 1
        })
    );
}

#[test]
fn refuses_more_columns_than_the_limit() {
    assert!(matches!(
        decode(b"\xee\x02\0\xff\xff", Little),
        Err(Error::TooLong {
            what: "number of columns",
            ..
        })
    ));
}

#[test]
fn a_value_may_be_longer_than_its_column_declares() {
    let mut bytes = b"\xee\x10\0\x01\0\x05Value\x20\0\0\0\0\x27\x1e\0\xd1\x45".to_vec();
    bytes.extend([b'x'; 69]);
    let tokens = decode(&bytes, Little).unwrap();
    assert_eq!(tokens[1], Token::Row(vec![Value::Text(vec![b'x'; 69])]));
}

#[test]
fn a_text_value_is_read_without_the_nul_that_ends_it() {
    assert_eq!(Value::Text(b"AGG_P\0".to_vec()).text().as_deref(), Some("AGG_P"));
}

fn any_column() -> impl Strategy<Value = (Column, Value)> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..40);
    let typed = prop_oneof![
        any::<u8>().prop_map(|v| (DataType::Int1, Value::Int(v.into()))),
        any::<i16>().prop_map(|v| (DataType::Int2, Value::Int(v.into()))),
        any::<i32>().prop_map(|v| (DataType::Int4, Value::Int(v.into()))),
        any::<i64>().prop_map(|v| (DataType::Int8, Value::Int(v))),
        any::<bool>().prop_map(|v| (DataType::Bit, Value::Int(v.into()))),
        any::<i32>().prop_map(|v| (DataType::Float8, Value::Float(v.into()))),
        any::<i32>().prop_map(|v| (DataType::FloatN(8), Value::Float(v.into()))),
        any::<(i32, i32)>().prop_map(|(days, ticks)| (DataType::DateTime, Value::DateTime { days, ticks })),
        any::<(i32, i32)>().prop_map(|(days, ticks)| (DataType::DateTimeN(8), Value::DateTime { days, ticks })),
        any::<i32>().prop_map(|v| (DataType::IntN(4), Value::Int(v.into()))),
        any::<i64>().prop_map(|v| (DataType::IntN(8), Value::Int(v))),
        any::<u32>().prop_map(|v| (DataType::UintN(4), Value::Int(v.into()))),
        Just((DataType::IntN(4), Value::Null)),
        Just((DataType::LongChar(16_384), Value::Null)),
        Just((DataType::Text(100), Value::Null)),
        bytes().prop_map(|v| (DataType::VarChar(255), Value::Text(v))),
        bytes().prop_map(|v| (DataType::Char(40), Value::Text(v))),
        bytes().prop_map(|v| (DataType::VarBinary(40), Value::Binary(v))),
        bytes().prop_map(|v| (DataType::Binary(40), Value::Binary(v))),
        bytes().prop_map(|v| (DataType::LongChar(16_384), Value::Text(v))),
        bytes().prop_map(|v| (DataType::LongBinary(16_384), Value::Binary(v))),
        bytes().prop_map(|v| (DataType::Text(100), Value::Text(v))),
        bytes().prop_map(|v| (DataType::Image(100), Value::Binary(v))),
    ];
    ("[A-Za-z]{0,12}", typed).prop_map(|(name, (data_type, value))| {
        let column = Column {
            name,
            status: COLUMN_NULLABLE,
            data_type,
        };
        (column, value)
    })
}

fn any_tokens() -> impl Strategy<Value = Vec<Token>> {
    let table = (any::<bool>(), prop::collection::vec(any_column(), 1..6)).prop_map(|(wide, table)| {
        let (columns, values): (Vec<_>, Vec<_>) = table.into_iter().unzip();
        vec![
            Token::RowFormat { wide, columns },
            Token::Row(values.clone()),
            Token::Row(values),
        ]
    });
    let params = (any::<bool>(), prop::collection::vec(any_column(), 1..4)).prop_map(|(wide, list)| {
        let (fields, values): (Vec<_>, Vec<_>) = list.into_iter().unzip();
        vec![Token::ParamFormat { wide, fields }, Token::Params(values)]
    });
    let single = prop_oneof![
        (any::<u32>(), 0_u8..20, "[ -~]{0,300}", "[A-Z_]{0,29}").prop_map(|(number, class, text, server)| {
            Token::Message(ServerMessage::new(number, class, &server, &text))
        }),
        (any::<u32>(), "[ -~]{0,80}").prop_map(|(number, text)| {
            let mut message = ServerMessage::new(number, 16, "AGG_P", &text);
            message.form = MessageForm::Error;
            Token::Message(message)
        }),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(Token::Control),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(wide, content)| Token::OrderBy { wide, content }),
        any::<i32>().prop_map(Token::ReturnStatus),
        any::<(u8, u16)>().prop_map(|(status, id)| Token::Negotiation { status, id }),
        any::<(u16, u32)>().prop_map(|(status, count)| Token::Done(Done {
            kind: DoneKind::InProcedure,
            status,
            transaction: 2,
            count
        })),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|request| Token::Capability(Capability {
            request,
            response: vec![0; 10]
        })),
    ]
    .prop_map(|token| vec![token]);
    prop::collection::vec(prop_oneof![table, params, single], 0..8).prop_map(|groups| groups.concat())
}

fn any_order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(Little), Just(Big)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(tokens in any_tokens(), order in any_order()) {
        prop_assert_eq!(decode(&encode(&tokens, order), order).unwrap(), tokens);
    }

    #[test]
    fn a_damaged_answer_never_panics_and_gives_no_more_tokens_than_bytes(
        tokens in any_tokens(), order in any_order(), position in any::<prop::sample::Index>(), byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&tokens, order);
        bytes.push(token::DONE);
        let position = position.index(bytes.len());
        bytes[position] = byte;
        prop_assert!(Tokens::new(&bytes, order).count() <= bytes.len());
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Tokens::new(&bytes, order).count() <= bytes.len());
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048), order in any_order()) {
        prop_assert!(Tokens::new(&bytes, order).count() <= bytes.len());
        let _ = RequestToken::decode_all(&bytes, order);
    }
}
