//! Counted random numbers: a pure function of (seed, purpose, step, index), never a stream.
//!
//! A value does not depend on what was drawn before it, so the order of work, the number of threads and a restart
//! change nothing. The mixing is SplitMix64's finaliser (Steele, Lea, Flood 2014) over an FNV-1a hash of the purpose;
//! it is for sampling, not for secrets.

/// 64 random bits.
pub fn bits(seed: u64, purpose: &str, step: u64, index: u64) -> u64 {
    let name = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    [name, step, index]
        .into_iter()
        .fold(mix(seed), |h, x| mix(h ^ mix(x)))
}

/// A number in [0, 1) with 53 random bits.
pub fn uniform(seed: u64, purpose: &str, step: u64, index: u64) -> f64 {
    (bits(seed, purpose, step, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// A whole number in 0..n; the bias of the multiplication is below n / 2^64.
#[track_caller]
pub fn below(n: u64, seed: u64, purpose: &str, step: u64, index: u64) -> u64 {
    assert!(n > 0, "random::below needs n > 0");
    ((u128::from(bits(seed, purpose, step, index)) * u128::from(n)) >> 64) as u64
}

/// The `i`-th element of a permutation of 0..n that (seed, purpose, step) names, without holding the permutation: a
/// four-round Feistel network over the next even power of two, walked until it lands below n (at most 4 tries a
/// call on average).
#[track_caller]
pub fn permuted(i: u64, n: u64, seed: u64, purpose: &str, step: u64) -> u64 {
    assert!(i < n, "random::permuted needs i < n, got i = {i}, n = {n}");
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2);
    let mask = (1u64 << half) - 1;
    let keys: [u64; 4] = std::array::from_fn(|round| bits(seed, purpose, step, round as u64));
    let mut x = i;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for key in keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        x = (left << half) | right;
        if x < n {
            return x;
        }
    }
}

pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
