//! Parameter counts, names, roles and refusals.

use crate::sample::{config, model};
use model::params::{Role, specification};
use model::{Cognate, Config, Params, Part};
use std::collections::{BTreeMap, BTreeSet};

/// The count of `specification`, written down once more by hand.
fn by_formula(c: &Config) -> usize {
    let (w, f, h, p) = (c.width, c.ffn, c.heads, c.prefix);
    let block = 4 * w * w + 3 * w * f + 2 * w + 2 * h + 2 * p * w;
    let memory = 3 * (w * w + 4 * w) + 2 * c.slots * (w / h) + 3 * h * (w + 1) + 2 * w * w + 3 * w;
    let memories = c.blocks.iter().filter(|b| b.memory).count();
    let mixing = if c.mixing > 0 {
        c.mixing * (2 * w + 2) + 1 + 2 * w
    } else {
        0
    };
    c.vocab * w
        + c.blocks.len() * block
        + memories * memory
        + 4 * w * w
        + 3 * w
        + (c.passes - 1) * (w + 1)
        + mixing
}

#[test]
fn the_parameter_count_follows_its_formula() {
    for seed in 0..40 {
        let mut c = config(seed);
        c.mixing = (seed % 3) as usize * 5;
        assert_eq!(c.parameters(), by_formula(&c), "{c:?}");
        assert_eq!(Cognate::new(c.clone(), seed).params.count(), c.parameters());
    }
}

#[test]
fn base_has_25_million_parameters() {
    for (slots, expected) in [(2048, 24_331_954), (8192, 25_904_818)] {
        let n = Config::new(8192, 512, 8, 608, slots, 3).parameters();
        println!(
            "base with {slots} slots: {n} parameters, {:.1} MB in fp32",
            n as f64 * 4e-6
        );
        assert_eq!(n, expected);
        assert!(n.abs_diff(25_000_000) <= 1_000_000, "{slots} slots: {n}");
    }
}

#[test]
fn muon_gets_the_hidden_matrices_and_nothing_else() {
    for seed in 0..20 {
        let mut c = config(seed);
        c.mixing = 4;
        for s in specification(&c) {
            let hidden = [
                ".q.weight",
                ".k.weight",
                ".v.weight",
                ".o.weight",
                "memory.gate.weight",
                "ffn.gate.weight",
                "ffn.up.weight",
                "ffn.down.weight",
                "core.in.weight",
                "core.out.weight",
            ];
            let expected = hidden.iter().any(|h| s.name.ends_with(h));
            assert_eq!(s.role == Role::Matrix, expected, "{}", s.name);
            assert!(
                s.role == Role::Other || s.dims.len() == 2,
                "{}: {:?}",
                s.name,
                s.dims
            );
        }
    }
}

#[test]
fn names_are_unique_and_tell_their_block() {
    for seed in 0..20 {
        let m = model(seed);
        let names: BTreeSet<&String> = m.params.names().iter().collect();
        assert_eq!(names.len(), m.params.len());
        let blocks: BTreeSet<usize> = m
            .params
            .names()
            .iter()
            .filter_map(|n| model::params::block_of(n))
            .collect();
        assert_eq!(blocks, (0..m.config.blocks.len()).collect());
        for (slot, name) in m.params.names().iter().enumerate() {
            assert_eq!(m.params.slot(name), Some(slot));
            assert_eq!(m.params.role(slot), specification(&m.config)[slot].role);
        }
    }
}

#[test]
fn a_fresh_block_is_the_identity() {
    // Output maps start at zero, so the depth of a fresh model does not matter beyond y + norm(z).
    let c = Config::new(11, 8, 2, 12, 4, 2);
    let m = Cognate::new(c, 3);
    for (name, t) in m.params.iter() {
        assert!(t.is_finite(), "{name}");
        if name.ends_with("attn.o.weight") || name.ends_with("ffn.down.weight") {
            assert_eq!(t.max_abs(), 0.0, "{name}");
        }
    }
    let w = 8;
    let into = m.params.get("core.in.weight").to_vec();
    for (r, row) in into.chunks(3 * w).enumerate() {
        let ones: Vec<usize> = (0..3 * w).filter(|&j| row[j] == 1.0).collect();
        assert_eq!(
            ones,
            [r, w + r, 2 * w + r],
            "the map into the core is the sum"
        );
        assert_eq!(row.iter().sum::<f32>(), 3.0);
    }
}

