//! The processes of the operators.

use std::{cell::Cell, rc::Rc, time::Duration};

use clap::Parser;
use fake_api_server::ApiServer;
use proxypair::operator::{self, OperatorArgs};
use tokio::sync::watch;
use turmoil::Sim;

use super::{
    kubernetes::NAMESPACE,
    log::Log,
    places::{OPERATORS, identity, operator_address},
};

/// Time from the end of an operator's process to the next.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Operator {
    #[command(flatten)]
    args: OperatorArgs,
}

pub struct Operators {
    /// What lies between each of them and the API server.
    pub networks: [ApiServer; OPERATORS],
    /// It does not start again.
    pub killed: [bool; OPERATORS],
    /// The version of the image that they start with.
    pub image: Rc<Cell<u32>>,
    stops: [watch::Sender<bool>; OPERATORS],
    restarts: [Option<Duration>; OPERATORS],
}

impl Operators {
    pub fn new(sim: &mut Sim<'static>, api: &ApiServer, lease: Duration) -> Self {
        let operators = Self {
            networks: [api.another_network(), api.another_network()],
            killed: [false; OPERATORS],
            image: Rc::new(Cell::new(1)),
            stops: [watch::Sender::new(false), watch::Sender::new(false)],
            restarts: [None; OPERATORS],
        };
        for (number, network) in operators.networks.iter().enumerate() {
            let (network, image) = (network.clone(), Rc::clone(&operators.image));
            let stop = operators.stops[number].clone();
            sim.host(operator_address(number), move || {
                let image = format!("proxypair:{}", image.get());
                run(network.clone(), number, image, lease, stop.subscribe())
            });
        }
        operators
    }

    pub fn kill(&mut self, sim: &mut Sim<'static>, operator: usize) {
        self.killed[operator] = true;
        sim.crash(operator_address(operator));
    }

    /// Tells it to stop.
    pub fn stop(&self, operator: usize) {
        self.stops[operator].send_replace(true);
    }

    /// Starts those again that have ended.
    pub fn keep(&mut self, sim: &mut Sim<'static>, now: Duration, log: &mut Log) {
        for number in 0..OPERATORS {
            let host = operator_address(number);
            if self.killed[number] || sim.is_host_running(host) {
                continue;
            }
            let due = *self.restarts[number].get_or_insert_with(|| {
                log.say(now, format_args!("operator {number} has ended"));
                now + RESTARTS_AFTER
            });
            if now >= due {
                self.restarts[number] = None;
                self.stops[number].send_replace(false);
                sim.bounce(host);
                log.say(now, format_args!("operator {number} starts"));
            }
        }
    }
}

async fn run(
    api: ApiServer,
    number: usize,
    image: String,
    lease: Duration,
    stop: watch::Receiver<bool>,
) -> turmoil::Result {
    let Operator { args } = Operator::parse_from([
        "operator".to_owned(),
        format!("--image={image}"),
        format!("--identity={}", identity(number)),
        format!("--namespace={NAMESPACE}"),
        format!("--lease-duration={}s", lease.as_secs()),
    ]);
    // Leadership that was lost is the end of the process, and no failure of the simulation.
    let _ended = operator::run_until(args, api.client(), stop).await;
    Ok(())
}
