//! Challenge and answer against bytes from a capture, and against each other.

use super::key::{SEQUENCE, SPKI_LABEL, der, from_pem, public_key_info};
use super::*;
use crate::tds::response::{Done, LoginAck, Tokens};
use crate::tds::server::{Challenger, challenge_tokens};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use pem::Pem;
use proptest::prelude::*;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The frame of the captured challenge, in the client's byte order, with a key and a nonce of the given bytes in it.
fn captured(order: ByteOrder, key: &[u8], nonce: &[u8]) -> Vec<u8> {
    let two = |value: u16| match order {
        ByteOrder::Little => value.to_le_bytes(),
        ByteOrder::Big => value.to_be_bytes(),
    };
    let four = |value: usize| {
        let value = u32::try_from(value).unwrap();
        match order {
            ByteOrder::Little => value.to_le_bytes(),
            ByteOrder::Big => value.to_be_bytes(),
        }
    };
    let mut bytes = vec![0x65, 0x03, 0x01];
    bytes.extend(two(0x1e));
    bytes.push(0xec);
    bytes.extend(two(0x22));
    bytes.extend(two(3));
    bytes.extend([0, 0, 0, 0, 0, 0, 0x38, 0]);
    for value in [key, nonce] {
        bytes.extend([0, 0, 0, 0, 0, 0, 0xe1]);
        bytes.extend(four(value.len()));
        bytes.push(0);
    }
    bytes.push(0xd7);
    bytes.extend(four(1));
    for value in [key, nonce] {
        bytes.extend(four(value.len()));
        bytes.extend(value);
    }
    bytes
}

fn tokens(payload: &[u8], order: ByteOrder) -> Vec<Token> {
    Tokens::new(payload, order).collect::<Result<_, _>>().unwrap()
}

fn challenge_in(tokens: impl IntoIterator<Item = Token>) -> Option<Challenge> {
    let mut finder = Parameters::of(MESSAGE_CHALLENGE);
    tokens.into_iter().for_each(|token| finder.take(token));
    Challenge::from_parameters(finder.found()?)
}

#[test]
fn a_challenge_has_the_bytes_that_freetds_understood() {
    let challenge = Challenge {
        key: b"-----BEGIN RSA PUBLIC KEY-----".to_vec(),
        nonce: vec![0x4e; 20],
    };
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let mut writer = AnswerWriter::new(order);
        for token in challenge_tokens(&challenge) {
            writer.push(&token).unwrap();
        }
        let payload = writer.into_payload();
        assert_eq!(payload, captured(order, &challenge.key, &challenge.nonce));
        assert_eq!(challenge_in(tokens(&payload, order)), Some(challenge.clone()));
    }
}

#[test]
fn an_answer_has_a_message_for_the_password_and_one_for_remote_servers() {
    let little = answer_message(vec![1, 2, 3], vec![4, 5], ByteOrder::Little).unwrap();
    let wanted = b"\x65\x03\x01\x1f\0\xec\x0e\0\x01\0\0\0\0\0\0\0\xe1\x03\0\0\0\0\xd7\x03\0\0\0\x01\x02\x03\
                   \x65\x03\x01\x20\0\xec\x17\0\x02\0\0\0\0\0\0\0\x27\xff\0\0\0\0\0\0\0\xe1\x02\0\0\0\0\xd7\0\x02\0\0\0\x04\x05";
    assert_eq!(little, wanted);
    let big = answer_message(vec![1, 2, 3], vec![4, 5], ByteOrder::Big).unwrap();
    let wanted = b"\x65\x03\x01\0\x1f\xec\0\x0e\0\x01\0\0\0\0\0\0\xe1\0\0\0\x03\0\xd7\0\0\0\x03\x01\x02\x03\
                   \x65\x03\x01\0\x20\xec\0\x17\0\x02\0\0\0\0\0\0\x27\xff\0\0\0\0\0\0\0\xe1\0\0\0\x02\0\xd7\0\0\0\0\x02\x04\x05";
    assert_eq!(big, wanted);
}

