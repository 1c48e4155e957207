//! Valid inputs: messages as clients and servers send them, with every token, type and byte order.

use fastrand::Rng;
use proxypair::tds::Error;
use proxypair::tds::capability::Capability;
use proxypair::tds::format::Column;
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{Header, PacketType, STATUS_ATTN, STATUS_EOM, STATUS_EVENT, write_message};
use proxypair::tds::request::RequestToken;
use proxypair::tds::response::{AnswerWriter, Done, DoneKind, EnvChange, LoginAck, MessageForm, ServerMessage, Token};
use proxypair::tds::token;
use proxypair::tds::value::{DataType, Value};
use proxypair::tds::wire::ByteOrder;

use crate::codec::{Kind, LIMITS, head};
use crate::tracker::{FROM_SERVER, PIECE_MAX};

/// Most bytes of one message in a stream.
const STREAM_PAYLOAD: u16 = 300;

/// An input of the codec's target.
pub fn codec_input(rng: &mut Rng) -> Vec<u8> {
    let order = if rng.bool() { ByteOrder::Little } else { ByteOrder::Big };
    let (kind, payload) = match rng.u8(..8) {
        0 => (Kind::Request, request(rng, order)),
        1 => (Kind::Login, login(rng, order)),
        2 | 3 => (Kind::Stream, stream(rng)),
        _ => (Kind::Answer, answer(rng, order)),
    };
    let mut input = vec![head(kind, order)];
    input.extend(payload);
    input
}

/// An input of the tracker's target: a session, in pieces.
pub fn tracker_input(rng: &mut Rng) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..rng.u8(1..12) {
        let from_server = rng.bool();
        let mut bytes = Vec::new();
        for _ in 0..rng.u8(1..4) {
            packet(rng, from_server, &mut bytes);
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let most = rest.len().min(PIECE_MAX);
            let (piece, later) = rest.split_at(if rng.bool() { most } else { rng.usize(1..=most) });
            rest = later;
            let length = u8::try_from(piece.len()).unwrap_or_default();
            input.push(length | if from_server { FROM_SERVER } else { 0 });
            input.extend_from_slice(piece);
        }
    }
    input
}

fn packet(rng: &mut Rng, from_server: bool, out: &mut Vec<u8>) {
    let kind = if from_server {
        PacketType::RESPONSE
    } else {
        *rng.choice(&[
            PacketType::NORMAL,
            PacketType::NORMAL,
            PacketType::LOGIN,
            PacketType::BULK,
            PacketType::ATTENTION,
        ])
        .unwrap_or(&PacketType::NORMAL)
    };
    let mut status = if rng.u8(..4) > 0 { STATUS_EOM } else { 0 };
    if rng.u8(..8) == 0 {
        status |= if from_server { STATUS_EVENT } else { STATUS_ATTN };
    }
    let length = if rng.u8(..8) == 0 {
        rng.u16(8..700)
    } else {
        rng.u16(8..30)
    };
    out.extend_from_slice(&Header::new(kind, status, length).encode());
    out.resize(out.len() + usize::from(length) - 8, rng.u8(..));
}

fn stream(rng: &mut Rng) -> Vec<u8> {
    let mut out = rng.u16(STREAM_PAYLOAD..LIMITS).to_le_bytes().to_vec();
    out.push(rng.u8(..));
    for _ in 0..rng.u8(1..4) {
        let payload = bytes(rng, STREAM_PAYLOAD.into());
        write_message(PacketType(rng.u8(1..16)), &payload, rng.u16(..600), &mut out);
    }
    out
}

fn login(rng: &mut Rng, order: ByteOrder) -> Vec<u8> {
    let password = text(rng, 253);
    let mut record = LoginRecord::new(&text(rng, 30), &password, &text(rng, 30));
    record.order = order;
    record.host = text(rng, 30);
    record.server = text(rng, 30);
    record.charset = text(rng, 30);
    record.encryption = rng.u8(..);
    record.capability = capability(rng);
    let mut payload = Vec::new();
    written(record.encode(&mut payload));
    payload
}

fn request(rng: &mut Rng, order: ByteOrder) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..rng.u8(1..4) {
        let request = match rng.u8(..5) {
            0 => RequestToken::Logout,
            1 => RequestToken::Option {
                command: rng.u8(..),
                option: rng.u8(..),
                argument: bytes(rng, 20),
            },
            // Below the first token that is known.
            2 => RequestToken::Unknown {
                token: rng.u8(..token::LANGUAGE),
            },
            _ => RequestToken::Language {
                sql: text(rng, 80),
                has_parameters: rng.u8(..4) == 0,
            },
        };
        written(request.encode(order, &mut payload));
    }
    payload
}

fn answer(rng: &mut Rng, order: ByteOrder) -> Vec<u8> {
    let mut answer = AnswerWriter::new(order);
    for _ in 0..rng.u8(1..6) {
        for token in tokens(rng) {
            written(answer.push(&token));
        }
    }
    answer.into_payload()
}

