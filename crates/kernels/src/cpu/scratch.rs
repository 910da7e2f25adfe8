//! Working memory of a thread, kept from one operation to the next: the steady state neither allocates nor
//! faults in new pages.

use std::cell::RefCell;

/// Elements of a cache line.
const LINE: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `len` elements that begin at a cache line and hold old values.
///
/// The buffer is taken out meanwhile: a task that this thread runs while it waits finds another. Of those
/// that are large enough the smallest is taken, else the largest is replaced by one that is.
pub(super) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let needed = len + LINE;
    let mut buffer = KEPT.with(|kept| {
        let mut kept = kept.borrow_mut();
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= needed);
        let best = fits.min_by_key(|&i| kept[i].len());
        let best = best.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        best.map(|i| kept.swap_remove(i)).unwrap_or_default()
    });
    if buffer.len() < needed {
        drop(buffer);
        buffer = vec![0.0; needed];
    }
    let start = buffer.as_ptr().align_offset(4 * LINE);
    let result = f(&mut buffer[start..start + len]);
    KEPT.with(|kept| kept.borrow_mut().push(buffer));
    result
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
    }
}
