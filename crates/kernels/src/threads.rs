//! Threads that stay awake between operations.
//!
//! A training step is thousands of short parallel loops. A thread of the pool that finds nothing to do goes to
//! sleep after some microseconds, and waking it for the next loop takes longer than many of them. [`hot`] has the
//! other threads look for work all the time while it lasts.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Set in the number of watchers once no more may come.
const CLOSED: usize = 1 << 16;
/// Set when the work is over.
const OVER: usize = 1 << 17;

/// Pauses between two looks, some tenths of a microsecond: looking takes a core's time from its other threads and
/// cache lines from whom it looks at.
const PAUSES: u32 = 8;

/// How often a thread looks for work before it lets other programs have the core between two looks.
const PATIENCE: u32 = 500;

/// How often the caller looks whether all other threads watch before it goes on without them.
const WAIT: u32 = 20_000;

thread_local! {
    static HOT: Cell<bool> = const { Cell::new(false) };
}

/// Says that the work is over, on the way out and when it panics.
struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_or(OVER, Ordering::Release);
        HOT.set(false);
    }
}

/// Runs `f` while the other threads of the pool stay awake. Outside of a pool, with one thread, or within another call
/// it just runs it.
pub fn hot<R>(f: impl FnOnce() -> R) -> R {
    let others = rayon::current_num_threads() - 1;
    let Some(me) = rayon::current_thread_index().filter(|_| others > 0 && !HOT.get()) else {
        return f();
    };
    HOT.set(true);
    let state = Arc::new(AtomicUsize::new(0));
    let _guard = Guard(state.clone());
    let seen = state.clone();
    rayon::spawn_broadcast(move |thread| {
        if thread.index() != me {
            watch(&seen);
        }
    });
    // Who comes later might have taken this up in the middle of another task, which would then wait for the end.
    for _ in 0..WAIT {
        if state.load(Ordering::Acquire) == others {
            break;
        }
        std::hint::spin_loop();
    }
    state.fetch_or(CLOSED, Ordering::AcqRel);
    f()
}

/// Takes part in the work until it is over.
fn watch(state: &AtomicUsize) {
    let come = |s: usize| (s < CLOSED).then_some(s + 1);
    if state
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, come)
        .is_err()
    {
        return;
    }
    // What is called from here is within the same call.
    let before = HOT.replace(true);
    let mut idle = 0u32;
    while state.load(Ordering::Acquire) & OVER == 0 {
        if let Some(rayon::Yield::Executed) = rayon::yield_now() {
            idle = 0;
            continue;
        }
        idle = idle.saturating_add(1);
        if idle < PATIENCE {
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
    }
    HOT.set(before);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn sum() -> usize {
        (0..100_000usize).into_par_iter().map(|x| x % 7).sum()
    }

    #[test]
    fn work_and_its_panics_pass_through() {
        let alone = hot(sum);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let Ok(pool) = pool else { continue };
            for _ in 0..50 {
                assert_eq!(pool.install(|| hot(|| hot(sum) + sum())), 2 * alone);
            }
            // Several at once, from within tasks.
            let both = pool.install(|| rayon::join(|| hot(sum), || hot(sum)));
            assert_eq!(both, (alone, alone));
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.install(|| hot(|| panic!("on purpose")))
            }));
            assert!(failed.is_err());
            assert_eq!(pool.install(|| hot(sum)), alone);
        }
    }
}
