//! The largest elements of a tensor by magnitude, in O(n) and without a copy of it.
//!
//! The bits of a magnitude, read as an integer, are in the order of the magnitudes. One walk counts their upper 16
//! bits, which finds the bucket that the boundary lies in; a second walk counts the lower 16 bits within that
//! bucket, unless the numbers are bf16 and have none. The result is one number: what is larger stays, what
//! is smaller goes, and of those equal to it the earlier ones stay.

use kernels::multiversion;

const UPPER: usize = 1 << 15;
const LOWER: usize = 1 << 16;

/// Counts of magnitudes, to find the boundary of the `keep` largest.
pub(crate) struct Census {
    keep: u64,
    upper: Vec<[u32; 2]>,
    lower: Vec<u32>,
    /// The bucket that the boundary lies in.
    bucket: u32,
    /// How many of that bucket are kept.
    within: u64,
}

impl Census {
    /// For the `keep` largest of at most 2^32 elements.
    pub(crate) fn new(keep: usize) -> Census {
        Census {
            keep: keep as u64,
            upper: vec![[0; 2]; UPPER],
            lower: Vec::new(),
            bucket: 0,
            within: 0,
        }
    }

    /// The first walk. Neighbours are counted apart, since equal ones would wait for each other.
    pub(crate) fn count(&mut self, values: &[f32]) {
        let (pairs, rest) = values.as_chunks::<2>();
        for [a, b] in pairs {
            self.upper[(a.abs().to_bits() >> 16) as usize][0] += 1;
            self.upper[(b.abs().to_bits() >> 16) as usize][1] += 1;
        }
        for x in rest {
            self.upper[(x.abs().to_bits() >> 16) as usize][0] += 1;
        }
    }

    /// Ends the first walk.
    pub(crate) fn narrow(&mut self) {
        let upper = std::mem::take(&mut self.upper);
        let mut left = self.keep;
        for (bucket, counts) in upper.iter().enumerate().rev() {
            let count = u64::from(counts[0]) + u64::from(counts[1]);
            self.bucket = bucket as u32;
            if count >= left {
                break;
            }
            left -= count;
        }
        self.within = left;
    }

    /// The second walk, where the numbers are wider than 16 bits.
    pub(crate) fn count_within(&mut self, values: &[f32]) {
        self.lower.resize(LOWER, 0);
        for x in values {
            let bits = x.abs().to_bits();
            if bits >> 16 == self.bucket {
                self.lower[(bits & 0xffff) as usize] += 1;
            }
        }
    }

    /// The boundary.
    pub(crate) fn cut(&self) -> Cut {
        let (mut left, mut low) = (self.within, 0);
        for (bits, &count) in self.lower.iter().enumerate().rev() {
            low = bits as u32;
            if u64::from(count) >= left {
                break;
            }
            left -= u64::from(count);
        }
        Cut {
            boundary: self.bucket << 16 | low,
            equals: left,
        }
    }
}

/// A boundary, and how many of those equal to it are still to be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    boundary: u32,
    equals: u64,
}

multiversion! {
    fn count_equal(values: &[f32], bits: u32) -> u32 {
        values.iter().map(|x| u32::from(x.abs().to_bits() == bits)).sum()
    }
}
multiversion! {
    fn zero_below(values: &mut [f32], least: u32) {
        for x in values {
            *x = if x.abs().to_bits() >= least { *x } else { 0.0 };
        }
    }
}

impl Cut {
    /// Zeroes what is not kept of the next elements.
    pub(crate) fn apply(&mut self, values: &mut [f32]) {
        let equal = u64::from(count_equal(values, self.boundary));
        if equal <= self.equals {
            self.equals -= equal;
            zero_below(values, self.boundary);
            return;
        }
        let first = self.equals;
        self.equals = 0;
        if first == 0 {
            return zero_below(values, self.boundary + 1);
        }
        let mut left = first;
        for x in values {
            let bits = x.abs().to_bits();
            let kept = bits > self.boundary || bits == self.boundary && left > 0;
            left -= u64::from(kept && bits == self.boundary);
            *x = if kept { *x } else { 0.0 };
        }
    }
}

/// The boundaries of the `keep` largest in several tensors that are walked over together. `walk` calls its argument with
/// (tensor, block) for every block in order; it is called once or twice.
pub(crate) fn cuts(
    keep: &[usize],
    narrow_type: bool,
    mut walk: impl FnMut(&mut dyn FnMut(usize, &[f32])),
) -> Vec<Cut> {
    let mut census: Vec<Census> = keep.iter().map(|&k| Census::new(k)).collect();
    walk(&mut |tensor, block| census[tensor].count(block));
    census.iter_mut().for_each(Census::narrow);
    if !narrow_type {
        walk(&mut |tensor, block| census[tensor].count_within(block));
    }
    census.iter().map(Census::cut).collect()
}
