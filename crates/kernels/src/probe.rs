//! What this machine can do at most, measured: the yardsticks that benchmarks hold operations against.

use crate::cpu::gemm;
use crate::isa::multiversion;
use rayon::prelude::*;
use std::time::Instant;

/// Samples of each measurement; the best counts, since whatever disturbs a sample only slows it.
const SAMPLES: usize = 15;

/// Multiplications and additions a second, of all threads of the pool together: the tile loop of matrix
/// products over operands that lie in the first-level cache.
pub fn arithmetic() -> f64 {
    // 6 x 16 and 12 x 32 tiles both divide these; A and B together take less than 32 KiB.
    const ROWS: usize = 12;
    const COLUMNS: usize = 32;
    const DEPTH: usize = 128;
    const TIMES: usize = 4000;
    let seconds = (0..SAMPLES).map(|_| {
        let each = rayon::broadcast(|_| {
            let (a, b) = (vec![0.5; ROWS * DEPTH], vec![0.25; DEPTH * COLUMNS]);
            let mut c = vec![0.0; ROWS * COLUMNS];
            let begun = Instant::now();
            for _ in 0..TIMES {
                gemm::gemm_bare(ROWS, COLUMNS, DEPTH, &a, &b, &mut c);
            }
            std::hint::black_box(&c);
            begun.elapsed().as_secs_f64()
        });
        each.into_iter().fold(0.0, f64::max)
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    (2 * ROWS * COLUMNS * DEPTH * TIMES * rayon::current_num_threads()) as f64 / best
}

multiversion! {
    fn sum(x: &[f32]) -> f32 {
        // Four registers of partial sums of the widest path, so that additions do not wait for one another.
        let mut acc = [0.0f32; 64];
        for c in x.chunks_exact(64) {
            for (a, x) in acc.iter_mut().zip(c) { *a += x; }
        }
        acc.iter().sum()
    }
}

/// Bytes read a second from memory beyond the caches, by all threads of the pool together.
pub fn bandwidth() -> f64 {
    const ELEMENTS: usize = 64 << 20;
    const TASK: usize = 1 << 18;
    let data = vec![1.0f32; ELEMENTS];
    let seconds = (0..SAMPLES).map(|_| {
        let begun = Instant::now();
        let total: f64 = data.par_chunks(TASK).map(|c| f64::from(sum(c))).sum();
        std::hint::black_box(total);
        begun.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    (4 * ELEMENTS) as f64 / best
}
