//! The rules of the CRD on each field of an object. Schema ranges are not repeated here, except for ports.

use super::InvalidPair;
use crate::api::{
    CaBundleSpec, ListenerTlsSpec, ProxyOverrides, ProxyPair, ProxyPairSpec, ProxyProperties, Side, SideSpec,
    rules::{self, BrokenRule},
};

/// Checks every rule of the CRD on `object`.
pub(super) fn check(object: &ProxyPair) -> Result<(), InvalidPair> {
    let spec = &object.spec;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    rules::pair_name().check("metadata.name", name)?;
    rules::server_name().check("spec.serverName", &spec.server_name)?;
    for of in Side::BOTH {
        side(&format!("spec.{}", of.label()), spec.side(of))?;
    }
    rules::relay_without_proxyserv_fields().check("spec.proxy", &spec.proxy)?;
    proxy("spec.proxy", &spec.proxy.pod)?;
    rules::labels().check("spec.commonMetadata.labels", &spec.common_metadata.labels)?;
    rules::annotations().check("spec.commonMetadata.annotations", &spec.common_metadata.annotations)?;
    if let Some(login) = &spec.health_check.login {
        rules::secret_name().check("spec.healthCheck.login.secretName", &login.secret_name)?;
    }
    service(spec)?;
    timing(spec)?;
    whole(spec)?;
    Ok(())
}

/// The number of a TCP port.
pub(super) fn port(field: &str, value: i32) -> Result<u16, InvalidPair> {
    let port = u16::try_from(value).ok().filter(|port| *port > 0);
    port.ok_or_else(|| InvalidPair::Port {
        field: field.to_owned(),
        value,
    })
}

/// The rules that see several fields.
fn whole(spec: &ProxyPairSpec) -> Result<(), BrokenRule> {
    let rules = [
        rules::two_object_servers(),
        rules::two_addresses(),
        rules::two_proxy_names(),
        rules::virtual_name(),
        rules::object_server_names(),
        rules::resync_needs_login(),
        rules::sides_without_proxyserv_fields(),
        rules::proxyserv_needs_image(),
        rules::proxyserv_needs_key_store(),
        rules::pass_through_needs_relay(),
        rules::pass_through_needs_tls(),
        rules::tls_on_both_sides(),
    ];
    rules.iter().try_for_each(|rule| rule.check("spec", spec))
}

fn side(at: &str, side: &SideSpec) -> Result<(), BrokenRule> {
    let server = &side.object_server;
    rules::server_name().check(&format!("{at}.serverName"), &side.server_name)?;
    rules::server_name().check(&format!("{at}.objectServer.name"), &server.name)?;
    rules::host().check(&format!("{at}.objectServer.host"), &server.host)?;
    if let Some(tls) = &server.tls {
        ca_bundle(&format!("{at}.objectServer.tls.caBundle"), &tls.ca_bundle)?;
    }
    match &side.proxy {
        Some(overrides) => proxy(&format!("{at}.proxy"), overrides),
        None => Ok(()),
    }
}

fn ca_bundle(at: &str, bundle: &CaBundleSpec) -> Result<(), BrokenRule> {
    let CaBundleSpec {
        config_map_name,
        secret_name,
        key,
    } = bundle;
    rules::one_ca_bundle().check(at, bundle)?;
    if let Some(name) = config_map_name {
        rules::config_map_name().check(&format!("{at}.configMapName"), name)?;
    }
    if let Some(name) = secret_name {
        rules::secret_name().check(&format!("{at}.secretName"), name)?;
    }
    rules::key().check(&format!("{at}.key"), key)
}

fn proxy(at: &str, proxy: &ProxyOverrides) -> Result<(), BrokenRule> {
    let texts = [
        ("image", rules::image(), &proxy.image),
        ("secretName", rules::secret_name(), &proxy.secret_name),
        ("ncHome", rules::nc_home(), &proxy.nc_home),
    ];
    for (field, rule, text) in texts {
        if let Some(text) = text {
            rule.check(&format!("{at}.{field}"), text)?;
        }
    }
    if let Some(set) = &proxy.properties {
        properties(&format!("{at}.properties"), set)?;
    }
    if let Some(tls) = &proxy.tls {
        listener_tls(&format!("{at}.tls"), tls)?;
    }
    if let Some(labels) = &proxy.pod_labels {
        rules::labels().check(&format!("{at}.podLabels"), labels)?;
    }
    if let Some(annotations) = &proxy.pod_annotations {
        rules::annotations().check(&format!("{at}.podAnnotations"), annotations)?;
    }
    Ok(())
}

fn listener_tls(at: &str, tls: &ListenerTlsSpec) -> Result<(), BrokenRule> {
    rules::terminate_needs_secret().check(at, tls)?;
    rules::pass_through_without_secret().check(at, tls)?;
    match &tls.secret_name {
        Some(name) => rules::secret_name().check(&format!("{at}.secretName"), name),
        None => Ok(()),
    }
}

fn properties(at: &str, properties: &ProxyProperties) -> Result<(), BrokenRule> {
    let rules = [
        rules::property_name(),
        rules::property_remote_server(),
        rules::property_auth_user_name(),
        rules::property_auth_password(),
        rules::property_config_key_file(),
        rules::property_props_file(),
        rules::property_process_agent(),
        rules::property_help_and_version(),
    ];
    rules.iter().try_for_each(|rule| rule.check(at, properties))?;
    match &properties.message_log {
        Some(log) => rules::message_log().check(&format!("{at}.MessageLog"), log),
        None => Ok(()),
    }
}

fn service(spec: &ProxyPairSpec) -> Result<(), InvalidPair> {
    let service = &spec.service;
    rules::load_balancer_class().check("spec.service", service)?;
    rules::node_port().check("spec.service", service)?;
    port("spec.service.port", service.port)?;
    if let Some(number) = service.node_port {
        port("spec.service.nodePort", number)?;
    }
    Ok(())
}

fn timing(spec: &ProxyPairSpec) -> Result<(), BrokenRule> {
    let health_check = &spec.health_check;
    rules::interval().check("spec.healthCheck", health_check)?;
    rules::unreachable_after().check("spec.healthCheck", health_check)?;
    rules::unresponsive_after().check("spec.healthCheck", health_check)?;
    rules::lost_after().check("spec.healthCheck", health_check)?;
    rules::healthy_after().check("spec.healthCheck", health_check)?;
    rules::stable_for().check("spec.failback", &spec.failback)?;
    rules::minimum_on_backup().check("spec.failback", &spec.failback)?;
    rules::drain_delay().check("spec.failback.drain", &spec.failback.drain)?;
    rules::grace_period().check("spec.failback.drain", &spec.failback.drain)?;
    match &spec.failback.resync {
        Some(resync) => {
            let field = "spec.failback.resync.gatewayDescription";
            rules::gateway_description().check(field, &resync.gateway_description)
        }
        None => Ok(()),
    }
}
