//! Pools of KV pages and recurrent slots.

use std::ops::Range;

use super::Sequence;
use crate::error::{Error, Result};

/// How much sequence memory a backend sets up at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLayout {
    /// Positions in one KV page.
    pub page_tokens: usize,
    /// KV pages in all.
    pub pages: usize,
    /// Recurrent slots in all: sequences that can be alive at once.
    pub slots: usize,
}

impl StateLayout {
    /// Positions in one page: large enough that page tables stay short, small enough that short chats waste little.
    pub const PAGE_TOKENS: usize = 64;

    /// A layout for `slots` sequences that together hold `tokens` positions.
    pub fn new(slots: usize, tokens: usize) -> Self {
        Self { page_tokens: Self::PAGE_TOKENS, pages: tokens.div_ceil(Self::PAGE_TOKENS), slots }
    }
}

/// The free pages and slots of one model.
#[derive(Debug)]
pub struct Pools {
    layout: StateLayout,
    free_pages: Vec<u32>,
    free_slots: Vec<usize>,
}

impl Pools {
    /// Pools with everything free.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], or [`Error::InvalidArgument`] for more pages than 32 bits can number.
    pub fn new(layout: StateLayout) -> Result<Self> {
        let pages = u32::try_from(layout.pages).map_err(|_| {
            Error::InvalidArgument(format!("{} KV pages are more than 32 bits can number", layout.pages))
        })?;
        Ok(Self { layout, free_pages: numbers(0..pages, "KV pages")?, free_slots: numbers(0..layout.slots, "slots")? })
    }

    /// A new sequence, or `None` while every slot is taken.
    pub fn open(&mut self) -> Option<Sequence> {
        let slot = self.free_slots.pop()?;
        Some(Sequence { slot, pages: Vec::new() })
    }

    /// Gives `sequence` pages for positions `0..tokens`. Where the pool has too few it takes none and answers `false`.
    #[must_use]
    pub fn reserve(&mut self, sequence: &mut Sequence, tokens: usize) -> bool {
        let missing = tokens.div_ceil(self.layout.page_tokens).saturating_sub(sequence.pages.len());
        if missing > self.free_pages.len() {
            return false;
        }
        sequence.pages.extend(self.free_pages.drain(self.free_pages.len() - missing..).rev());
        true
    }

    /// Takes back what `sequence` held.
    pub fn close(&mut self, sequence: Sequence) {
        self.free_pages.extend(sequence.pages);
        self.free_slots.push(sequence.slot);
    }

    /// Pages that no sequence holds.
    pub fn free_pages(&self) -> usize {
        self.free_pages.len()
    }

    /// Slots that no sequence holds.
    pub fn free_slots(&self) -> usize {
        self.free_slots.len()
    }
}

/// The numbers of `range`, the first one last.
fn numbers<T>(range: Range<T>, what: &str) -> Result<Vec<T>>
where
    Range<T>: DoubleEndedIterator<Item = T> + ExactSizeIterator,
{
    let mut all = Vec::new();
    let refused = |_| Error::OutOfHostMemory { what: what.into(), bytes: (range.len() * size_of::<T>()) as u64 };
    all.try_reserve_exact(range.len()).map_err(refused)?;
    all.extend(range.rev());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_exactly_the_reserved_positions_and_come_back() {
        let mut pools = Pools::new(StateLayout { page_tokens: 4, pages: 3, slots: 2 }).unwrap();
        let mut a = pools.open().unwrap();
        assert!(pools.reserve(&mut a, 5));
        assert_eq!(a.pages.len(), 2);
        assert!(pools.reserve(&mut a, 8), "the second page has room for positions 5 to 7");
        assert_eq!(a.pages.len(), 2);
        pools.close(a);
        assert_eq!((pools.free_pages(), pools.free_slots()), (3, 2));
    }

    #[test]
    fn an_exhausted_pool_takes_nothing_and_leaves_others_their_pages() {
        let mut pools = Pools::new(StateLayout { page_tokens: 4, pages: 3, slots: 2 }).unwrap();
        let (mut a, mut b) = (pools.open().unwrap(), pools.open().unwrap());
        assert!(pools.open().is_none());
        assert!(pools.reserve(&mut a, 8) && pools.reserve(&mut b, 4));
        assert!(!pools.reserve(&mut b, 5));
        assert_eq!((a.pages.len(), b.pages.len(), pools.free_pages()), (2, 1, 0));
        assert!(a.pages.iter().all(|p| !b.pages.contains(p)));
        pools.close(a);
        assert!(pools.reserve(&mut b, 12));
    }
}
