//! What a gate sees of another one, for the operator.
// Clippy's allowance for tests does not reach helpers outside test functions.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use proxypair::protocol::{LookAt, Report, Request, Seen, Sight};
use testkit::gate::{Gate, Manners, ObjectServer, Operator};

async fn ask(operator: &mut Operator, address: SocketAddr, question: u64) {
    let look_at = vec![LookAt { address, question }];
    operator
        .send(&Request::Ping {
            nonce: question,
            look_at,
        })
        .await;
}

fn shows(address: SocketAddr, question: u64, seen: Seen) -> impl Fn(&Report) -> bool {
    move |report| {
        report.sights
            == [Sight {
                address,
                question,
                seen,
            }]
    }
}

#[tokio::test]
async fn a_gate_sees_whether_another_one_accepts_probes() {
    let (server, other_server) = (
        ObjectServer::start(Manners::default()).await,
        ObjectServer::start(Manners::default()).await,
    );
    let (gate, other) = (Gate::start(server.address, &[]), Gate::start(other_server.address, &[]));
    let (mut operator, mut other_operator) = (gate.admitting().await, other.admitting().await);
    ask(&mut operator, other.admin(), 0).await;
    operator.report("sees it", shows(other.admin(), 0, Seen::Ready)).await;
    other_server.kill().await;
    other_operator
        .report("has lost its ObjectServer", |report| {
            testkit::gate::why(report).is_some()
        })
        .await;
    ask(&mut operator, other.admin(), 3).await;
    operator
        .report("sees that it accepts none", shows(other.admin(), 3, Seen::Host))
        .await;
    let at = other.admin();
    drop(other);
    ask(&mut operator, at, 4).await;
    operator.report("sees its machine", shows(at, 4, Seen::Host)).await;
    operator
        .send(&Request::Ping {
            nonce: 5,
            look_at: Vec::new(),
        })
        .await;
    operator
        .report("looks at none", |report| report.sights.is_empty())
        .await;
}

#[tokio::test]
async fn only_the_leader_says_where_to_look() {
    let server = ObjectServer::start(Manners::default()).await;
    let (gate, other) = (Gate::start(server.address, &[]), Gate::start(server.address, &[]));
    let mut former = gate.operator("a", 1).await;
    let mut operator = gate.operator("b", 2).await;
    other.admitting().await;
    ask(&mut operator, other.admin(), 0).await;
    operator.report("sees it", shows(other.admin(), 0, Seen::Ready)).await;
    // A ping of the leader that asks for none would end that.
    let sights = former.ping(9).await.sights;
    assert!(!sights.is_empty(), "a former leader's ping has ended the look");
    assert_eq!(operator.ping(10).await.sights, []);
}
