//! One row's cases: runs them, and remembers the worst error and a checksum of all that came out.

use kernels::random::Counted;
use rayon::ThreadPool;

/// Outputs of one case, in f64.
pub(super) type Wanted = Vec<Vec<f64>>;

pub(super) struct Trial {
    /// Whether products may round their operands to bf16.
    pub(super) rounds: bool,
    pools: [ThreadPool; 2],
    worst: (f64, String),
    bits: u64,
}

impl Trial {
    pub(super) fn new(rounds: bool) -> Self {
        let pools = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap()
        });
        let worst = (0.0, "no case".to_string());
        Self {
            rounds,
            pools,
            worst,
            bits: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// The worst error, the checksum, and the case that was worst.
    pub(super) fn outcome(self) -> (f64, u64, String) {
        (self.worst.0, self.bits, self.worst.1)
    }

    /// Runs a case; what comes out must be near to one of `wanted`.
    pub(super) fn compare_any(
        &mut self,
        case: &str,
        wanted: &[Wanted],
        run: impl Fn() -> Vec<Vec<f32>> + Sync + Send,
    ) {
        let outputs = self.pools[0].install(&run);
        let again = self.pools[1].install(&run);
        let bits =
            |x: &[Vec<f32>]| -> Vec<u32> { x.iter().flatten().map(|x| x.to_bits()).collect() };
        let all = bits(&outputs);
        assert!(
            all == bits(&again),
            "{case}: one thread and three give other bits"
        );
        for bits in all {
            // FNV-1a over words.
            self.bits = (self.bits ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3);
        }
        let errors = wanted.iter().map(|wanted| {
            assert_eq!(outputs.len(), wanted.len(), "{case}: outputs");
            let pairs = outputs.iter().zip(wanted).enumerate();
            pairs
                .map(|(i, (f, w))| (error(case, f, w), i))
                .fold((0.0, 0), |worst, x| if x.0 > worst.0 { x } else { worst })
        });
        let (off, at) = errors
            .reduce(|best, x| if x.0 < best.0 { x } else { best })
            .expect("something is wanted");
        if off >= self.worst.0 {
            self.worst = (off, format!("{case}, output {at}"));
        }
    }

    /// As [`Trial::compare_any`], where there is one way to be right.
    pub(super) fn compare(
        &mut self,
        case: &str,
        wanted: Wanted,
        run: impl Fn() -> Vec<Vec<f32>> + Sync + Send,
    ) {
        self.compare_any(case, &[wanted], run);
    }

    /// Wanted numbers by operands as they are and, where products may round them, by rounded ones.
    pub(super) fn by_operands(&self, wanted: impl Fn(fn(f32) -> f64) -> Wanted) -> Vec<Wanted> {
        let mut all = vec![wanted(f64::from)];
        if self.rounds {
            all.push(wanted(nearest));
        }
        all
    }
}

/// The value of the nearest bf16 number.
pub(super) fn nearest(x: f32) -> f64 {
    f64::from(kernels::math::from_bf16(kernels::math::to_bf16(x)))
}

fn error(case: &str, found: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len(), "{case}: length");
    let (mut top, mut most, mut far, mut all) = (0.0f64, 0.0f64, 0.0, 0.0);
    for (&f, &w) in found.iter().zip(wanted) {
        let off = (f64::from(f) - w).abs();
        if off.is_nan() {
            return f64::INFINITY;
        }
        (top, most) = (top.max(w.abs()), most.max(off));
        far += off * off;
        all += w * w;
    }
    match most > 0.0 {
        true => (most / top).max((far / all).sqrt()),
        false => 0.0,
    }
}

/// Normal numbers that follow from their purpose and count.
pub(crate) fn normals(n: usize, scale: f32, purpose: &str) -> Vec<f32> {
    let random = Counted::new(6, purpose, n as u64);
    (0..n as u64).map(|i| scale * random.normal(i)).collect()
}

pub(super) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Output buffers whose old values must not be read.
pub(super) fn unset(n: usize) -> Vec<f32> {
    vec![f32::NAN; n]
}

/// C [m, n] = A [m, k] B [k, n], each stored by rows or, where said, transposed.
pub(super) fn product(
    [m, n, k]: [usize; 3],
    (a, a_transposed): (&[f64], bool),
    (b, b_transposed): (&[f64], bool),
) -> Vec<f64> {
    assert!(a.len() == m * k && b.len() == k * n, "[{m}, {n}, {k}]");
    let rows: Vec<f64>;
    let b = match b_transposed {
        true => {
            rows = (0..k * n).map(|i| b[i % n * k + i / n]).collect();
            &rows
        }
        false => b,
    };
    let mut c = vec![0.0; m * n];
    for (i, c) in c.chunks_exact_mut(n).enumerate() {
        for p in 0..k {
            let x = if a_transposed {
                a[p * m + i]
            } else {
                a[i * k + p]
            };
            c.iter_mut().zip(&b[p * n..]).for_each(|(c, b)| *c += x * b);
        }
    }
    c
}