fn tokens(rng: &mut Rng) -> Vec<Token> {
    let wide = rng.bool();
    vec![match rng.u8(..12) {
        0 => Token::LoginAck(LoginAck {
            status: rng.u8(..),
            tds_version: [5, 0, 0, 0],
            program: text(rng, 20),
            program_version: [rng.u8(..); 4],
        }),
        1 => Token::Capability(capability(rng)),
        2 => Token::EnvChange(
            (0..rng.u8(..3))
                .map(|_| EnvChange {
                    kind: rng.u8(..6),
                    new: text(rng, 12),
                    old: text(rng, 12),
                })
                .collect(),
        ),
        3 => Token::Message(message(rng)),
        4 => Token::Control(bytes(rng, 20)),
        5 => Token::OrderBy {
            wide,
            content: bytes(rng, 20),
        },
        6 => Token::ReturnStatus(rng.i32(..)),
        7 => Token::Negotiation {
            status: rng.u8(..),
            id: rng.u16(..),
        },
        8 => Token::Option {
            command: rng.u8(..),
            option: rng.u8(..),
            argument: bytes(rng, 20),
        },
        9 => Token::Done(Done {
            kind: *rng
                .choice(&[DoneKind::Statement, DoneKind::Procedure, DoneKind::InProcedure])
                .unwrap_or(&DoneKind::Statement),
            status: rng.u16(..),
            transaction: rng.u16(..),
            count: rng.u32(..),
        }),
        10 => {
            let (fields, values) = table(rng);
            return vec![Token::ParamFormat { wide, fields }, Token::Params(values)];
        }
        _ => {
            let (columns, values) = table(rng);
            let row = Token::Row(values);
            return vec![Token::RowFormat { wide, columns }, row.clone(), row];
        }
    }]
}

fn message(rng: &mut Rng) -> ServerMessage {
    let mut message = ServerMessage::new(rng.u32(..), rng.u8(..20), &text(rng, 12), &text(rng, 60));
    match rng.u8(..3) {
        0 => message.form = MessageForm::Error,
        1 => message.form = MessageForm::Info,
        _ => {}
    }
    message
}

fn table(rng: &mut Rng) -> (Vec<Column>, Vec<Value>) {
    (0..rng.u8(1..5))
        .map(|_| {
            let (data_type, value) = typed(rng);
            (Column::nullable(&text(rng, 12), data_type), value)
        })
        .unzip()
}

fn typed(rng: &mut Rng) -> (DataType, Value) {
    let max = rng.u8(..);
    let number = rng.u8(..);
    let date = Value::DateTime {
        days: rng.i32(..),
        ticks: rng.i32(..),
    };
    let (data_type, value) = match rng.u8(..20) {
        0 => (DataType::Int1, Value::Int(number.into())),
        1 => (DataType::Int2, Value::Int(number.into())),
        2 => (DataType::Int4, Value::Int(rng.i32(..).into())),
        3 => (DataType::Int8, Value::Int(rng.i64(..))),
        4 => (DataType::Bit, Value::Int(rng.u8(..2).into())),
        5 => (DataType::Float8, Value::Float(rng.f64())),
        6 => (DataType::FloatN(8), Value::Float(f64::from_bits(rng.u64(..)))),
        7 => (DataType::DateTime, date),
        8 => (DataType::DateTimeN(8), date),
        9 => (DataType::IntN(1 << rng.u8(..4)), Value::Int(number.into())),
        10 => (DataType::UintN(1 << rng.u8(..4)), Value::Int(number.into())),
        11 => (DataType::VarChar(max), Value::Text(bytes(rng, 40))),
        12 => (DataType::Char(max), Value::Text(bytes(rng, 40))),
        13 => (DataType::VarBinary(max), Value::Binary(bytes(rng, 40))),
        14 => (DataType::Binary(max), Value::Binary(bytes(rng, 40))),
        15 => (DataType::LongChar(16_384), Value::Text(bytes(rng, 300))),
        16 => (DataType::LongBinary(16_384), Value::Binary(bytes(rng, 300))),
        17 => (DataType::Text(100), Value::Text(bytes(rng, 40))),
        18 => (DataType::Image(100), Value::Binary(bytes(rng, 40))),
        _ => (DataType::IntN(4), Value::Null),
    };
    (data_type, value)
}

fn written(result: Result<(), Error>) {
    result.unwrap_or_else(|error| panic!("what is generated cannot be written: {error}"));
}

fn capability(rng: &mut Rng) -> Capability {
    Capability {
        request: bytes(rng, 16),
        response: bytes(rng, 16),
    }
}

fn bytes(rng: &mut Rng, longest: usize) -> Vec<u8> {
    let length = rng.usize(..=longest);
    (0..length).map(|_| rng.u8(..)).collect()
}

fn text(rng: &mut Rng, longest: usize) -> String {
    let length = rng.usize(..=longest);
    (0..length).map(|_| char::from(rng.u8(b' '..b'\x7f'))).collect()
}
