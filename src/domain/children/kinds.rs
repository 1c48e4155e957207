//! The kinds of child objects, listed once.

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

/// A kind of child object: namespaced, known at compile time, and readable and writable as JSON.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The kind, as in manifests.
    const KIND: &'static str;
}

/// Something to do with each kind of child.
pub trait KindVisitor {
    /// Does it with kind `K`.
    fn visit<K: Child>(&mut self);
}

/// Implements [`Child`] for each kind, and makes the lists of them.
macro_rules! child_kinds {
    ($($kind:ident),+ $(,)?) => {
        $(impl Child for $kind {
            const KIND: &'static str = stringify!($kind);
        })+

        /// The kinds of child objects, in the order of [`visit_kinds`].
        pub const CHILD_KINDS: &[&str] = &[$($kind::KIND),+];

        /// Calls `visitor` for each kind of child object.
        pub fn visit_kinds(visitor: &mut impl KindVisitor) {
            $(visitor.visit::<$kind>();)+
        }
    };
}

child_kinds!(
    Deployment,
    Service,
    Secret,
    ServiceAccount,
    PodDisruptionBudget,
    ConfigMap
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_visited_once_under_the_name_that_kubernetes_has_for_it() {
        struct Names(Vec<String>);
        impl KindVisitor for Names {
            fn visit<K: Child>(&mut self) {
                self.0.push(K::kind(&()).into_owned());
            }
        }
        let mut names = Names(Vec::new());
        visit_kinds(&mut names);
        assert_eq!(names.0, CHILD_KINDS);
    }
}