#[test]
fn the_same_seed_gives_the_same_model() {
    let (a, b, other) = (model(5), model(5), model(6));
    assert!(
        a.params
            .iter()
            .zip(b.params.iter())
            .all(|(a, b)| a.0 == b.0 && a.1.to_vec() == b.1.to_vec())
    );
    assert_ne!(
        a.params.get("embed.weight").to_vec(),
        other.params.get("embed.weight").to_vec()
    );
}

#[test]
fn tensors_by_name_make_the_same_model_again() {
    let m = model(4);
    let named: BTreeMap<_, _> = m
        .params
        .iter()
        .map(|(n, t)| (n.to_string(), t.clone()))
        .collect();
    let again = Params::from_named(&m.config, named.clone(), |_| false, 0).unwrap();
    assert!(
        m.params
            .iter()
            .zip(again.iter())
            .all(|(a, b)| a.0 == b.0 && a.1.to_vec() == b.1.to_vec())
    );

    let refused = |change: &dyn Fn(&mut BTreeMap<String, tensor::Tensor>)| {
        let mut values = named.clone();
        change(&mut values);
        Params::from_named(&m.config, values, |_| false, 0).unwrap_err()
    };
    let message = refused(&|v| drop(v.remove("core.z0")));
    assert!(
        message.contains("`core.z0`") && message.contains("missing"),
        "{message}"
    );
    let message = refused(&|v| drop(v.insert("core.z0".into(), tensor::Tensor::zeros(&[1, 99]))));
    assert!(
        message.contains("`core.z0`") && message.contains("99"),
        "{message}"
    );
    let message = refused(&|v| drop(v.insert("core.extra".into(), tensor::Tensor::zeros(&[1]))));
    assert!(message.contains("`core.extra`"), "{message}");

    let mut without = named.clone();
    without.remove("core.z0");
    let fresh = Params::from_named(&m.config, without, |n| n == "core.z0", 9).unwrap();
    assert_eq!(
        fresh.get("core.z0").to_vec(),
        Params::new(&m.config, 9).get("core.z0").to_vec()
    );
}

#[test]
fn a_config_that_no_model_can_have_is_refused_by_its_key() {
    let good = || Config::new(11, 8, 2, 12, 4, 2);
    let check = |key: &str, change: &dyn Fn(&mut Config)| {
        let mut c = good();
        change(&mut c);
        let e = c.validate().unwrap_err();
        assert!(
            e.key == key && e.to_string().contains(&format!("`{key}`")),
            "{key}: {e}"
        );
    };
    good().validate().unwrap();
    check("architecture", &|c| c.architecture = "mamba".into());
    check("vocab", &|c| c.vocab = 0);
    check("window", &|c| c.window = 0);
    check("heads", &|c| c.heads = 3);
    check("heads", &|c| c.heads = 8);
    check("slots", &|c| c.slots = 5);
    check("exit", &|c| c.exit.clear());
    check("act_threshold", &|c| c.act_threshold = 1.5);
    check("act_threshold", &|c| c.act_threshold = f32::NAN);
    check("passes", &|c| c.passes = 0);
    check("passes", &|c| {
        c.passes = 300;
        c.exit = vec![c.exit[0]; 299];
    });
    check("blocks", &|c| c.blocks.swap(0, 4));
    check("blocks", &|c| c.blocks.retain(|b| b.part != Part::Core));
    check("blocks", &|c| c.blocks[3].memory = true);
    check("blocks", &|c| c.blocks[3].scale = f32::NAN);
    check("eps", &|c| c.eps = 0.0);
    check("theta_max", &|c| c.theta_max = -0.1);
    check("rope_theta", &|c| c.rope_theta = 0.0);
    check("exit", &|c| c.exit[0].deviation = f32::NAN);
}
