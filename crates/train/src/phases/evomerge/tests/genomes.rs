//! Genomes, what they decode to, how far they are apart.

use super::*;

#[test]
fn special_genomes_decode_to_parents_mean_and_task_arithmetic() {
    let parents = parents();
    let space = Space::of(&parents);
    for i in 0..3 {
        let child = decode(&Genome::parent(i, &parents), &parents);
        assert_eq!(child.weights, *parents.models[i]);
        assert_eq!(
            (child.threshold, &child.scales[..]),
            (parents.thresholds[i], &[1.0; BLOCKS][..])
        );
    }
    let linear = decode(&Genome::linear([1.0, 2.0, 1.0], space), &parents);
    let summed = decode(&Genome::arithmetic(0.4, space), &parents);
    for (name, base) in parents.ancestor.iter() {
        for (i, &b) in base.iter().enumerate() {
            let [x, y, z] = [0, 1, 2].map(|m| parents.models[m][name][i]);
            assert!((linear.weights[name][i] - (x + 2.0 * y + z) / 4.0).abs() < 1e-6);
            assert!((summed.weights[name][i] - b - 0.4 * (x + y + z - 3.0 * b)).abs() < 1e-6);
        }
    }
}

#[test]
fn one_lambda_means_the_same_size_to_dare_and_ties_whatever_the_weights_add_up_to() {
    let mut parents = parents();
    let same = parents.models[0].clone();
    parents.models = [same.clone(), same.clone(), same.clone()];
    let space = Space::of(&parents);
    for bits in [0, 2] {
        let plain = Genome {
            bits,
            density: 1.0,
            ..Genome::arithmetic(1.0 / 3.0, space)
        };
        let child = decode(
            &Genome {
                weights: [0.5; 3],
                ..plain
            },
            &parents,
        );
        for (name, tensor) in same.iter() {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(
                child.weights[name].iter().zip(tensor).all(close),
                "{name}, bits {bits}"
            );
        }
    }
}

#[test]
fn the_eight_neutral_combinations_are_eight_different_models() {
    let parents = parents();
    let space = Space::of(&parents);
    let hashes: std::collections::BTreeSet<String> = (0..8)
        .map(|bits| decode(&Genome::neutral(bits, space, 1), &parents).hash())
        .collect();
    assert_eq!(hashes.len(), 8);
    assert_eq!(combination_name(4), "100");
    assert!(Genome::neutral(4, space, 1).slerp() && Genome::neutral(2, space, 1).ties());
}

#[test]
fn selection_takes_each_layer_from_its_source_and_dfs_alone_scales_and_leaves_out() {
    let parents = parents();
    let mut genome = Genome::neutral(0, Space::of(&parents), 1);
    genome.sources = vec![
        Source::Parent(2),
        Source::Parent(0),
        Source::Interpolation,
        Source::Arithmetic,
    ];
    genome.shared = Source::Parent(1);
    genome.included[1] = false;
    genome.scales[2] = 1.5;
    let franken = decode(&genome, &parents);
    assert_eq!(franken.scales, [1.0; 4]);
    assert_eq!(franken.weights["b0.w"], parents.models[2]["b0.w"]);
    assert_eq!(franken.weights["b1.w"], parents.models[0]["b1.w"]);
    assert_eq!(franken.weights["embedding"], parents.models[1]["embedding"]);
    let dfs = decode(&Genome { bits: 1, ..genome }, &parents);
    assert_eq!(dfs.scales, [1.0, 0.0, 1.5, 1.0]);
    assert_eq!(dfs.weights, franken.weights);
    assert_ne!(dfs.hash(), franken.hash());
    assert_ne!(
        Child {
            threshold: 0.5,
            ..dfs.clone()
        }
        .hash(),
        dfs.hash()
    );
}

#[test]
fn distances_are_cosines_of_task_vectors_and_see_layers_left_out() {
    let parents = parents();
    let of = |i| Genome::parent(i, &parents);
    let (a, b) = (of(0), of(1));
    let without = Genome {
        bits: 1,
        included: vec![false, true, true, true],
        ..a.clone()
    };
    let members = [&a, &b, &a, &without];
    let matrix = distances(&members, &parents);
    assert!(matrix[0][2].abs() < 1e-12 && matrix[0][0] == 0.0);
    assert!(
        (matrix[0][1] - 1.0).abs() < 0.15,
        "independent directions: {}",
        matrix[0][1]
    );
    assert!(matrix[0][3] > 0.05, "one layer of four: {}", matrix[0][3]);
    let by_hand =
        (matrix[0][1] + matrix[0][2] + matrix[0][3] + matrix[1][2] + matrix[1][3] + matrix[2][3])
            / 6.0;
    assert!((mean_distance(&matrix) - by_hand).abs() < 1e-12);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = one.unwrap().install(|| distances(&members, &parents));
    assert_eq!(matrix, alone);
}
