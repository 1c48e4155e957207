//! Where everything is.

use std::net::{IpAddr, Ipv4Addr};

use proxypair::api::Side;

/// How many operators there are.
pub const OPERATORS: usize = 2;

fn address(net: u8, number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, net, 0, u8::try_from(number).unwrap_or(u8::MAX)))
}

pub fn operator_address(number: usize) -> IpAddr {
    address(1, number + 1)
}

pub fn probe_address(number: usize) -> IpAddr {
    address(3, number + 1)
}

/// The name of an operator among its replicas.
pub fn identity(operator: usize) -> String {
    format!("operator-{operator}")
}

/// An ObjectServer has two machines, and runs on one of them.
pub fn server_address(side: Side, machine: usize) -> IpAddr {
    address(2, machine * 2 + if side == Side::Primary { 1 } else { 2 })
}

pub fn host_of(side: Side) -> &'static str {
    match side {
        Side::Primary => "aggp.example.com",
        Side::Backup => "aggb.example.com",
    }
}

/// The name of an ObjectServer.
pub fn server_name(side: Side) -> &'static str {
    match side {
        Side::Primary => "AGG_P",
        Side::Backup => "AGG_B",
    }
}
