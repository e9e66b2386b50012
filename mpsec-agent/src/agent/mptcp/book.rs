//! What is kept of each slot of the kernel's table, close together: the table is far from full most of the time, and all of it
//! is gone through often.

/// No entry.
const NONE: u32 = u32::MAX;

/// Values by slot.
pub struct Book<T> {
    /// Where the value of each slot is, [`NONE`] for a slot that has none.
    index: Vec<u32>,
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Book<T> {
    fn default() -> Book<T> {
        Book { index: Vec::new(), entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Book<T> {
    /// The value of a slot.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.entries.get(*self.index.get(slot as usize)? as usize)?.as_ref()
    }

    /// The value of a slot, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(*self.index.get(slot as usize)? as usize)?.as_mut()
    }

    /// Gives a slot a value, in place of the one that it had.
    pub fn insert(&mut self, slot: u32, value: T) {
        self.remove(slot);
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32 - 1
        });
        self.entries[place as usize] = Some(value);
        if self.index.len() <= slot as usize {
            self.index.resize(slot as usize + 1, NONE);
        }
        self.index[slot as usize] = place;
    }

    /// Takes a slot's value away.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let place = std::mem::replace(self.index.get_mut(slot as usize)?, NONE);
        let value = self.entries.get_mut(place as usize)?.take();
        self.free.push(place);
        value
    }

    /// Every value.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    /// Every value, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut book = Book::default();
        for (slot, value) in [(7, "a"), (100, "b"), (7, "c")] {
            book.insert(slot, value);
        }
        assert_eq!((book.get(7), book.get(100), book.get(8), book.get(1000)), (Some(&"c"), Some(&"b"), None, None));
        assert_eq!((book.remove(100), book.remove(100), book.remove(1000)), (Some("b"), None, None));
        book.insert(3, "d");
        assert_eq!(book.entries.len(), 2, "no place is wasted");
        let mut all: Vec<_> = book.values().copied().collect();
        all.sort_unstable();
        assert_eq!(all, ["c", "d"]);
        book.values_mut().for_each(|value| *value = "e");
        assert_eq!(book.get_mut(3), Some(&mut "e"));
    }
}
