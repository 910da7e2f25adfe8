//! What a tensor's name says: which layer it belongs to, and what it is outside of layers.
//!
//! No list of architectures is kept. A layer's tensors carry its number between dots (`model.layers.3.mlp.up_proj.weight`); of
//! several such families the one counts that has as many members as `config.json` says the model has layers.
//! Tensors outside come before the layers when they are embeddings, and after them otherwise.

use crate::checkpoint::Checkpoint;
use std::collections::{BTreeMap, BTreeSet};

/// Keys of `config.json` for the number of layers, over the architectures.
pub(crate) const LAYER_KEYS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers"];

/// A model's names, taken apart.
pub(crate) struct Layout {
    /// Number of layers.
    pub(crate) layers: usize,
    /// What stands before a layer's number.
    prefix: String,
    /// What stands behind a layer's number, over all layers.
    pub(crate) inside: BTreeSet<String>,
    /// Names that belong to no layer.
    pub(crate) outside: BTreeSet<String>,
}

impl Layout {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Layout {
        let expected = checkpoint.number(LAYER_KEYS);
        let names = || checkpoint.tensors.keys().filter(|name| !is_computed(name));
        let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (prefix, layer, _) in names().filter_map(|name| apart(name)) {
            let (layers, tensors) = families.entry(prefix).or_default();
            *layers = (*layers).max(layer + 1);
            *tensors += 1;
        }
        let rank = |(layers, tensors): (usize, usize)| (Some(layers) == expected, tensors);
        let family = families.iter().max_by_key(|(_, counts)| rank(**counts));
        let (prefix, found) = family.map_or(("", 0), |(prefix, (layers, _))| (*prefix, *layers));
        let mut layout = Layout {
            layers: expected.filter(|_| found > 0).unwrap_or(found),
            prefix: prefix.to_owned(),
            inside: BTreeSet::new(),
            outside: BTreeSet::new(),
        };
        for name in names() {
            match apart(name) {
                Some((own, _, rest)) if own == prefix => layout.inside.insert(rest.to_owned()),
                _ => layout.outside.insert(name.clone()),
            };
        }
        layout
    }

    /// The name of a layer's tensor.
    pub(crate) fn name(&self, layer: usize, rest: &str) -> String {
        format!("{}{layer}{rest}", self.prefix)
    }
}

/// `model.layers.` and `3` and `.mlp.up_proj.weight`; the first number between dots is the layer's.
fn apart(name: &str) -> Option<(&str, usize, &str)> {
    let mut begin = 0;
    for part in name.split('.') {
        let end = begin + part.len();
        if begin > 0
            && end < name.len()
            && !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
        {
            return Some((&name[..begin], part.parse().ok()?, &name[end..]));
        }
        begin = end + 1;
    }
    None
}

/// Buffers that old checkpoints hold and every program computes for itself.
fn is_computed(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attn.masked_bias")
}

const EMBEDDINGS: &[&str] = &[
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
];
const HEADS: &[&str] = &["lm_head.weight", "embed_out.weight", "output.weight"];

fn is_one_of(name: &str, ends: &[&str]) -> bool {
    let behind = |end: &&str| {
        name.strip_suffix(*end)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    ends.iter().any(behind)
}

/// Whether a tensor outside of layers comes before them.
pub(crate) fn comes_first(name: &str) -> bool {
    let embeds = name.contains("embed") || is_one_of(name, &["wpe.weight", "wte.weight"]);
    embeds && !is_head(name)
}

/// Whether it is the embedding of input tokens.
pub(crate) fn is_embedding(name: &str) -> bool {
    is_one_of(name, EMBEDDINGS)
}

/// Whether it is the map to the logits, which models with tied embeddings leave out.
pub(crate) fn is_head(name: &str) -> bool {
    is_one_of(name, HEADS)
}

/// Whether its rows are tokens.
pub(crate) fn has_tokens(name: &str) -> bool {
    is_embedding(name) || is_head(name) || is_one_of(name, &["lm_head.bias"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_the_first_number_between_dots() {
        let name = "model.layers.12.block_sparse_moe.experts.3.w1.weight";
        let expected = ("model.layers.", 12, ".block_sparse_moe.experts.3.w1.weight");
        assert_eq!(apart(name), Some(expected));
        assert_eq!(apart("h.0.ln_1.weight"), Some(("h.", 0, ".ln_1.weight")));
        assert_eq!(apart("model.norm.weight"), None);
        assert_eq!(apart("model.v2.weight"), None);
    }

    #[test]
    fn embeddings_come_first_and_heads_last() {
        assert!(comes_first("model.embed_tokens.weight") && comes_first("transformer.wpe.weight"));
        assert!(!comes_first("gpt_neox.embed_out.weight") && !comes_first("model.norm.weight"));
        assert!(
            is_head("lm_head.weight")
                && has_tokens("lm_head.bias")
                && !is_head("my_lm_head.weight")
        );
    }
}
