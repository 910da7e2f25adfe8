//! Host memory of tensors: buffers that return to a pool when the last tensor lets go of them.
//!
//! A training step asks for the same sizes again and again. The pool keeps freed buffers by size class
//! and hands them out again, so that the steady state neither allocates nor faults in new pages. Where
//! sizes keep changing, the freed buffers would pile up: never more is kept than was once in use together, and,
//! where [`allow`] sets a limit, never so much that it and the buffers in use exceed that.
//! The pool is process-wide, like the allocator that it stands in for, and counts live and peak bytes for
//! the memory accounting of `forge plan`.

use kernels::Memory;
pub use kernels::OutOfMemory;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

static POOL: Mutex<Pool> = Mutex::new(Pool {
    classes: BTreeMap::new(),
    bytes: 0,
    most: LEAST_KEPT,
    kept: 0,
});
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static ALLOWED: AtomicUsize = AtomicUsize::new(usize::MAX);

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
    /// As many elements as its size class says.
    data: Memory,
    len: usize,
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
        let data = pooled.unwrap_or_else(|| {
            pool().make_room(capacity * 4);
            Memory::zeroed(capacity, trim)
        });
        let bytes = size_of_val(&*data);
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
        Self { data, len }
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        let mut buffer = Self::dirty(len);
        buffer.as_mut_slice().fill(0.0);
        buffer
    }

    pub(crate) fn from_vec(data: Vec<f32>) -> Self {
        let mut buffer = Self::dirty(data.len());
        buffer.as_mut_slice().copy_from_slice(&data);
        buffer
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.data[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        LIVE.fetch_sub(size_of_val(&*self.data), Ordering::Relaxed);
        if self.data.len() >= POOLED_FROM {
            pool().keep(std::mem::take(&mut self.data));
        }
    }
}

/// Freed buffers by size class.
struct Pool {
    /// Each with the number it came under, the latest last.
    classes: BTreeMap<usize, VecDeque<(u64, Memory)>>,
    /// Bytes of the buffers that wait.
    bytes: usize,
    /// The most bytes that may wait: as many as were in use together, in the whole life of the process.
    most: usize,
    /// How many buffers ever came.
    kept: u64,
}

impl Pool {
    /// A buffer with room for `capacity` elements, or for up to a quarter more: where the number of rows
    /// changes from step to step, so do the classes.
    fn take(&mut self, capacity: usize) -> Option<Memory> {
        let classes = self.classes.range_mut(capacity..=capacity + capacity / 4);
        let data = classes.filter_map(|(_, kept)| kept.pop_back()).next()?.1;
        self.bytes -= size_of_val(&*data);
        Some(data)
    }

    /// Beyond the most, those that have waited longest go: sizes that are asked for are never among them.
    fn keep(&mut self, data: Memory) {
        let room = data.len();
        self.most = self.most.max(peak_bytes());
        self.kept += 1;
        self.bytes += room * 4;
        let class = self.classes.entry(room).or_default();
        class.push_back((self.kept, data));
        self.shrink(self.most);
    }

    /// Lets buffers go until so many new bytes are allowed, or none is left.
    fn make_room(&mut self, bytes: usize) {
        let allowed = ALLOWED.load(Ordering::Relaxed);
        self.shrink(allowed.saturating_sub(live_bytes().saturating_add(bytes)));
    }

    /// Keeps at most so many bytes.
    fn shrink(&mut self, most: usize) {
        while self.bytes > most {
            let oldest =
                |(_, kept): &(&usize, &VecDeque<_>)| kept.front().map(|(n, _): &(u64, _)| *n);
            let waiting = self.classes.iter().filter(|(_, kept)| !kept.is_empty());
            let Some(room) = waiting.min_by_key(oldest).map(|(&room, _)| room) else {
                break;
            };
            self.classes.entry(room).or_default().pop_front();
            self.bytes -= room * 4;
        }
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

/// From here on buffers wait in the pool only as long as they and those in use stay within so many bytes. What is in use
/// is not limited: a tensor that needs more gets it where the system has it.
pub fn allow(bytes: usize) {
    ALLOWED.store(bytes, Ordering::Relaxed);
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

/// Runs `f`, which may run out of memory: what it held is free again then.
///
/// # Errors
/// The system refused memory that a tensor or a kernel asked for, even after the pool was emptied.
pub fn within_memory<R>(f: impl FnOnce() -> R) -> Result<R, OutOfMemory> {
    // Whoever gets the error throws away what `f` was changing.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).map_err(|cause| {
        match cause.downcast::<OutOfMemory>() {
            Ok(refused) => {
                trim();
                *refused
            }
            Err(cause) => std::panic::resume_unwind(cause),
        }
    })
}

/// Gives all pooled buffers back to the system.
pub fn trim() {
    pool().clear();
}
