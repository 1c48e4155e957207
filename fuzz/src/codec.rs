//! The TDS codec: no panic, no more memory than a multiple of the input, and what can be read is the same when it is written and read again.
//!
//! The first byte of an input says how the rest is read: two bits for what it is, one for the byte order.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proxypair::tds::Error;
use proxypair::tds::client::{ANSWER_MAX, Client, PasswordPolicy};
use proxypair::tds::format::Column;
use proxypair::tds::login::LoginRecord;
use proxypair::tds::packet::{Assembler, DEFAULT_PACKET_SIZE, Message, PacketType, write_message};
use proxypair::tds::request::RequestToken;
use proxypair::tds::response::{AnswerWriter, Done, LoginAck, Token, Tokens};
use proxypair::tds::value::{DataType, Value};
use proxypair::tds::wire::ByteOrder;

use crate::{within_memory, within_memory_beside};

/// Bytes of memory that reading one byte may cost. A column of one byte is a [`Value`] in memory, and a vector that grows holds its old and its
/// new place for a moment.
const BYTES_PER_BYTE: u64 = 128;

/// The same for an answer to a login, of which the client keeps one token at a time: less than the tokens of all rows would take.
const BYTES_PER_BYTE_OF_LOGIN: u64 = 96;

/// Bytes that a [`Client`] holds whatever it reads: its read buffer, and what it sends.
const CLIENT_BYTES: u64 = 32 << 10;

/// What the payload of an input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The payload of a server's answer.
    Answer = 0,
    /// The payload of a client's request.
    Request = 1,
    /// The payload of a login.
    Login = 2,
    /// Packets. In front of them: the limit of the assembler (two bytes), a number that chooses where the stream is split (one byte).
    Stream = 3,
}

const BIG: u8 = 4;

/// The limits of assemblers are below this, in bytes.
pub const LIMITS: u16 = 4096;

/// The first byte of an input.
#[must_use]
pub fn head(kind: Kind, order: ByteOrder) -> u8 {
    kind as u8 | if order == ByteOrder::Big { BIG } else { 0 }
}

/// Whether the input could be read to its end. Panics if the codec is wrong.
pub fn check(input: &[u8]) -> bool {
    let Some((head, payload)) = input.split_first() else {
        return false;
    };
    let order = if head & BIG == 0 {
        ByteOrder::Little
    } else {
        ByteOrder::Big
    };
    within_memory(payload, BYTES_PER_BYTE, || read_once(head & 3, payload, order));
    if head & 3 == Kind::Answer as u8 {
        client(payload, order);
    }
    match head & 3 {
        0 => answer(payload, order),
        1 => request(payload, order),
        2 => login(payload),
        _ => stream(payload),
    }
}

/// Reads and keeps nothing.
fn read_once(kind: u8, payload: &[u8], order: ByteOrder) {
    match kind {
        0 => Tokens::new(payload, order).for_each(drop),
        1 => drop(RequestToken::decode_all(payload, order)),
        2 => drop(LoginRecord::decode(payload)),
        _ => {
            let mut assembler = Assembler::new(LIMITS.into());
            let mut input = payload;
            while let Ok(Some(message)) = assembler.feed(&mut input) {
                drop(message);
            }
        }
    }
}

/// The client on a stream on which this is the answer to its login, and on one on which it is the answer to its query.
fn client(payload: &[u8], order: ByteOrder) {
    let mut login = LoginRecord::new("root", "secret", "fuzz");
    login.order = order;
    let accepted = accepted(order);
    for (answers, bytes_per_byte) in [
        (&[payload][..], BYTES_PER_BYTE_OF_LOGIN),
        (&[&accepted, payload], BYTES_PER_BYTE),
    ] {
        let mut packets = Vec::new();
        for answer in answers {
            write_message(PacketType::RESPONSE, answer, DEFAULT_PACKET_SIZE, &mut packets);
        }
        for policy in [PasswordPolicy::Plain, PasswordPolicy::Encrypted] {
            let stream = tokio::io::join(packets.as_slice(), tokio::io::sink());
            let session = async {
                if let Ok(mut client) = Client::with_policy(stream, &login, policy, ANSWER_MAX).await {
                    drop(client.query("select 1").await);
                    client.lost().await;
                }
            };
            within_memory_beside(CLIENT_BYTES, &packets, bytes_per_byte, || {
                let mut context = Context::from_waker(Waker::noop());
                // The stream always has bytes or has ended, so nothing waits.
                assert_eq!(pin!(session).poll(&mut context), Poll::Ready(()), "the client waits");
            });
        }
    }
}

