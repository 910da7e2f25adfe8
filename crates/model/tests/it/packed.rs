//! The packed form computes what the quantised training model computes, and damage is refused by name.

use crate::sample::{Draw, distance, logits, model};
use model::packed::{Embedding, Entry, Kind, may_be_ternary, pack, snap, unpack};
use model::{Batch, Cognate, Depth};
use tensor::ops::ternary::{Packing, Scale, TernarySettings};

/// A random model whose hidden matrices are ternary, each with settings of its own.
fn ternary(seed: u64) -> Cognate {
    let (mut m, d) = (model(seed), Draw::new(seed, "ternary"));
    let names: Vec<String> = m.params.names().to_vec();
    for name in names.into_iter().filter(|n| may_be_ternary(&m.params, n)) {
        let sparsity = d.choose(&[0.0, 0.1, 0.2]);
        let scale = d.choose(&[Scale::Absmean, Scale::Kept]);
        let settings = TernarySettings {
            sparsity,
            lambda: 1.0,
            scale,
        };
        m.ternary.insert(name, settings);
    }
    m
}

#[test]
fn a_packed_model_has_the_logits_of_the_quantised_one() {
    for seed in 0..40 {
        let m = ternary(seed);
        let d = Draw::new(seed, "packed");
        let batch = Batch::single(&d.tokens(2 * m.config.window, m.config.vocab));
        for (packing, embedding) in [
            (Packing::Base3, Embedding::Half),
            (Packing::TwoBit, Embedding::Eight),
        ] {
            let (entries, census) = pack(&m, packing, embedding);
            assert_eq!(
                census.ternary + census.kept,
                m.params.count(),
                "seed {seed}"
            );
            let packed = unpack(m.config.clone(), entries).unwrap();
            assert_eq!(packed.params.count(), m.params.count());
            let (a, ran) = logits(&snap(&m, embedding), &batch, Depth::Halting);
            let (b, ran_packed) = logits(&packed, &batch, Depth::Halting);
            let x = distance(&a, &b);
            assert!(x < 1e-3, "seed {seed}, {packing:?}: {x}");
            assert_eq!(ran, ran_packed, "seed {seed}");
        }
    }
}

#[test]
fn a_damaged_packed_model_is_refused_by_the_tensor_at_fault() {
    let m = ternary(3);
    let (entries, _) = pack(&m, Packing::Base3, Embedding::Eight);
    let refused = |name: &str, change: &dyn Fn(&mut Vec<Entry>, usize)| {
        let mut broken = entries.clone();
        let at = broken.iter().position(|e| e.name == name).unwrap();
        change(&mut broken, at);
        let message = unpack(m.config.clone(), broken).unwrap_err().to_string();
        let stem = [".trits", ".scale", ".int8", ".step"];
        let tensor = stem
            .iter()
            .find_map(|e| name.strip_suffix(e))
            .unwrap_or(name);
        assert!(message.contains(tensor), "{name}: {message}");
    };
    let matrix = m.ternary.keys().next().unwrap();
    let (trits, scale) = (format!("{matrix}.trits"), format!("{matrix}.scale"));
    for name in [
        &trits[..],
        &scale,
        "embed.weight.int8",
        "embed.weight.step",
        "core.z0",
        "norm.weight",
    ] {
        refused(name, &|all, at| drop(all.remove(at)));
        refused(name, &|all, at| all[at].bytes.truncate(1));
        refused(name, &|all, at| all[at].shape[0] += 1);
        refused(name, &|all, at| {
            all[at].kind = if all[at].kind == Kind::U8 {
                Kind::I8
            } else {
                Kind::U8
            }
        });
    }
    // 243 = 3^5: a byte that no five codes give.
    refused(&trits, &|all, at| all[at].bytes[0] = 243);
    refused(&scale, &|all, at| {
        all[at].bytes[..2].copy_from_slice(&0x7c00u16.to_le_bytes())
    });
    refused("norm.weight", &|all, at| {
        all[at].bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes())
    });
    refused("norm.weight", &|all, at| {
        all.push(Entry {
            name: "norm.weight.more".into(),
            ..all[at].clone()
        })
    });
}
