//! Counted random numbers: every value is a pure function of (seed, purpose, step, index).
//!
//! Nothing is drawn from a shared stream, so thread count, order of work and resuming cannot change a
//! value. The generator is the splitmix64 finaliser (Steele, Lea, Flood 2014) chained over the words.

use crate::isa::multiversion;

/// Set off between the words of a hash.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One round of the splitmix64 finaliser.
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 64 random bits for a place in the program.
pub fn hash(seed: u64, purpose: u64, step: u64, index: u64) -> u64 {
    chain(
        chain(chain(mix(seed.wrapping_add(GOLDEN)), purpose), step),
        index,
    )
}

/// A hash with one more word.
#[inline(always)]
fn chain(z: u64, word: u64) -> u64 {
    mix(z.wrapping_mul(3).wrapping_add(word).wrapping_add(GOLDEN))
}

multiversion! {
    /// Zeroes x_i where the 53 upper bits of the hash of `first + i` are below `least`.
    fn zero_below(prefix: u64, first: u64, least: u64, x: &mut [f32]) {
        for (i, x) in x.iter_mut().enumerate() {
            let kept = chain(prefix, first.wrapping_add(i as u64)) >> 11 >= least;
            *x = if kept { *x } else { 0.0 };
        }
    }
}

/// Random numbers of one purpose at one step, addressed by index.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    seed: u64,
    purpose: u64,
    step: u64,
}

impl Counted {
    /// Numbers for `purpose` at `step` of the run with this seed.
    pub fn new(seed: u64, purpose: &str, step: u64) -> Self {
        // FNV-1a: a stable hash of the name.
        let purpose = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        Self {
            seed,
            purpose,
            step,
        }
    }

    /// 64 random bits.
    pub fn bits(&self, index: u64) -> u64 {
        hash(self.seed, self.purpose, self.step, index)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Zeroes x_i where `uniform(first + i)` is below `p`, as a mask of [`Counted::uniform`] would, several at once.
    pub fn drop_below(&self, p: f64, first: u64, x: &mut [f32]) {
        // A product with a power of two is exact, so the comparison of integers is that of the numbers.
        let least = (p * (1u64 << 53) as f64).ceil() as u64;
        let prefix = chain(
            chain(mix(self.seed.wrapping_add(GOLDEN)), self.purpose),
            self.step,
        );
        zero_below(prefix, first, least, x);
    }

    /// Standard normal (Irwin-Hall of twelve 10-bit and finer parts would be coarse: Box-Muller in f64).
    pub fn normal(&self, index: u64) -> f32 {
        let b = self.bits(index);
        let u = ((b >> 32) as f64 + 1.0) / 4_294_967_297.0;
        let v = (b & 0xffff_ffff) as f64 / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Uniform in 0..n. The bias is below n / 2^64.
    pub fn below(&self, index: u64, n: usize) -> usize {
        ((u128::from(self.bits(index)) * n as u128) >> 64) as usize
    }

    /// A permutation of 0..n (Fisher-Yates).
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut p: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i as u64, i + 1));
        }
        p
    }
}