#[test]
fn a_password_comes_out_as_it_went_in_and_only_for_its_own_challenge() {
    let challenger = Challenger::generate().unwrap();
    let (first, second) = (challenger.challenge().unwrap(), challenger.challenge().unwrap());
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for password in ["", "secret", "pässwörd", &"p".repeat(194)] {
            let answer = first.answer(password, order).unwrap();
            let opened = challenger.open(&first, &answer, order).unwrap();
            assert_eq!(opened.as_deref(), Some(password));
            assert_eq!(
                challenger.open(&second, &answer, order).unwrap(),
                None,
                "a replayed answer"
            );
        }
    }
    let another = Challenger::generate().unwrap();
    let answer = first.answer("secret", ByteOrder::Little).unwrap();
    assert_eq!(another.open(&first, &answer, ByteOrder::Little).unwrap(), None);
}

#[test]
fn a_password_too_long_for_the_key_is_refused_before_it_is_sent() {
    let challenge = Challenger::generate().unwrap().challenge().unwrap();
    let error = challenge.answer(&"p".repeat(195), ByteOrder::Little).unwrap_err();
    assert!(
        matches!(
            error,
            EncryptionError::TooLong {
                length: 215,
                limit: 214
            }
        ),
        "{error}"
    );
}

#[test]
fn both_ways_of_writing_a_public_key_are_taken_and_nothing_else() {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let info = Pem::new(SPKI_LABEL, der.as_ref());
    from_pem(pem::encode(&info).as_bytes()).unwrap();
    let (_, parsed) = SubjectPublicKeyInfo::from_der(der.as_ref()).unwrap();
    let pkcs1 = parsed.subject_public_key.data.as_ref();
    assert_eq!(public_key_info(pkcs1), der.as_ref());
    for bad in [
        &b"no key"[..],
        b"",
        b"-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert!(matches!(from_pem(bad), Err(EncryptionError::Key(_))));
    }
}

#[test]
fn another_method_or_another_suite_is_no_challenge() {
    let ack = Token::LoginAck(LoginAck {
        status: LoginAck::NEGOTIATE,
        tds_version: [5, 0, 0, 0],
        program: String::new(),
        program_version: [0; 4],
    });
    let done = Token::Done(Done::statement(0, None));
    let of = |id, suite| {
        let values = vec![Value::Int(suite), Value::Binary(vec![1]), Value::Binary(vec![2])];
        let message = Token::Negotiation { status: 1, id };
        [ack.clone(), message, Token::Params(values), done.clone()]
    };
    assert!(challenge_in(of(MESSAGE_CHALLENGE, 1)).is_some());
    assert!(challenge_in(of(14, 1)).is_none());
    assert!(challenge_in(of(MESSAGE_CHALLENGE, 2)).is_none());
    assert!(challenge_in([ack, done]).is_none());
}

#[test]
fn only_the_parameters_right_after_the_first_message_of_its_number_are_taken() {
    let message = |id| Token::Negotiation { status: 1, id };
    let parameters = |number| Token::Params(vec![Value::Int(number)]);
    let found = |tokens: Vec<Token>| {
        let mut finder = Parameters::of(MESSAGE_PASSWORD);
        tokens.into_iter().for_each(|token| finder.take(token));
        finder.found()
    };
    let (password, other) = (message(MESSAGE_PASSWORD), message(MESSAGE_REMOTE_PASSWORDS));
    let mine = Some(vec![Value::Int(1)]);
    assert_eq!(
        found(vec![parameters(0), password.clone(), parameters(1), parameters(2)]),
        mine
    );
    assert_eq!(
        found(vec![other.clone(), parameters(0), password.clone(), parameters(1)]),
        mine
    );
    assert_eq!(
        found(vec![
            password.clone(),
            other,
            parameters(0),
            password.clone(),
            parameters(1)
        ]),
        None
    );
    assert_eq!(found(vec![password]), None);
}

proptest! {
    #[test]
    fn lengths_in_der_are_as_short_as_they_can_be(length in 0_usize..70_000) {
        let bytes = der(SEQUENCE, &vec![0; length]);
        let head = match length {
            0..=127 => 2,
            128..=255 => 3,
            256..=65_535 => 4,
            _ => 5,
        };
        prop_assert_eq!(bytes.len(), head + length);
    }
}
