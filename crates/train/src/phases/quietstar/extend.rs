//! Step 0: the twelve tokens, the mixing head, and the start and end of thoughts join a model.
//!
//! A new row of the embedding starts at the mean of the old rows plus small noise. The mixing head starts
//! at a constant weight near zero, so that the model starts as it was.

use crate::Error;
use data::Tokenizer;
use data::builtin::SPECIAL_TOKENS;
use model::{Cognate, Params};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tensor::Tensor;
use tensor::random::Counted;

/// Bias of the mixing head at the start: weight sigmoid(-3) = 0.047.
pub const MIXING_BIAS: f32 = -3.0;
/// The mixing head has left zero once its mean weight exceeds this.
pub const MIXING_LEFT_ZERO: f64 = 0.06;
/// Noise of a new row, relative to the standard deviation of the embedding's elements.
const NOISE: f32 = 0.1;

/// What was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Tokens that the tokenizer did not have.
    pub tokens: usize,
    /// Parameters before.
    pub before: usize,
    /// Parameters after.
    pub after: usize,
}

/// The model and tokenizer with everything that Phase 3 needs; what is there already stays.
pub fn extend(
    model: &Cognate,
    tokenizer: &Tokenizer,
    mixing: usize,
    seed: u64,
) -> Result<(Cognate, Tokenizer, Added), Error> {
    let fresh_tokens: Vec<&str> = SPECIAL_TOKENS
        .into_iter()
        .filter(|t| tokenizer.id_of(t).is_none())
        .collect();
    let mut extended = tokenizer.clone();
    extended.add_special(&SPECIAL_TOKENS);
    let mut config = model.config.clone();
    // An embedding may hold more rows than the tokenizer has tokens; new tokens take those first.
    config.vocab = config.vocab.max(extended.vocab_size());
    if config.mixing == 0 {
        config.mixing = mixing;
    }
    let old = model.params.get("embed.weight");
    let (rows, width) = (old.rows(), old.cols());
    let mut table = Tensor::zeros(&[config.vocab, width]);
    table.write_rows(0, old);
    let values = old.to_vec();
    let used = tokenizer.vocab_size().min(rows);
    let mean: Vec<f32> = (0..width)
        .map(|c| values.iter().skip(c).step_by(width).take(used).sum::<f32>() / used.max(1) as f32)
        .collect();
    let spread =
        (values.iter().map(|x| x * x).sum::<f32>() / values.len().max(1) as f32).sqrt() * NOISE;
    for name in &fresh_tokens {
        let id = extended.id_of(name).expect("just added");
        let random = Counted::new(seed, "quietstar/new-token", u64::from(id));
        let row: Vec<f32> = mean
            .iter()
            .zip(0..)
            .map(|(m, i)| m + spread * random.normal(i))
            .collect();
        table.write_rows(id as usize, &Tensor::from_vec(row, &[1, width]));
    }
    let mut named: std::collections::BTreeMap<String, Tensor> = model
        .params
        .iter()
        .map(|(n, t)| (n.to_string(), t.clone()))
        .collect();
    let had_head = named.contains_key("mixing.out.bias");
    named.insert("embed.weight".into(), table);
    let fresh = |name: &str| name.starts_with("mixing.") || name.starts_with("thought.");
    let params =
        Params::from_named(&config, named, fresh, seed).map_err(|fault| Error::ModelFile {
            path: PathBuf::from("the model given to Phase 3"),
            fault,
        })?;
    let mut grown = Cognate {
        params,
        ..Cognate::empty(config)
    };
    if !had_head {
        grown
            .params
            .set("mixing.out.bias", Tensor::full(&[1], MIXING_BIAS));
    }
    let added = Added {
        tokens: fresh_tokens.len(),
        before: model.params.count(),
        after: grown.params.count(),
    };
    Ok((grown, extended, added))
}

/// Lets thoughts begin and end as the baked blocks do: start and end take over the embeddings of the two
/// brackets, so that a silent thought begins where the visible one was learned.
pub fn open_thoughts(model: &mut Cognate, tokenizer: &Tokenizer) {
    for (name, token) in [
        ("thought.start", SPECIAL_TOKENS[0]),
        ("thought.end", SPECIAL_TOKENS[1]),
    ] {
        let id = tokenizer
            .id_of(token)
            .expect("the twelve tokens were added") as usize;
        let row = model.params.get("embed.weight").slice_rows(id..id + 1);
        model.params.set(name, row);
    }
}
