//! An output that parallel tasks write in disjoint parts that are no contiguous chunks: blocks of rows and
//! columns, which `chunks_mut` cannot hand out.

/// A pointer into an output that tasks share.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);
// SAFETY: whoever dereferences it promises to touch elements of its own task only.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(x: &mut [f32]) -> Self {
        Self(x.as_mut_ptr())
    }

    /// The output from an element on.
    ///
    /// # Safety
    /// The element lies in the buffer.
    pub(super) unsafe fn from(self, at: usize) -> Self {
        // SAFETY: promised by the caller.
        Self(unsafe { self.0.add(at) })
    }

    /// The start of the output.
    pub(super) fn get(self) -> *mut f32 {
        self.0
    }

    /// # Safety
    /// The range must lie in the buffer and belong to the calling task alone while the slice lives.
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}
