//! An ObjectServer: it takes logins and events, keeps each event that it acknowledges, and says what it is called.

use std::{cell::RefCell, io, net::IpAddr, rc::Rc, time::Duration};

use proxypair::{
    api::Side,
    net::{TcpStream, bind},
    tds::{
        channel::{Channel, ReceiveError},
        format::Column,
        login::LoginRecord,
        packet::PacketType,
        response::{AnswerWriter, Done, LoginAck, ServerMessage, Token},
        value::{DataType, Value},
        wire::ByteOrder,
    },
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::places::server_name;

/// Longest message.
const LIMIT: usize = 64 * 1024;

/// The user of the checks, and the password.
pub const USER: &str = "check";
pub const PASSWORD: &str = "secret";

/// What outlives its process.
#[derive(Debug)]
pub struct ObjectServer {
    /// Every event that was stored, in order.
    pub events: Vec<Stored>,
    /// It accepts connections, and answers nothing.
    pub is_stalled: bool,
    /// How long it needs for a request: half of that before it stores an event.
    pub answers_after: Duration,
    /// It refuses the user of the checks.
    pub refuses_login: bool,
    /// The process that runs.
    pub process: watch::Sender<Option<Process>>,
}

/// An event in its table.
#[derive(Clone, Debug)]
pub struct Stored {
    pub event: String,
    pub at: Duration,
    /// The address of the gate that it came through.
    pub through: Option<IpAddr>,
}

/// A process of an ObjectServer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub machine: usize,
    /// It is another server, with another name.
    pub is_other: bool,
}

impl Default for ObjectServer {
    fn default() -> Self {
        let first = Process {
            machine: 0,
            is_other: false,
        };
        Self {
            events: Vec::new(),
            is_stalled: false,
            answers_after: Duration::ZERO,
            refuses_login: false,
            process: watch::Sender::new(Some(first)),
        }
    }
}

/// One of its machines: the process runs as long as it should run there.
///
/// # Errors
///
/// The network's.
pub async fn machine(server: Rc<RefCell<ObjectServer>>, side: Side, machine: usize) -> io::Result<()> {
    let mut wanted = server.borrow().process.subscribe();
    loop {
        let here = wanted.borrow_and_update().filter(|process| process.machine == machine);
        // The sender lives as long as the world.
        let Some(here) = here else {
            let _ = wanted.changed().await;
            continue;
        };
        let name = if here.is_other { "OTHER" } else { server_name(side) };
        tokio::select! {
            ended = process(&server, name) => return ended,
            _ = wanted.changed() => {}
        }
    }
}

async fn process(server: &Rc<RefCell<ObjectServer>>, name: &'static str) -> io::Result<()> {
    let listener = bind(([0, 0, 0, 0], PORT).into())?;
    // They end with the process.
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        sessions.spawn_local(session(Rc::clone(server), name, stream));
    }
}

/// Its port.
pub const PORT: u16 = 4100;

async fn session(server: Rc<RefCell<ObjectServer>>, name: &'static str, stream: TcpStream) {
    let through = stream.peer_addr().ok().map(|peer| peer.ip());
    // An error is the end of the session, as for a real one.
    let _ended = converse(&server, name, through, Channel::new(stream, LIMIT)).await;
}

async fn converse(
    server: &RefCell<ObjectServer>,
    name: &str,
    through: Option<IpAddr>,
    mut channel: Channel<TcpStream>,
) -> Result<(), ReceiveError> {
    let Some(message) = channel.receive().await? else {
        return Ok(());
    };
    let Ok(login) = LoginRecord::decode(&message.payload) else {
        return Ok(());
    };
    until_it_answers(server).await;
    let is_refused = login.user == USER && (server.borrow().refuses_login || login.password != PASSWORD);
    channel
        .send(PacketType::RESPONSE, &verdict(login.order, name, is_refused))
        .await?;
    if is_refused {
        return Ok(());
    }
    let half = server.borrow().answers_after / 2;
    while let Some(message) = channel.receive().await? {
        until_it_answers(server).await;
        sleep(half).await;
        // A language token: its type, its length in four bytes, a status, and the text.
        let text = message.payload.get(6..).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let answer = if text.starts_with("select") {
            properties(login.order, name)
        } else {
            let stored = Stored {
                event: text,
                at: turmoil::sim_elapsed().unwrap_or_default(),
                through,
            };
            server.borrow_mut().events.push(stored);
            written(login.order, &[Token::Done(Done::statement(0, Some(1)))])
        };
        sleep(half).await;
        channel.send(PacketType::RESPONSE, &answer).await?;
    }
    Ok(())
}

/// The answer to a login.
fn verdict(order: ByteOrder, name: &str, is_refused: bool) -> Vec<u8> {
    let status = if is_refused { LoginAck::FAIL } else { LoginAck::SUCCEED };
    let mut tokens = vec![Token::LoginAck(LoginAck {
        status,
        tds_version: [5, 0, 0, 0],
        program: "SQL Server".to_owned(),
        program_version: [15, 0, 0, 0],
    })];
    if is_refused {
        tokens.push(Token::Message(ServerMessage::new(4002, 14, name, "Login failed.")));
    }
    let status = if is_refused { Done::ERROR } else { 0 };
    tokens.push(Token::Done(Done::statement(status, None)));
    written(order, &tokens)
}

/// The rows of `catalog.properties`.
fn properties(order: ByteOrder, name: &str) -> Vec<u8> {
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    let columns = ["PropName", "Value"].map(|name| Column::nullable(name, DataType::VarChar(u8::MAX)));
    let rows = [["Name", name], ["ActingPrimary", "TRUE"]];
    let mut tokens = vec![Token::RowFormat {
        wide: false,
        columns: columns.into(),
    }];
    tokens.extend(rows.map(|row| Token::Row(row.map(text).into())));
    tokens.push(Token::Done(Done::statement(0, Some(2))));
    written(order, &tokens)
}

async fn until_it_answers(server: &RefCell<ObjectServer>) {
    while server.borrow().is_stalled {
        sleep(Duration::from_millis(50)).await;
    }
}

fn written(order: ByteOrder, tokens: &[Token]) -> Vec<u8> {
    let mut answer = AnswerWriter::new(order);
    for token in tokens {
        answer.push(token).expect("the answer is short");
    }
    answer.into_payload()
}