/// Most bytes of memory that a client holds at a time while `answer` is the answer to its login.
#[must_use]
pub fn memory_of_login(answer: &[u8]) -> u64 {
    let mut packets = Vec::new();
    write_message(PacketType::RESPONSE, answer, DEFAULT_PACKET_SIZE, &mut packets);
    let login = LoginRecord::new("root", "secret", "fuzz");
    let stream = tokio::io::join(packets.as_slice(), tokio::io::sink());
    let session = Client::login(stream, &login);
    allocation_counter::measure(|| {
        let done = pin!(session).poll(&mut Context::from_waker(Waker::noop()));
        assert!(done.is_ready(), "the client waits");
    })
    .bytes_max
}

fn accepted(order: ByteOrder) -> Vec<u8> {
    let ack = LoginAck {
        status: LoginAck::SUCCEED,
        tds_version: [5, 0, 0, 0],
        program: String::new(),
        program_version: [0; 4],
    };
    let mut answer = AnswerWriter::new(order);
    for token in [Token::LoginAck(ack), Token::Done(Done::statement(0, None))] {
        answer
            .push(&token)
            .unwrap_or_else(|error| panic!("an accepted login cannot be written: {error}"));
    }
    answer.into_payload()
}

fn answer(payload: &[u8], order: ByteOrder) -> bool {
    let mut tokens = Vec::new();
    let mut error = None;
    for token in Tokens::new(payload, order) {
        assert_eq!(error, None, "it goes on after an error");
        match token {
            Ok(token) => tokens.push(token),
            Err(found) => error = Some(found),
        }
    }
    assert!(tokens.len() <= payload.len(), "more tokens than bytes");
    let written = write(&tokens, order);
    let (again, rest) = (read(&written.bytes, order), &tokens[..written.tokens]);
    assert!(
        same(&again, rest),
        "written and read again: {again:#?}\nread at first: {rest:#?}"
    );
    assert_eq!(
        write(&again, order).bytes,
        written.bytes,
        "written twice from the same tokens"
    );
    // A token is read from its own bytes: what follows, or is missing behind it, changes nothing.
    if error.is_none() {
        let longer = [payload, &[0xff]].concat();
        let more: Vec<_> = Tokens::new(&longer, order).map_while(Result::ok).collect();
        assert!(same(&more, &tokens), "a byte behind changes what is before: {more:#?}");
    }
    error.is_none()
}

struct Written {
    bytes: Vec<u8>,
    tokens: usize,
}

/// Writes tokens up to the first that the reader takes and the writer, with good reason, does not.
fn write(tokens: &[Token], order: ByteOrder) -> Written {
    let mut writer = AnswerWriter::new(order);
    let (mut columns, mut fields) = (Vec::new(), Vec::new());
    for (count, token) in tokens.iter().enumerate() {
        match token {
            Token::RowFormat { columns: found, .. } => columns = types(found),
            Token::ParamFormat { fields: found, .. } => fields = types(found),
            _ => {}
        }
        match (writer.push(token), token) {
            (Ok(()), _) => {}
            (Err(Error::TooLong { .. }), _) if has_grown(&format!("{token:?}")) => return Written::new(writer, count),
            (Err(Error::WrongType { .. }), Token::Row(values)) if !all_fit(&columns, values) => {
                return Written::new(writer, count);
            }
            (Err(Error::WrongType { .. }), Token::Params(values)) if !all_fit(&fields, values) => {
                return Written::new(writer, count);
            }
            (Err(error), _) => panic!("{token:?} was read and cannot be written: {error}"),
        }
    }
    Written::new(writer, tokens.len())
}

impl Written {
    fn new(writer: AnswerWriter, tokens: usize) -> Self {
        Self {
            bytes: writer.into_payload(),
            tokens,
        }
    }
}

fn types(columns: &[Column]) -> Vec<DataType> {
    columns.iter().map(|column| column.data_type).collect()
}

/// Whether no value is larger than its column declares. The reader goes by a value's own length, the writer by the declared one.
fn all_fit(types: &[DataType], values: &[Value]) -> bool {
    types
        .iter()
        .zip(values)
        .all(|(data_type, value)| match (data_type, value) {
            (_, Value::Null) => true,
            (DataType::IntN(1) | DataType::UintN(1), Value::Int(value)) => u8::try_from(*value).is_ok(),
            (DataType::IntN(2), Value::Int(value)) => i16::try_from(*value).is_ok(),
            (DataType::IntN(4), Value::Int(value)) => i32::try_from(*value).is_ok(),
            (DataType::UintN(2), Value::Int(value)) => u16::try_from(*value).is_ok(),
            (DataType::UintN(4), Value::Int(value)) => u32::try_from(*value).is_ok(),
            (DataType::IntN(8) | DataType::FloatN(8) | DataType::DateTimeN(8), _) => true,
            (DataType::UintN(8), Value::Int(value)) => *value >= 0,
            (DataType::IntN(_) | DataType::UintN(_) | DataType::FloatN(_) | DataType::DateTimeN(_), _) => false,
            _ => true,
        })
}

