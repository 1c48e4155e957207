//! Independent TDS 5.0 clients through the gate: FreeTDS (`tsql`, `bsqldb`), jTDS, and pymssql with a FreeTDS of its own.
//!
//! The stand-in ObjectServer shares the codec with the product and would share its mistakes; these clients do not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod scenarios;
mod stage;

use std::process::ExitCode;

use client::Client;
use libtest_mimic::{Arguments, Trial};
use stage::Transport;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for client in Client::ALL {
        for transport in Transport::ALL {
            trials.extend(trials_of(client, transport));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trials_of(client: Client, transport: Transport) -> Vec<Trial> {
    let mut trials = Vec::new();
    macro_rules! trial {
        ($scenario:ident) => {
            let name = client.application().to_lowercase();
            let name = format!("{name}::{}::{}", transport.name(), stringify!($scenario));
            trials.push(Trial::test(name, move || {
                runtime().block_on(scenarios::$scenario(client, transport));
                Ok(())
            }));
        };
    }
    trial!(logs_in_and_finds_its_server_and_itself);
    trial!(a_wrong_password_is_refused);
    trial!(a_repeated_event_is_counted_and_not_stored_twice);
    trial!(thousands_of_rows_with_long_texts_arrive_whole_and_in_order);
    if client.survives_errors() {
        trial!(an_error_leaves_the_session_usable);
    }
    if client == Client::Jtds {
        trial!(a_cancelled_request_leaves_the_session_usable_and_drainable);
    }
    if transport.shows_messages() {
        trial!(a_batch_under_way_is_completed_by_a_drain);
        trial!(a_drain_between_requests_loses_and_halves_none);
    }
    trials
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}
