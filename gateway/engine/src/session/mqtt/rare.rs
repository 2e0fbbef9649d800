//! A part that most connections and sessions do without for most of their life: one word until it is first touched.
//! Ten thousand idle devices must fit into a small board. Decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};

/// What a part is before anything has happened to it.
pub(super) trait Blank: Default + 'static {
    /// The same as `Default` gives.
    const BLANK: &'static Self;
}

impl<T: 'static> Blank for Vec<T> {
    const BLANK: &'static Self = &Self::new();
}

impl<K: 'static, V: 'static> Blank for BTreeMap<K, V> {
    const BLANK: &'static Self = &Self::new();
}

impl<T: 'static> Blank for VecDeque<T> {
    const BLANK: &'static Self = &Self::new();
}

/// Reads like the part itself. Borrowing it mutably makes it real, so whoever only looks must not do that.
#[derive(Debug)]
pub(super) struct Rare<T>(Option<Box<T>>);

impl<T> Rare<T> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    /// The part, if it was ever touched.
    pub(super) fn touched(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T> From<T> for Rare<T> {
    fn from(part: T) -> Self {
        Self(Some(Box::new(part)))
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Blank> Rare<T> {
    /// Takes the part out, and gives its memory back.
    pub(super) fn take(&mut self) -> T {
        self.0.take().map_or_else(T::default, |part| *part)
    }
}

impl<T: Blank> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::BLANK)
    }
}

impl<T: Blank> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::Connection;
    use super::super::session::Session;
    use super::Rare;

    #[test]
    fn a_part_costs_a_word_until_it_is_touched() {
        let mut part: Rare<Vec<u8>> = Rare::new();
        assert!(part.is_empty() && part.touched().is_none());
        part.push(1);
        assert_eq!(*part, [1]);
        assert_eq!(part.take(), [1]);
        assert!(part.touched().is_none());
        assert_eq!(size_of_val(&part), size_of::<usize>());
    }

    /// Whoever adds to them what few need puts it into a [`Rare`].
    #[test]
    fn an_idle_connection_and_its_session_stay_small() {
        assert!(size_of::<Connection>() <= 160, "{} bytes", size_of::<Connection>());
        assert!(size_of::<Session>() <= 136, "{} bytes", size_of::<Session>());
    }
}