fn read(payload: &[u8], order: ByteOrder) -> Vec<Token> {
    let tokens: Result<_, _> = Tokens::new(payload, order).collect();
    tokens.unwrap_or_else(|error| panic!("what was written cannot be read: {error}"))
}

/// Equal, and a float that is no number is equal to another.
fn same(left: &[Token], right: &[Token]) -> bool {
    left == right || format!("{left:?}") == format!("{right:?}")
}

fn request(payload: &[u8], order: ByteOrder) -> bool {
    let Ok(requests) = RequestToken::decode_all(payload, order) else {
        return false;
    };
    assert!(requests.len() <= payload.len(), "more requests than bytes");
    let mut written = Vec::new();
    for request in &requests {
        request
            .encode(order, &mut written)
            .unwrap_or_else(|error| panic!("{request:?} was read and cannot be written: {error}"));
    }
    let again = RequestToken::decode_all(&written, order);
    assert_eq!(again.as_ref(), Ok(&requests), "written and read again");
    true
}

fn login(payload: &[u8]) -> bool {
    let Ok(record) = LoginRecord::decode(payload) else {
        return false;
    };
    let mut written = Vec::new();
    match record.encode(&mut written) {
        Ok(()) => {}
        Err(Error::TooLong { .. }) if has_grown(&texts(&record)) => return true,
        Err(error) => panic!("{record:?} was read and cannot be written: {error}"),
    }
    let again =
        LoginRecord::decode(&written).unwrap_or_else(|error| panic!("{record:?} cannot be read again: {error}"));
    // A host name is cut rather than refused.
    assert!(
        again == record || has_grown(&texts(&record)),
        "{record:?} is read again as {again:?}"
    );
    true
}

fn texts(record: &LoginRecord) -> String {
    let LoginRecord {
        host,
        user,
        password,
        process,
        application,
        server,
        program,
        language,
        charset,
        packet_size,
        ..
    } = record;
    [
        host,
        user,
        password,
        process,
        application,
        server,
        program,
        language,
        charset,
        packet_size,
    ]
    .map(String::as_str)
    .concat()
}

/// Whether bytes that are no UTF-8 were replaced by a character of three bytes.
fn has_grown(text: &str) -> bool {
    text.contains(char::REPLACEMENT_CHARACTER)
}

fn stream(payload: &[u8]) -> bool {
    let [low, high, choice, stream @ ..] = payload else {
        return false;
    };
    let limit = usize::from(u16::from_le_bytes([*low, *high]) % LIMITS);
    let whole = assemble(&[stream], limit);
    let mut cuts = fastrand::Rng::with_seed(u64::from(*choice));
    let mut pieces = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(cuts.usize(1..=40).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    assert_eq!(assemble(&pieces, limit), whole, "the split changes what is read");
    for message in &whole.messages {
        assert!(
            message.payload.len() <= limit,
            "{} bytes with a limit of {limit}",
            message.payload.len()
        );
        let mut packets = Vec::new();
        write_message(message.kind, &message.payload, 9 + u16::from(*choice), &mut packets);
        let again = assemble(&[&packets], limit);
        let [again_message] = again.messages.as_slice() else {
            panic!("{message:?} becomes {again:?}")
        };
        assert_eq!(
            (again_message.kind, &again_message.payload, again.is_between_messages),
            (message.kind, &message.payload, true)
        );
    }
    whole.is_between_messages
}

#[derive(Debug, PartialEq, Eq)]
struct Assembled {
    messages: Vec<Message>,
    error: Option<Error>,
    is_between_messages: bool,
}

fn assemble(pieces: &[&[u8]], limit: usize) -> Assembled {
    let mut assembler = Assembler::new(limit);
    let mut messages = Vec::new();
    let mut error = None;
    'pieces: for piece in pieces {
        let mut input = *piece;
        loop {
            match assembler.feed(&mut input) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) if input.is_empty() => break,
                Ok(None) => panic!("{} bytes were left unread", input.len()),
                Err(found) => {
                    error = Some(found);
                    break 'pieces;
                }
            }
        }
    }
    Assembled {
        messages,
        is_between_messages: error.is_none() && assembler.is_between_messages(),
        error,
    }
}
