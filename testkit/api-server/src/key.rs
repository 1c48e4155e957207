//! Where an object is.

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) group: String,
    pub(crate) resource: String,
    /// Empty for what has none.
    pub(crate) namespace: String,
    pub(crate) name: String,
}
