//! The end-to-end tests, on a real Kubernetes. Each file is named after what breaks, and in each probes send all the while, beside an auditor.
//!
//! `make cluster image` first, or `CLUSTER=current IMAGE=… STAND_INS=… NCO_PROXYSERV=…` for a cluster of one's own; then
//! `cargo test --release --package testkit --test e2e`, with a name to run one.

mod harness;

mod api_server_cut;
mod api_server_slow;
mod both_sides_down;
mod certificates;
mod children_edited;
mod defaults;
mod free_tds;
mod idle_pair;
mod lease_lost;
mod login_refused;
mod malformed_pair;
mod node_cut_off;
mod objectserver_killed;
mod objectserver_stalls;
mod omni_dat;
mod operator_gone;
mod operator_killed;
mod pair_deleted;
mod path_cut;
mod primary_returns;
mod proxy_pod_deleted;
mod proxy_process_frozen;
mod proxyserv_objectserver_killed;
mod proxyserv_process;
mod proxyserv_secret_changed;
mod proxyserv_unusable;
mod refused_manifests;
mod resync;
mod several_gates;
mod users_assigned;

use harness::{Needs, run, test};

fn main() -> std::process::ExitCode {
    use Needs::{AnyCluster, OwnCluster, OwnClusterAlone};
    run(vec![
        test("node_cut_off", OwnClusterAlone, node_cut_off::fails_over),
        test(
            "node_cut_off_with_the_leader",
            OwnClusterAlone,
            node_cut_off::fails_over_without_its_leader,
        ),
        test(
            "node_cut_off_for_good",
            OwnClusterAlone,
            node_cut_off::fails_back_without_it,
        ),
        test(
            "node_cut_off_with_agents",
            OwnClusterAlone,
            node_cut_off::fails_over_with_agents,
        ),
        test(
            "node_cut_off_with_defaults",
            OwnClusterAlone,
            node_cut_off::fails_over_long_before_unresponsive_after,
        ),
        test(
            "node_cut_off_without_agents",
            OwnClusterAlone,
            node_cut_off::strands_probes_without_agents,
        ),
        test(
            "several_gates_node_cut_off",
            OwnClusterAlone,
            several_gates::node_cut_off,
        ),
        test("idle_pair_writes_nothing", OwnClusterAlone, idle_pair::writes_nothing),
        test(
            "api_server_frozen",
            OwnClusterAlone,
            api_server_slow::frozen_while_the_objectserver_dies,
        ),
        test("api_server_slow", AnyCluster, api_server_slow::each_write_takes_a_while),
        test("defaults", AnyCluster, defaults::fail_over_and_come_home),
        test(
            "defaults_with_500_probes",
            AnyCluster,
            defaults::bring_five_hundred_probes_home,
        ),
        test(
            "defaults_and_a_silent_objectserver",
            OwnCluster,
            defaults::leave_a_silent_objectserver,
        ),
        test(
            "defaults_and_a_name_that_does_not_resolve",
            AnyCluster,
            defaults::leave_a_name_that_does_not_resolve,
        ),
        test(
            "several_gates_process_killed",
            OwnCluster,
            several_gates::process_killed,
        ),
        test("several_gates_evicted", AnyCluster, several_gates::evicted),
        test(
            "several_gates_evicted_with_proxyserv",
            AnyCluster,
            several_gates::evicted_with_proxyserv,
        ),
        test("several_gates_rolled_out", AnyCluster, several_gates::rolled_out),
        test("objectserver_killed", AnyCluster, objectserver_killed::fails_over),
        test(
            "objectserver_stalls_for_a_while",
            AnyCluster,
            objectserver_stalls::for_a_while,
        ),
        test(
            "objectserver_stalls_for_ever",
            AnyCluster,
            objectserver_stalls::for_ever,
        ),
        test(
            "lease_deleted_under_the_third_leader",
            AnyCluster,
            lease_lost::every_probe_comes_home,
        ),
        test(
            "operator_installed_under_another_name",
            AnyCluster,
            lease_lost::a_new_release_commands_the_gates,
        ),
        test("users_assigned_to_relays", AnyCluster, users_assigned::by_a_relay),
        test("users_assigned_to_proxyserv", AnyCluster, users_assigned::by_proxyserv),
        test("failback_waits_for_the_resync", AnyCluster, resync::is_waited_for),
        test(
            "failback_waits_for_the_gateway",
            AnyCluster,
            resync::a_gateway_that_is_away_keeps_the_pair_on_the_backup,
        ),
        test(
            "certificates_and_everything_over_tls",
            AnyCluster,
            certificates::everything_over_tls,
        ),
        test("certificates_passed_through", AnyCluster, certificates::passed_through),
        test(
            "omni_dat_leads_probes_to_the_pair",
            AnyCluster,
            omni_dat::leads_probes_to_the_pair,
        ),
        test(
            "certificates_wrong_on_the_returning_primary",
            AnyCluster,
            certificates::wrong_ones_keep_the_pair_on_the_backup,
        ),
        test(
            "certificates_of_a_listener_without_its_key",
            AnyCluster,
            certificates::a_listeners_does_not_fit_its_key,
        ),
        test(
            "certificates_of_a_listener_renewed",
            AnyCluster,
            certificates::a_listeners_is_renewed,
        ),
        test(
            "certificates_of_authorities_missing_or_garbage",
            AnyCluster,
            certificates::authorities_are_missing_or_garbage,
        ),
        test(
            "path_between_proxy_and_objectserver_cut",
            OwnCluster,
            path_cut::fails_over,
        ),
        test(
            "path_to_the_leader_cut",
            OwnCluster,
            path_cut::to_the_leader_moves_nothing,
        ),
        test("login_refused_and_repaired", AnyCluster, login_refused::and_repaired),
        test(
            "primary_returns_and_every_probe_comes_home",
            AnyCluster,
            primary_returns::every_probe_comes_home,
        ),
        test("proxy_pod_deleted_in_order", AnyCluster, proxy_pod_deleted::in_order),
        test(
            "proxy_pods_deleted_both_at_once",
            AnyCluster,
            proxy_pod_deleted::both_at_once,
        ),
        test("proxy_pod_deleted_by_force", AnyCluster, proxy_pod_deleted::by_force),
        test("proxy_process_killed", OwnCluster, proxy_pod_deleted::process_killed),
        test("proxy_process_frozen", OwnCluster, proxy_process_frozen::fails_over),
        test(
            "both_sides_down_then_the_other_returns",
            AnyCluster,
            both_sides_down::the_other_returns,
        ),
        test(
            "both_sides_down_then_the_serving_one_returns",
            AnyCluster,
            both_sides_down::the_serving_one_returns,
        ),
        test(
            "operator_killed_before_the_intent",
            AnyCluster,
            operator_killed::before_the_intent,
        ),
        test(
            "operator_killed_between_intent_and_patch",
            AnyCluster,
            operator_killed::between_intent_and_patch,
        ),
        test(
            "operator_killed_between_patch_and_fact",
            AnyCluster,
            operator_killed::between_patch_and_fact,
        ),
        test(
            "operator_killed_while_a_child_is_refused",
            AnyCluster,
            operator_killed::while_a_child_is_refused,
        ),
        test(
            "api_server_cut_from_the_operator",
            OwnCluster,
            api_server_cut::from_the_leader,
        ),
        test(
            "unreadable_pair_beside_a_healthy_one",
            AnyCluster,
            malformed_pair::unreadable,
        ),
        test(
            "useless_pairs_beside_a_healthy_one",
            AnyCluster,
            malformed_pair::name_taken_or_no_address,
        ),
        test("children_edited_by_hand", AnyCluster, children_edited::by_hand),
        test("keys_deleted_by_hand", AnyCluster, children_edited::keys_deleted),
        test(
            "virtual_service_broken_by_hand",
            AnyCluster,
            children_edited::virtual_service_broken_by_hand,
        ),
        test(
            "proxyserv_exits_with_its_objectserver",
            AnyCluster,
            proxyserv_objectserver_killed::and_it_exits,
        ),
        test(
            "proxyserv_stays_without_its_objectserver",
            AnyCluster,
            proxyserv_objectserver_killed::and_it_stays,
        ),
        test(
            "proxyserv_over_tls",
            AnyCluster,
            proxyserv_objectserver_killed::over_tls,
        ),
        test("proxyserv_killed", OwnCluster, proxyserv_process::killed),
        test("proxyserv_frozen", OwnCluster, proxyserv_process::frozen),
        test(
            "proxyserv_objectserver_stalls",
            AnyCluster,
            proxyserv_process::its_objectserver_stalls,
        ),
        test(
            "proxyserv_pod_deleted_in_order",
            AnyCluster,
            proxy_pod_deleted::in_order_with_proxyserv,
        ),
        test(
            "proxyserv_secret_changed",
            AnyCluster,
            proxyserv_secret_changed::the_pods_follow,
        ),
        test(
            "unusable_proxyservs_beside_a_healthy_one",
            AnyCluster,
            proxyserv_unusable::beside_a_healthy_one,
        ),
        test(
            "unusable_proxyserv_after_a_change",
            AnyCluster,
            proxyserv_unusable::after_a_change,
        ),
        test(
            "operator_gone_and_the_primary_dead",
            AnyCluster,
            operator_gone::probes_fail_over_by_themselves,
        ),
        test("deleting_the_pair", AnyCluster, pair_deleted::everything_goes),
        test("free_tds_through_the_gate", OwnCluster, free_tds::through_the_gate),
        test("the_api_server_refuses", AnyCluster, refused_manifests::are_refused),
    ])
}
