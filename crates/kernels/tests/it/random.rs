//! Counted random numbers: functions of their address alone, with the distributions that they name.

use kernels::random::{Counted, hash};

#[test]
fn values_follow_from_seed_purpose_step_and_index_alone() {
    // Pinned: a run's numbers must not change with a release.
    assert_eq!(hash(42, 1, 2, 3), 0xba68_db99_6e86_2ed5);
    let r = Counted::new(42, "dropout", 7);
    let backwards: Vec<u64> = (0..100).rev().map(|i| r.bits(i)).collect();
    assert!(
        backwards
            .iter()
            .rev()
            .enumerate()
            .all(|(i, b)| *b == Counted::new(42, "dropout", 7).bits(i as u64))
    );
    let others = [
        Counted::new(43, "dropout", 7),
        Counted::new(42, "dropouts", 7),
        Counted::new(42, "dropout", 8),
    ];
    assert!(
        others
            .iter()
            .all(|o| (0..100).all(|i| o.bits(i) != r.bits(i)))
    );
}

#[test]
fn normals_and_uniforms_have_their_moments() {
    let r = Counted::new(1, "moments", 0);
    let n = 200_000;
    let normal: Vec<f64> = (0..n).map(|i| f64::from(r.normal(i))).collect();
    let moment = |k: i32| normal.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
    assert!(
        moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02,
        "{} {}",
        moment(1),
        moment(2)
    );
    assert!(
        moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1,
        "{} {}",
        moment(3),
        moment(4)
    );
    let neighbours: f64 = normal.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
    assert!(neighbours.abs() < 0.01, "{neighbours}");
    let uniform: Vec<f64> = (0..n).map(|i| r.uniform(i)).collect();
    assert!(uniform.iter().all(|u| (0.0..1.0).contains(u)));
    assert!((uniform.iter().sum::<f64>() / n as f64 - 0.5).abs() < 0.005);
}

#[test]
fn below_is_even_and_permutations_are_complete() {
    let r = Counted::new(1, "below", 0);
    let mut counts = [0; 7];
    (0..70_000).for_each(|i| counts[r.below(i, 7)] += 1);
    assert!(
        counts.iter().all(|c| (9_600..10_400).contains(c)),
        "{counts:?}"
    );
    for n in [0, 1, 2, 50] {
        let mut p = r.permutation(n);
        assert!(n < 50 || p.iter().enumerate().any(|(i, v)| i as u32 != *v));
        p.sort_unstable();
        assert!(p.iter().enumerate().all(|(i, v)| i as u32 == *v) && p.len() == n);
    }
}
