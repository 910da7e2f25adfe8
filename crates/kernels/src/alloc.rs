//! Memory from the system: asked for so that a refusal can be answered, and in large pages.

/// What a thread unwinds with when the system refuses memory, so that whoever can do with less tries again.
/// It is no panic: nothing is printed.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

/// An empty vector with room for `capacity` elements. When there is none, `spare` gives back what is only kept
/// for later; when there is none even then, unwinds with [`OutOfMemory`].
pub fn reserve(capacity: usize, spare: impl FnOnce()) -> Vec<f32> {
    let mut data = Vec::new();
    if data.try_reserve_exact(capacity).is_err() {
        spare();
        if data.try_reserve_exact(capacity).is_err() {
            std::panic::resume_unwind(Box::new(OutOfMemory {
                bytes: capacity * size_of::<f32>(),
            }));
        }
    }
    ask_for_huge_pages(&mut data);
    data
}

/// Large memory in large pages, where the system has them to give: fewer misses of the address cache and fewer
/// faults when it is first touched.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages(data: &mut Vec<f32>) {
    const PAGE: usize = 4096;
    const FROM: usize = 4 << 20;
    let bytes = data.capacity() * size_of::<f32>();
    if bytes < FROM {
        return;
    }
    let start = data.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(PAGE);
    let whole = (bytes - skip) / PAGE * PAGE;
    // SAFETY: whole pages inside the vector's own allocation; the advice changes no content, and a refusal
    // changes nothing.
    unsafe { libc::madvise(start.add(skip).cast(), whole, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: &mut Vec<f32>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_or_refused_after_the_spare_was_given_back() {
        for capacity in [0, 7, 3 << 20] {
            let mut data = reserve(capacity, || panic!("there is enough"));
            assert!(data.is_empty() && data.capacity() >= capacity);
            data.resize(capacity, 1.0);
        }
        let mut spared = false;
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            reserve(1 << 60, || spared = true)
        }));
        let cause = refused.map_err(|cause| cause.downcast_ref::<OutOfMemory>().map(|o| o.bytes));
        assert_eq!((cause.err(), spared), (Some(Some(1 << 62)), true));
    }
}
