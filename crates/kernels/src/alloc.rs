//! Memory from the system: asked for so that a refusal can be answered, at cache lines, and in large pages.

use std::alloc::{Layout, alloc, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// What a thread unwinds with when the system refuses memory, so that whoever can do with less tries again.
/// It is no panic: nothing is printed.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

/// Bytes of a cache line. A vector or a row of a tile that lies across two of them takes twice as long.
const LINE: usize = 64;

/// Bytes of a large page; memory of [`HUGE_FROM`] bytes begins at one.
const HUGE: usize = 2 << 20;
const HUGE_FROM: usize = 4 << 20;

/// A fixed number of elements that begin at a cache line.
#[derive(Debug)]
pub struct Memory {
    start: NonNull<f32>,
    len: usize,
}
// SAFETY: it owns its elements, which are plain data.
unsafe impl Send for Memory {}
// SAFETY: as above; changes need an exclusive borrow.
unsafe impl Sync for Memory {}

impl Memory {
    /// So many zeros. When there is no room, `spare` gives back what is only kept for later; when there is none even
    /// then, unwinds with [`OutOfMemory`].
    pub fn zeroed(len: usize, spare: impl FnOnce()) -> Self {
        if len == 0 {
            return Self::default();
        }
        let bytes = len.saturating_mul(size_of::<f32>());
        let allocate = || {
            let layout = Self::layout(len)?;
            // SAFETY: the layout is not empty.
            NonNull::new(unsafe { alloc(layout) }.cast::<f32>())
        };
        let start = allocate().or_else(|| {
            spare();
            allocate()
        });
        let Some(start) = start else {
            std::panic::resume_unwind(Box::new(OutOfMemory { bytes }));
        };
        ask_for_huge_pages(start, bytes);
        // SAFETY: there is room for `len` elements, and zero bytes are zeros.
        unsafe { start.write_bytes(0, len) };
        Self { start, len }
    }

    fn layout(len: usize) -> Option<Layout> {
        let bytes = len.checked_mul(size_of::<f32>())?;
        let align = if bytes >= HUGE_FROM { HUGE } else { LINE };
        Layout::from_size_align(bytes, align).ok()
    }
}

impl Default for Memory {
    fn default() -> Self {
        let start = NonNull::dangling();
        Self { start, len: 0 }
    }
}

impl Deref for Memory {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: the elements are there as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|_| self.len > 0) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

/// Large memory in large pages, where the system has them to give: fewer misses of the address cache and fewer
/// faults when it is first touched.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(start: NonNull<f32>, bytes: usize) {
    const PAGE: usize = 4096;
    if bytes >= HUGE_FROM {
        // SAFETY: whole pages inside the allocation, which begins at a page; the advice changes no content, and
        // a refusal changes nothing.
        unsafe {
            libc::madvise(
                start.as_ptr().cast(),
                bytes / PAGE * PAGE,
                libc::MADV_HUGEPAGE,
            )
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: NonNull<f32>, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeros_or_refused_after_the_spare_was_given_back() {
        for len in [0, 7, 3 << 20] {
            let mut memory = Memory::zeroed(len, || panic!("there is enough"));
            assert!(memory.len() == len && memory.iter().all(|&x| x == 0.0));
            assert!(len == 0 || (memory.as_ptr() as usize).is_multiple_of(LINE));
            memory.fill(1.0);
            assert_eq!(memory.iter().sum::<f32>(), len as f32);
        }
        let mut spared = false;
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Memory::zeroed(1 << 60, || spared = true)
        }));
        let cause = refused.map_err(|cause| cause.downcast_ref::<OutOfMemory>().map(|o| o.bytes));
        assert_eq!((cause.err(), spared), (Some(Some(1 << 62)), true));
    }
}
