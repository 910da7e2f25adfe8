//! Changing the number of memory slots of a model.
//!
//! Slots are stored per head, [H, S, hd]. Keeping fewer keeps the first S of each head. Padding adds slots
//! whose key *and* value are zero: such a slot reads nothing and its writes stay zero, so the function is
//! unchanged, test-time writes included (a zero value with a random key would not be).

use crate::cognate::Cognate;
use tensor::Tensor;

impl Cognate {
    /// The same model with `slots` memory slots a layer: truncated, or padded with zero slots.
    pub fn with_slots(&self, slots: usize) -> Self {
        let mut model = self.clone();
        model.config.slots = slots;
        let (old, new, hd, heads) = (
            self.config.slots_per_head(),
            model.config.slots_per_head(),
            self.config.head_width(),
            self.config.heads,
        );
        if old == new {
            return model;
        }
        let names: Vec<String> = self
            .params
            .names()
            .iter()
            .filter(|n| n.ends_with("memory.keys") || n.ends_with("memory.values"))
            .cloned()
            .collect();
        for name in names {
            let from = self.params.get(&name).to_vec();
            let mut to = vec![0.0; heads * new * hd];
            for h in 0..heads {
                let n = old.min(new) * hd;
                to[h * new * hd..][..n].copy_from_slice(&from[h * old * hd..][..n]);
            }
            let slot = model
                .params
                .slot(&name)
                .expect("the name comes from these parameters");
            *model.params.at_mut(slot) = Tensor::from_vec(to, &[heads, new, hd]);
        }
        model
    }
}
