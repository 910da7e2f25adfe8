//! Host memory of tensors: buffers that return to a pool when the last tensor lets go of them.
//!
//! A training step asks for the same sizes again and again. The pool keeps freed buffers by size class
//! and hands them out again, so that the steady state neither allocates nor faults in new pages. Where
//! sizes keep changing, the freed buffers would pile up: never more is kept than was once in use together.
//! The pool is process-wide, like the allocator that it stands in for, and counts live and peak bytes for
//! the memory accounting of `forge plan`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

static POOL: Mutex<Pool> = Mutex::new(Pool {
    classes: BTreeMap::new(),
    bytes: 0,
    most: LEAST_KEPT,
});
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// So many bytes may wait in the pool at any time.
const LEAST_KEPT: usize = 16 << 20;

/// Freed buffers below this many elements are left to the allocator.
const POOLED_FROM: usize = 1 << 10;

/// The capacity given to a request: steps of an eighth of a power of two.
fn class(len: usize) -> usize {
    if len < POOLED_FROM {
        return len;
    }
    let step = len.next_power_of_two() / 16;
    len.next_multiple_of(step)
}

/// A buffer of `f32` values.
#[derive(Debug)]
pub(crate) struct Buffer {
    data: Vec<f32>,
}

impl Buffer {
    /// A buffer whose contents are old values: the caller overwrites every element.
    pub(crate) fn dirty(len: usize) -> Self {
        let capacity = class(len);
        let pooled = if len >= POOLED_FROM {
            pool().take(capacity)
        } else {
            None
        };
        let mut data = pooled.unwrap_or_else(|| Vec::with_capacity(capacity));
        if data.len() > len {
            data.truncate(len);
        } else {
            data.resize(len, 0.0);
        }
        let live = LIVE.fetch_add(capacity * 4, Ordering::Relaxed) + capacity * 4;
        PEAK.fetch_max(live, Ordering::Relaxed);
        Self { data }
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        let mut buffer = Self::dirty(len);
        buffer.data.fill(0.0);
        buffer
    }

    pub(crate) fn from_vec(data: Vec<f32>) -> Self {
        let mut buffer = Self::dirty(data.len());
        buffer.data.copy_from_slice(&data);
        buffer
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = class(self.data.len());
        LIVE.fetch_sub(capacity * 4, Ordering::Relaxed);
        if self.data.len() >= POOLED_FROM {
            let mut data = std::mem::take(&mut self.data);
            if data.capacity() >= capacity {
                // Keep the length at the capacity, so that taking it out again writes nothing.
                data.resize(capacity, 0.0);
                pool().keep(capacity, data);
            }
        }
    }
}

/// Freed buffers by size class.
struct Pool {
    classes: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Bytes of the buffers that wait.
    bytes: usize,
    /// The most bytes that may wait: as many as were in use together, in the whole life of the process.
    most: usize,
}

impl Pool {
    fn take(&mut self, capacity: usize) -> Option<Vec<f32>> {
        let data = self.classes.get_mut(&capacity)?.pop()?;
        self.bytes -= capacity * 4;
        Some(data)
    }

    /// Beyond the most, all others go first: sizes that are still asked for come back.
    fn keep(&mut self, capacity: usize, data: Vec<f32>) {
        self.most = self.most.max(peak_bytes());
        if self.bytes + capacity * 4 > self.most {
            self.clear();
        }
        self.bytes += capacity * 4;
        self.classes.entry(capacity).or_default().push(data);
    }

    fn clear(&mut self) {
        self.classes.clear();
        self.bytes = 0;
    }
}

fn pool() -> std::sync::MutexGuard<'static, Pool> {
    POOL.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes held by living tensors.
pub fn live_bytes() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes that were held at once since [`reset_peak`].
pub fn peak_bytes() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Starts a new measurement of the peak.
pub fn reset_peak() {
    PEAK.store(live_bytes(), Ordering::Relaxed);
}

/// Bytes of freed buffers that wait to be used again.
pub fn pooled_bytes() -> usize {
    pool().bytes
}

/// Gives all pooled buffers back to the system.
pub fn trim() {
    pool().clear();
}
