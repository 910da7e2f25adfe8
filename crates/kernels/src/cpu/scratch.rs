//! Working memory of a thread, kept from one operation to the next: the steady state neither allocates nor
//! faults in new pages.

use crate::Memory;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static KEPT: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// Elements that begin at a cache line and hold old values. The thread that drops them keeps them for its next
/// operation, so what goes from thread to thread, or lives long, belongs in a `Vec`.
pub(super) struct Scratch {
    buffer: Memory,
    len: usize,
}

/// Takes `len` elements out of what this thread keeps: of the buffers that are large enough the smallest, else
/// one that takes the place of the largest.
pub(super) fn take(len: usize) -> Scratch {
    let mut buffer = KEPT.with(|kept| {
        let mut kept = kept.borrow_mut();
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= len);
        let best = fits.min_by_key(|&i| kept[i].len());
        let best = best.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        best.map(|i| kept.swap_remove(i)).unwrap_or_default()
    });
    if buffer.len() < len {
        drop(buffer);
        buffer = Memory::zeroed(len, || KEPT.with(|kept| kept.borrow_mut().clear()));
    }
    Scratch { buffer, len }
}

/// [`take`], filled with zeros.
pub(super) fn zeros(len: usize) -> Scratch {
    let mut scratch = take(len);
    scratch.fill(0.0);
    scratch
}

/// [`take`], filled with a copy of `x`.
pub(super) fn copy(x: &[f32]) -> Scratch {
    let mut scratch = take(x.len());
    scratch.copy_from_slice(x);
    scratch
}

/// Runs `f` with `len` elements that begin at a cache line and hold old values.
pub(super) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    f(&mut take(len))
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that ends has nothing left to keep it in.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(buffer));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn nested_buffers_are_aligned_and_apart() {
        for _ in 0..2 {
            super::with(100, |a| {
                a.fill(1.0);
                super::with(50, |b| {
                    assert_eq!((a.len(), b.len()), (100, 50));
                    assert_eq!(b.as_ptr() as usize % 64, 0);
                    b.fill(2.0);
                });
                assert!(a.iter().all(|&x| x == 1.0));
            });
        }
        assert_eq!(super::KEPT.with(|k| k.borrow().len()), 2);
        assert_eq!(super::zeros(70)[..], [0.0; 70]);
        assert_eq!(super::copy(&[3.0; 40])[..], [3.0; 40]);
        assert_eq!(super::KEPT.with(|k| k.borrow().len()), 2);
    }
}
