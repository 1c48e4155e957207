//! The two sides of a pair, and [`Sides`]: what there is once for each of them.

use std::ops::{Index, IndexMut};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the two sides of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Side {
    /// The preferred side: it serves unless it has failed.
    Primary,
    /// The side that serves while the primary has failed.
    Backup,
}

impl Side {
    /// Both sides, the primary first.
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Backup];

    /// The opposite side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }

    /// The word used in labels and in names of child objects.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }

    /// The word used in `status`, as it is serialized.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "Primary",
            Self::Backup => "Backup",
        }
    }
}

/// One `T` for each side, indexed by [`Side`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sides<T> {
    /// The primary's.
    pub primary: T,
    /// The backup's.
    pub backup: T,
}

impl<T> Sides<T> {
    /// Calls `of` for the primary, then for the backup.
    pub fn from_fn(mut of: impl FnMut(Side) -> T) -> Self {
        Self {
            primary: of(Side::Primary),
            backup: of(Side::Backup),
        }
    }

    /// Like [`from_fn`](Self::from_fn); the first error ends it.
    ///
    /// # Errors
    ///
    /// What `of` returns.
    pub fn try_from_fn<E>(mut of: impl FnMut(Side) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            primary: of(Side::Primary)?,
            backup: of(Side::Backup)?,
        })
    }

    /// The same by reference.
    pub const fn each_ref(&self) -> Sides<&T> {
        Sides {
            primary: &self.primary,
            backup: &self.backup,
        }
    }

    /// Applies `with` to both.
    pub fn map<U>(self, mut with: impl FnMut(T) -> U) -> Sides<U> {
        Sides {
            primary: with(self.primary),
            backup: with(self.backup),
        }
    }

    /// Both with their sides, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = (Side, &T)> {
        [(Side::Primary, &self.primary), (Side::Backup, &self.backup)].into_iter()
    }

    /// Both with their sides, to be changed; the primary first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Side, &mut T)> {
        [(Side::Primary, &mut self.primary), (Side::Backup, &mut self.backup)].into_iter()
    }
}

impl<T> Index<Side> for Sides<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }
}

impl<T> IndexMut<Side> for Sides<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Primary => &mut self.primary,
            Side::Backup => &mut self.backup,
        }
    }
}
