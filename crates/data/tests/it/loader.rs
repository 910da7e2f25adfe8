//! Batches: exact resume, coverage, shares, limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use data::{Batch, Family, Loader, LoaderState, Mix, Shard, ShardWriter, Split};

/// A shard of documents whose tokens are all different: document d of length n holds base, base + 1, ..
fn shard(name: &str, family: Family, base: u32, lengths: &[usize]) -> Arc<Shard> {
    let mut writer = ShardWriter::in_memory((name, family, Split::Train), "hash", 1 << 20);
    let mut next = base;
    for &length in lengths {
        let tokens: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        writer.push(&tokens, &[], &[name]).unwrap();
    }
    Arc::new(writer.finish().unwrap())
}

fn two() -> Vec<Arc<Shard>> {
    let short = [6; 40];
    let long = [100, 31, 5, 64, 1, 200];
    vec![
        shard("maths", Family::Maths, 0, &short),
        shard("prose", Family::Language, 100_000, &long),
    ]
}

fn loader(shards: Vec<Arc<Shard>>, weights: &[f64]) -> Loader {
    Loader::new(
        shards,
        Mix {
            weights: weights.to_vec(),
        },
        42,
        "test",
    )
}

/// The targets of a batch by shard.
fn targets(batches: &[Batch], dataset: u16) -> Vec<u32> {
    let pieces = batches
        .iter()
        .flat_map(|batch| &batch.pieces)
        .filter(|piece| piece.dataset == dataset);
    pieces
        .flat_map(|piece| piece.tokens[1..].to_vec())
        .collect()
}

#[test]
fn what_was_drawn_is_told_from_the_state_alone_and_each_piece_once() {
    let loader = loader(two(), &[0.7, 0.3]);
    let mut state = LoaderState::default();
    let batches: Vec<Batch> = (0..6).map(|_| loader.batch(&mut state, 64, 16)).collect();
    let places = loader.drawn(&state, 16);
    for dataset in 0..2 {
        let mut drawn = targets(&batches, dataset);
        let all = drawn.len();
        drawn.sort_unstable();
        drawn.dedup();
        let pieces = places.iter().map(|&place| loader.piece_at(place));
        let pieces = pieces.filter(|piece| piece.dataset == dataset);
        let mut told: Vec<u32> = pieces
            .flat_map(|piece| piece.tokens[1..].to_vec())
            .collect();
        told.sort_unstable();
        assert_eq!(told, drawn, "data set {dataset}");
        assert_eq!(
            all > drawn.len(),
            dataset == 0,
            "the short one was repeated"
        );
    }
}

#[test]
fn a_state_that_went_through_json_goes_on_with_the_same_batches() {
    let first = loader(two(), &[0.5, 0.5]);
    let mut state = LoaderState::default();
    for _ in 0..7 {
        first.batch(&mut state, 64, 16);
    }
    let text = serde_json::to_string(&state).unwrap();
    let going_on: Vec<Batch> = (0..20).map(|_| first.batch(&mut state, 64, 16)).collect();
    let (second, mut state) = (
        loader(two(), &[0.5, 0.5]),
        serde_json::from_str::<LoaderState>(&text).unwrap(),
    );
    let resumed: Vec<Batch> = (0..20).map(|_| second.batch(&mut state, 64, 16)).collect();
    assert_eq!(going_on, resumed);
    let other = Loader::new(
        two(),
        Mix {
            weights: vec![0.5, 0.5],
        },
        43,
        "test",
    );
    let mut state = serde_json::from_str::<LoaderState>(&text).unwrap();
    assert_ne!(other.batch(&mut state, 64, 16), resumed[0]);
}

#[test]
fn an_epoch_predicts_every_token_but_the_first_of_a_document_exactly_once() {
    let shards = two();
    let loader = loader(shards.clone(), &[0.0, 1.0]);
    let mut state = LoaderState::default();
    let mut epochs = Vec::new();
    for epoch in 1..=2 {
        let mut batches = Vec::new();
        // 100 -> 7 pieces, 31 -> 2, 5 -> 1, 64 -> 4, 1 -> none, 200 -> 13.
        while state.drawn.get(1).copied().unwrap_or(0) < 27 * epoch {
            batches.push(loader.batch(&mut state, 1, 16));
        }
        assert_eq!(loader.epochs(&state, 16)[1], epoch as f64);
        let order = targets(&batches, 1);
        let mut seen = order.clone();
        seen.sort_unstable();
        let expected: Vec<u32> = (0..shards[1].documents())
            .flat_map(|d| shards[1].tokens(d)[1..].to_vec())
            .collect();
        assert_eq!(seen, expected);
        epochs.push(order);
    }
    assert_ne!(epochs[0], epochs[1], "a new epoch has a new order");
}

