//! Work that takes a machine to its limits, for whoever holds a clock: the yardsticks of benchmarks.

use crate::cpu::gemm;
use crate::isa::multiversion;
use crate::math::to_bf16;
use crate::precision::{self, Precision};
use rayon::prelude::*;

/// Runs the tile loop of matrix products on every thread of the pool at once, over operands that lie in the
/// first-level cache, `times` times each, in the precision in use; gives the floating-point operations of all
/// threads.
pub fn tiles(times: usize) -> f64 {
    if precision::in_use() == Precision::Bf16
        && let Some(operations) = tiles_of_bf16(times)
    {
        return operations;
    }
    // Whole tiles of every path, and less than 32 KiB.
    const ROWS: usize = 12;
    const COLUMNS: usize = 32;
    const DEPTH: usize = 128;
    let threads = rayon::broadcast(|_| {
        let (a, b) = (vec![0.5; ROWS * DEPTH], vec![0.25; DEPTH * COLUMNS]);
        let mut c = vec![0.0; ROWS * COLUMNS];
        for _ in 0..times {
            gemm::gemm_bare(ROWS, COLUMNS, DEPTH, &a, &b, &mut c);
        }
        std::hint::black_box(&c);
    });
    (2 * ROWS * COLUMNS * DEPTH * times) as f64 * threads.len() as f64
}

/// As [`tiles`], of bf16; none where the CPU has no products of it.
fn tiles_of_bf16(times: usize) -> Option<f64> {
    const SIDE: usize = 32;
    /// Steps for one of the loop in fp32.
    const MORE: usize = 16;
    let threads = rayon::broadcast(|_| {
        // Numbers as activations have them: how much current a tile draws depends on its bits.
        let values = (0..SIDE * SIDE).map(|i| to_bf16((i * 7919 % 1000) as f32 / 500.0 - 1.0));
        let values: Vec<u16> = values.collect();
        let mut c = vec![0.0; SIDE * SIDE];
        let done = gemm::gemm_bare_bf16(MORE * times, &values, &values, &mut c);
        std::hint::black_box(&c);
        done
    });
    let all = (2 * SIDE.pow(3) * MORE * times) as f64 * threads.len() as f64;
    threads.iter().all(|done| *done).then_some(all)
}

/// A product C [m, n] = A [m, k] B [k, n] of bf16 whose operands have been packed.
pub struct PackedProduct {
    #[cfg(target_arch = "x86_64")]
    ready: gemm::ready::Ready,
    c: Vec<f32>,
}

impl PackedProduct {
    /// Packs the rows of A [m, k] and the columns of B, given as [n, k]; None in fp32, or where the CPU has no products
    /// of bf16. Panics on other sizes.
    pub fn new([m, n, k]: [usize; 3], a: &[f32], b: &[f32]) -> Option<Self> {
        if precision::in_use() != Precision::Bf16 {
            return None;
        }
        let c = vec![0.0; m * n];
        #[cfg(target_arch = "x86_64")]
        return Some(Self {
            ready: gemm::ready::Ready::new([m, n, k], a, b)?,
            c,
        });
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (a, b, c, k);
            None
        }
    }

    /// Computes it on every thread of the pool; gives C.
    pub fn run(&mut self) -> &[f32] {
        #[cfg(target_arch = "x86_64")]
        self.ready.product(&mut self.c);
        &self.c
    }
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

/// Reads all of `data` once, on every thread of the pool; gives the bytes.
pub fn read(data: &[f32]) -> f64 {
    const TASK: usize = 1 << 18;
    let total: f64 = data.par_chunks(TASK).map(|c| f64::from(sum(c))).sum();
    std::hint::black_box(total);
    size_of_val(data) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa;

    #[test]
    fn the_bare_tile_loop_computes_products() {
        let mut c = vec![1.0; 24 * 64];
        gemm::gemm_bare(24, 64, 40, &[0.5; 24 * 40], &[0.25; 40 * 64], &mut c);
        assert!(c.iter().all(|&x| x == 6.0), "{c:?}");
        let (mut c, ones) = (vec![0.0; 1024], vec![to_bf16(1.0); 1024]);
        let done = gemm::gemm_bare_bf16(3, &ones, &ones, &mut c);
        assert_eq!(done, isa::detect().multiplies_bf16());
        assert!(!done || c.iter().all(|&x| x == 96.0), "{c:?}");
        assert_eq!(tiles_of_bf16(1).is_some(), done);
        let flops = tiles(1);
        assert_eq!(flops % (2 * 12 * 32 * 128) as f64, 0.0);
        assert_eq!(read(&[1.0; 300]), 1200.0);
    }

    #[test]
    fn a_packed_product_is_the_product() {
        let [m, n, k] = [70, 50, 33];
        let small = |i: usize, j: usize| ((i * 7 + j * 3) % 5) as f32 - 2.0;
        let a: Vec<f32> = (0..m * k).map(|x| small(x / k, x % k)).collect();
        let b: Vec<f32> = (0..n * k).map(|x| small(x % k, x / k)).collect();
        let found = PackedProduct::new([m, n, k], &a, &b);
        let of_bf16 = precision::in_use() == Precision::Bf16;
        assert_eq!(found.is_some(), of_bf16 && isa::detect().multiplies_bf16());
        let Some(mut found) = found else { return };
        let c = found.run();
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let sum: f32 = (0..k).map(|p| small(i, p) * small(p, j)).sum();
            assert_eq!(c[i * n + j], sum, "({i}, {j})");
        }
    }
}
