//! The definition of the resource, as it is installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use serde_json::json;

use super::ProxyPair;

/// The definition of ProxyPairs.
///
/// A ProxyPair that no operator has looked at yet has `status.observedGeneration: -1` by default. Tools that judge an object by its status, as
/// kstatus in Flux and `kubectl wait` do, would take one without a status for one that is done.
///
/// What the fields of Kubernetes' own types mean is said once, below `spec.proxy`, and not again for each side: `kubectl apply` has a limit.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = ProxyPair::crd();
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        if let Some(status) = property(schema, &["status"]) {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
        }
        for side in ["primary", "backup"] {
            let settings = property(schema, &["spec", side, "proxy"]).and_then(|proxy| proxy.properties.as_mut());
            settings
                .into_iter()
                .flat_map(|settings| settings.values_mut())
                .for_each(leave_unsaid);
        }
    }
    definition
}

fn property<'a>(schema: &'a mut JSONSchemaProps, path: &[&str]) -> Option<&'a mut JSONSchemaProps> {
    path.iter()
        .try_fold(schema, |schema, name| schema.properties.as_mut()?.get_mut(*name))
}

/// Takes away the descriptions of everything below.
fn leave_unsaid(schema: &mut JSONSchemaProps) {
    for field in schema.properties.iter_mut().flat_map(|fields| fields.values_mut()) {
        field.description = None;
        leave_unsaid(field);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        leave_unsaid(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ProxyPairStatus;

    #[test]
    fn the_default_status_says_that_nobody_has_looked_and_is_one() {
        let definition = serde_json::to_value(definition()).unwrap();
        let status = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
        assert_eq!(status["default"], json!({"observedGeneration": -1}));
        let read: ProxyPairStatus = serde_json::from_value(status["default"].clone()).unwrap();
        let nothing = ProxyPairStatus {
            observed_generation: Some(-1),
            ..ProxyPairStatus::default()
        };
        assert_eq!(read, nothing);
    }

    /// `kubectl apply` on the client's side keeps the whole object in an annotation, which may have 256 KiB.
    #[test]
    fn the_definition_fits_into_the_annotation_of_kubectl_apply() {
        let text = serde_json::to_string(&definition()).unwrap();
        assert!(text.len() < 250 * 1024, "{}", text.len());
    }
}
