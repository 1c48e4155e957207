//! An ObjectServer: it takes logins and events, and keeps each event that it acknowledges.

use std::{cell::RefCell, io, rc::Rc, time::Duration};

use proxypair::{
    net::{TcpStream, bind},
    tds::{
        channel::{Channel, ReceiveError},
        login::LoginRecord,
        packet::PacketType,
        response::{AnswerWriter, Done, LoginAck, Token},
        wire::ByteOrder,
    },
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// Longest message.
const LIMIT: usize = 64 * 1024;

/// What outlives its process.
#[derive(Debug, Default)]
pub struct ObjectServer {
    /// Every event that was stored, in order, with when.
    pub events: Vec<(String, Duration)>,
    /// It accepts connections, and answers nothing.
    pub is_stalled: bool,
    /// Whether its process runs.
    pub runs: watch::Sender<bool>,
}

/// Its machine: the process runs as long as it should.
///
/// # Errors
///
/// The network's.
pub async fn machine(server: Rc<RefCell<ObjectServer>>) -> io::Result<()> {
    let mut runs = server.borrow().runs.subscribe();
    loop {
        // The sender lives as long as the world.
        let _ = runs.wait_for(|runs| *runs).await;
        tokio::select! {
            ended = process(&server) => return ended,
            _ = runs.wait_for(|runs| !*runs) => {}
        }
    }
}

async fn process(server: &Rc<RefCell<ObjectServer>>) -> io::Result<()> {
    let listener = bind(([0, 0, 0, 0], PORT).into())?;
    // They end with the process.
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        sessions.spawn_local(session(Rc::clone(server), stream));
    }
}

/// Its port.
pub const PORT: u16 = 4100;

async fn session(server: Rc<RefCell<ObjectServer>>, stream: TcpStream) {
    // An error is the end of the session, as for a real one.
    let _ended = converse(&server, Channel::new(stream, LIMIT)).await;
}

async fn converse(server: &RefCell<ObjectServer>, mut channel: Channel<TcpStream>) -> Result<(), ReceiveError> {
    let Some(message) = channel.receive().await? else {
        return Ok(());
    };
    let Ok(login) = LoginRecord::decode(&message.payload) else {
        return Ok(());
    };
    until_it_answers(server).await;
    let accepted = LoginAck {
        status: LoginAck::SUCCEED,
        tds_version: [5, 0, 0, 0],
        program: "SQL Server".to_owned(),
        program_version: [15, 0, 0, 0],
    };
    let answer = written(
        login.order,
        &[Token::LoginAck(accepted), Token::Done(Done::statement(0, None))],
    );
    channel.send(PacketType::RESPONSE, &answer).await?;
    while let Some(message) = channel.receive().await? {
        until_it_answers(server).await;
        // A language token: its type, its length in four bytes, a status, and the text.
        let text = message.payload.get(6..).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        server
            .borrow_mut()
            .events
            .push((text, turmoil::sim_elapsed().unwrap_or_default()));
        let answer = written(login.order, &[Token::Done(Done::statement(0, Some(1)))]);
        channel.send(PacketType::RESPONSE, &answer).await?;
    }
    Ok(())
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