#[test]
fn a_piece_knows_where_in_its_document_it_stands() {
    let loader = loader(two(), &[0.3, 0.7]);
    let mut state = LoaderState::default();
    for _ in 0..50 {
        for piece in loader.batch(&mut state, 100, 16).pieces {
            let shard = &loader.shards()[piece.dataset as usize];
            assert_eq!(piece.family, shard.family());
            assert_eq!(piece.loss.len() + 1, piece.tokens.len());
            assert!(piece.loss.len() <= 16 && !piece.loss.is_empty());
            let found = (0..shard.documents()).any(|d| {
                let start = piece.start as usize;
                let end = start + piece.tokens.len();
                shard.length(d) >= end && shard.tokens_in(d, start..end) == piece.tokens
            });
            assert!(found, "{piece:?}");
        }
    }
}

#[test]
fn the_loss_of_a_piece_is_the_mask_of_its_targets() {
    let mut writer = ShardWriter::in_memory(("x", Family::Maths, Split::Train), "hash", 100);
    writer
        .push(&[1, 2, 3, 4, 5, 0], &[3..4, 5..6], &[])
        .unwrap();
    let loader = loader(vec![Arc::new(writer.finish().unwrap())], &[1.0]);
    let mut state = LoaderState::default();
    let whole = loader.batch(&mut state, 5, 8).pieces;
    assert_eq!(whole[0].loss, [0.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn a_batch_holds_at_most_its_tokens_but_always_a_piece() {
    let loader = loader(two(), &[0.5, 0.5]);
    let mut state = LoaderState::default();
    for _ in 0..100 {
        let batch = loader.batch(&mut state, 64, 16);
        assert!(
            (49..=64).contains(&batch.predictions()),
            "{}",
            batch.predictions()
        );
    }
    assert_eq!(
        loader
            .batch(&mut LoaderState::default(), 1, 16)
            .pieces
            .len(),
        1
    );
}

#[test]
fn shares_are_of_tokens_however_long_the_documents_are() {
    let shards = vec![
        shard("short", Family::Maths, 0, &[4; 3000]),
        shard("long", Family::Language, 100_000, &[400; 100]),
    ];
    let loader = loader(shards, &[0.25, 0.75]);
    let mut state = LoaderState::default();
    let batches: Vec<Batch> = (0..120)
        .map(|_| loader.batch(&mut state, 256, 50))
        .collect();
    let (short, long) = (
        targets(&batches, 0).len() as f64,
        targets(&batches, 1).len() as f64,
    );
    let share = short / (short + long);
    assert!((share - 0.25).abs() < 0.03, "{share}");
}

#[test]
fn a_set_repeated_four_times_is_dropped_and_its_weight_goes_to_language() {
    let shards = vec![
        shard("maths", Family::Maths, 0, &[5; 10]),
        shard("code", Family::Code, 50_000, &[5; 2000]),
        shard("prose", Family::Language, 100_000, &[5; 2000]),
    ];
    let loader = loader(shards, &[0.6, 0.2, 0.2]);
    let mut state = LoaderState::default();
    while !state.dropped.first().copied().unwrap_or(false) {
        loader.batch(&mut state, 40, 8);
    }
    assert_eq!(state.drawn[0], 40);
    let before = state.drawn.clone();
    for _ in 0..100 {
        loader.batch(&mut state, 40, 8);
    }
    assert_eq!(state.drawn[0], 40);
    let (code, prose) = (
        (state.drawn[1] - before[1]) as f64,
        (state.drawn[2] - before[2]) as f64,
    );
    assert!(
        (prose / (code + prose) - 0.8).abs() < 0.05,
        "{code} {prose}"
    );
    state.begin_stage();
    for _ in 0..20 {
        loader.batch(&mut state, 40, 8);
    }
    assert!(state.drawn[0] > 40, "a new stage may repeat it again");
}

#[test]
fn when_everything_is_used_up_it_begins_again_and_says_so() {
    let loader = loader(vec![shard("maths", Family::Maths, 0, &[5; 3])], &[1.0]);
    let mut state = LoaderState::default();
    for _ in 0..6 {
        loader.batch(&mut state, 8, 8);
    }
    assert_eq!(state.rounds, 0);
    loader.batch(&mut state, 8, 8);
    assert_eq!((state.rounds, state.drawn[0]), (1, 14));
}

#[test]
fn a_mix_by_name_follows_the_order_of_the_shards() {
    let by_name = BTreeMap::from([
        ("prose".to_string(), 0.8),
        ("maths".to_string(), 0.2),
        ("absent".to_string(), 1.0),
    ]);
    assert_eq!(Mix::of(&by_name, &two()).weights, [0.2, 0.8]);
}
