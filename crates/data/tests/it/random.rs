//! Counted random numbers.

use data::random::{below, bits, permuted, uniform};

#[test]
fn a_value_depends_on_each_of_its_four_keys_and_is_pinned() {
    let base = bits(42, "loader", 7, 3);
    assert_eq!(base, bits(42, "loader", 7, 3));
    for other in [
        bits(43, "loader", 7, 3),
        bits(42, "loade", 7, 3),
        bits(42, "loader", 8, 3),
        bits(42, "loader", 7, 4),
        bits(42, "loader", 3, 7),
    ] {
        assert_ne!(base, other);
    }
    // A released value: every run on disk depends on it.
    assert_eq!(bits(0, "", 0, 0), PINNED);
}

const PINNED: u64 = 38459122373039456;

#[test]
fn uniform_numbers_fill_their_range_evenly() {
    let n = 20_000;
    let mut counts = [0; 10];
    let mut sum = 0.0;
    for i in 0..n {
        counts[below(10, 1, "even", 0, i) as usize] += 1;
        let x = uniform(1, "even", 1, i);
        assert!((0.0..1.0).contains(&x));
        sum += x;
    }
    assert!(
        counts.iter().all(|&c| (1800..2200).contains(&c)),
        "{counts:?}"
    );
    assert!((sum / n as f64 - 0.5).abs() < 0.01);
}

#[test]
fn a_permutation_meets_every_element_once_and_changes_with_the_epoch() {
    for n in [1, 2, 3, 5, 16, 17, 1000] {
        let order = |epoch| {
            (0..n)
                .map(|i| permuted(i, n, 9, "docs", epoch))
                .collect::<Vec<_>>()
        };
        let mut sorted = order(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        if n >= 16 {
            assert_ne!(order(0), order(1));
            assert_ne!(order(0), sorted);
        }
    }
}
