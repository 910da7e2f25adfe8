//! Models with weights in bf16 compute what the same weights, rounded, compute in fp32: whole texts, single
//! tokens, losses.

use crate::sample::{Draw, distance, model};
use model::llama::{Llama, LlamaConfig};
use model::{Batch, Cognate, LanguageModel, Params};
use tensor::random::Counted;
use tensor::{DType, Tensor};

/// The tensors that are bf16 in `narrow`, rounded alike but kept as fp32.
fn rounded(narrow: &Params, whole: &mut Params) -> usize {
    let mut changed = 0;
    for slot in 0..narrow.len() {
        if narrow.at(slot).dtype() == DType::BF16 {
            *whole.at_mut(slot) = narrow.at(slot).to_f32();
            changed += 1;
        }
    }
    changed
}

fn llama(seed: u64) -> Llama {
    let config = LlamaConfig {
        vocab: 50,
        width: 40,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 10,
        ffn: 60,
        eps: 1e-5,
        rope_theta: 1e4,
        tied: seed.is_multiple_of(2),
        positions: 128,
        bos: None,
        eos: Vec::new(),
    };
    let parts = config.specification().into_iter().enumerate();
    let parts = parts.map(|(i, (name, dims, role))| {
        let random = Counted::new(seed, "bf16", i as u64);
        (name, role, Tensor::randn(&dims, 0.3, &random))
    });
    Llama {
        params: Params::from_tensors(parts.collect()),
        config,
    }
}

/// Losses over texts, and the logits behind each token of a stream of several sequences.
fn figures(m: &dyn LanguageModel, d: &Draw, sequences: usize) -> Vec<f32> {
    let texts: Vec<Vec<u32>> = (0..sequences).map(|_| d.tokens(23, m.vocab())).collect();
    let batch = Batch::new(texts.iter().map(|t| (&t[..22], 0)));
    let targets: Vec<u32> = texts.iter().flat_map(|t| t[1..].to_vec()).collect();
    let mut all = m.nll(&batch, &targets);
    let mut stream = m.stream(sequences);
    for at in 0..6 {
        let entries: Vec<_> = texts.iter().map(|t| &t[at..=at]).enumerate().collect();
        all.extend(stream.extend(&entries).to_vec());
    }
    all
}

fn compare(narrow: &dyn LanguageModel, rounded: &dyn LanguageModel, seed: u64) {
    for sequences in [1, 9] {
        let (a, b) = (
            figures(narrow, &Draw::new(seed, "texts"), sequences),
            figures(rounded, &Draw::new(seed, "texts"), sequences),
        );
        assert!(a.iter().all(|x| x.is_finite()));
        let off = distance(&a, &b);
        assert!(off < 1e-4, "seed {seed}, {sequences} sequences: {off}");
    }
}

#[test]
fn a_llama_in_bf16_computes_what_its_rounded_weights_compute() {
    for seed in 0..4 {
        let mut whole = llama(seed);
        let mut narrow = whole.clone();
        narrow.narrow();
        assert!(rounded(&narrow.params, &mut whole.params) >= 15);
        compare(&narrow, &whole, seed);
    }
}

#[test]
fn a_cognate_in_bf16_computes_what_its_rounded_weights_compute() {
    for seed in 0..6 {
        let mut whole: Cognate = model(seed);
        let mut narrow = whole.clone();
        narrow.narrow();
        assert!(rounded(&narrow.params, &mut whole.params) > 5);
        compare(&narrow, &whole, seed);
    }
}
