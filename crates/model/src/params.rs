//! The tensors of a Cognate: names, shapes and initialisation in one place.
//!
//! Names are stable: checkpoints, merges and packed files are keyed by them. Departures from the textbook:
//! the embedding is tied to the head; queries and keys are normalised with one learned gain a head; the
//! output maps of attention and feed-forward start at zero, so that every block starts as the identity;
//! the map into the core starts as the sum x + y + z and the map out of it as the identity.

use crate::config::{CONV_WIDTH, Config, Part};
use std::collections::BTreeMap;
use tensor::random::Counted;
use tensor::{Tape, Tensor, Var};

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements one value.
    Constant(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// `n` identity matrices side by side: [W, n W].
    Identities(usize),
    /// The last tap of each channel is one: the convolution starts as the identity.
    LastTap,
    /// Momentum, write strength and forgetting of the memory: biases of their sigmoids.
    Rates,
}

/// Which optimizer a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A hidden matrix: Muon.
    Matrix,
    /// Embedding, norm, gain, gate, convolution or initial memory: AdamW.
    Other,
}

/// Name, shape, start and role of a tensor.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Stable name.
    pub name: String,
    /// Extents.
    pub dims: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Which optimizer it belongs to.
    pub role: Role,
}

/// Every tensor of a configuration, in a fixed order.
pub fn specification(c: &Config) -> Vec<Spec> {
    let mut list = Vec::new();
    let (w, f, hd) = (c.width, c.ffn, c.head_width());
    let mut add = |name: String, dims: &[usize], init, role| {
        list.push(Spec {
            name,
            dims: dims.to_vec(),
            init,
            role,
        })
    };
    use Init::{Constant, Identities, LastTap, Normal, Rates};
    use Role::{Matrix, Other};
    let fan_in = |n: usize| Normal(1.0 / (n as f32).sqrt());
    add(
        "embed.weight".into(),
        &[c.vocab, w],
        Normal(0.5 / (w as f32).sqrt()),
        Other,
    );
    for (i, block) in c.blocks.iter().enumerate() {
        let name = |s: &str| format!("blocks.{i}.{s}");
        add(name("norm1.weight"), &[w], Constant(1.0), Other);
        for m in ["q", "k", "v"] {
            add(
                name(&format!("attn.{m}.weight")),
                &[w, w],
                fan_in(w),
                Matrix,
            );
        }
        add(name("attn.o.weight"), &[w, w], Constant(0.0), Matrix);
        add(name("attn.q_gain"), &[c.heads], Constant(1.5), Other);
        add(name("attn.k_gain"), &[c.heads], Constant(1.0), Other);
        if c.prefix > 0 {
            add(name("attn.prefix_k"), &[c.prefix, w], Normal(1.0), Other);
            add(name("attn.prefix_v"), &[c.prefix, w], Normal(0.02), Other);
        }
        if block.memory {
            for m in ["q", "k", "v"] {
                add(
                    name(&format!("memory.{m}.weight")),
                    &[w, w],
                    fan_in(w),
                    Matrix,
                );
                add(
                    name(&format!("memory.conv_{m}.weight")),
                    &[w, CONV_WIDTH],
                    LastTap,
                    Other,
                );
            }
            let s = c.slots_per_head();
            add(name("memory.keys"), &[c.heads, s, hd], Normal(1.0), Other);
            add(
                name("memory.values"),
                &[c.heads, s, hd],
                Normal(0.3 / (s as f32).sqrt()),
                Other,
            );
            add(
                name("memory.rates.weight"),
                &[3 * c.heads, w],
                Normal(0.02),
                Other,
            );
            add(name("memory.rates.bias"), &[3 * c.heads], Rates, Other);
            add(name("memory.norm_attn.weight"), &[w], Constant(1.0), Other);
            add(
                name("memory.norm_memory.weight"),
                &[w],
                Constant(1.0),
                Other,
            );
            add(
                name("memory.gate.weight"),
                &[w, 2 * w],
                Normal(0.02),
                Matrix,
            );
            add(name("memory.gate.bias"), &[w], Constant(1.0), Other);
        }
        add(name("norm2.weight"), &[w], Constant(1.0), Other);
        add(name("ffn.gate.weight"), &[f, w], fan_in(w), Matrix);
        add(name("ffn.up.weight"), &[f, w], fan_in(w), Matrix);
        add(name("ffn.down.weight"), &[w, f], Constant(0.0), Matrix);
    }
    add("core.in.weight".into(), &[w, 3 * w], Identities(3), Matrix);
    add("core.z0".into(), &[1, w], Normal(0.02), Other);
    add("core.norm.weight".into(), &[w], Constant(1.0), Other);
    add("core.out.weight".into(), &[w, w], Identities(1), Matrix);
    if c.passes > 1 {
        add(
            "exit.weight".into(),
            &[c.passes - 1, w],
            Constant(0.0),
            Other,
        );
        add("exit.bias".into(), &[c.passes - 1], Constant(0.0), Other);
    }
    add("norm.weight".into(), &[w], Constant(1.0), Other);
    if c.mixing > 0 {
        add(
            "mixing.hidden.weight".into(),
            &[c.mixing, 2 * w],
            fan_in(2 * w),
            Other,
        );
        add(
            "mixing.hidden.bias".into(),
            &[c.mixing],
            Constant(0.0),
            Other,
        );
        add(
            "mixing.out.weight".into(),
            &[1, c.mixing],
            Constant(0.0),
            Other,
        );
        add("mixing.out.bias".into(), &[1], Constant(0.0), Other);
        add(
            "thought.start".into(),
            &[1, w],
            Normal(0.5 / (w as f32).sqrt()),
            Other,
        );
        add(
            "thought.end".into(),
            &[1, w],
            Normal(0.5 / (w as f32).sqrt()),
            Other,
        );
    }
    list
}

fn initial(spec: &Spec, seed: u64) -> Tensor {
    let dims = &spec.dims;
    let n: usize = dims.iter().product();
    match spec.init {
        Init::Constant(v) => Tensor::full(dims, v),
        Init::Normal(std) => Tensor::randn(
            dims,
            std,
            &Counted::new(seed, &format!("init/{}", spec.name), 0),
        ),
        Init::Identities(_) => Tensor::from_vec(
            (0..n)
                .map(|i| f32::from(u8::from((i % dims[1]) % dims[0] == i / dims[1])))
                .collect(),
            dims,
        ),
        Init::LastTap => Tensor::from_vec(
            (0..n)
                .map(|i| f32::from(u8::from(i % dims[1] == dims[1] - 1)))
                .collect(),
            dims,
        ),
        // sigmoid: momentum 0.5, half the largest write, forgetting of 0.1% a token.
        Init::Rates => Tensor::from_vec(
            (0..n)
                .map(|i| if i < 2 * n / 3 { 0.0 } else { -7.0 })
                .collect(),
            dims,
        ),
    }
}

/// Named tensors in a fixed order; the index of a tensor is its gradient slot.
#[derive(Clone, Debug)]
pub struct Params {
    names: Vec<String>,
    roles: Vec<Role>,
    tensors: Vec<Tensor>,
    index: BTreeMap<String, usize>,
    /// Elements of tensors that are held elsewhere, in packed form.
    elsewhere: usize,
}

impl Params {
    /// Freshly initialised tensors.
    pub fn new(config: &Config, seed: u64) -> Self {
        Self::build(specification(config), |spec| initial(spec, seed))
    }

    /// The given tensors, in their order.
    pub fn from_tensors(parts: Vec<(String, Role, Tensor)>) -> Self {
        let index = parts
            .iter()
            .enumerate()
            .map(|(i, p)| (p.0.clone(), i))
            .collect();
        let mut params = Self {
            index,
            ..Self::none()
        };
        for (name, role, tensor) in parts {
            params.names.push(name);
            params.roles.push(role);
            params.tensors.push(tensor);
        }
        params
    }

    /// No tensors at all.
    pub fn none() -> Self {
        Self::build(Vec::new(), |_| Tensor::zeros(&[0]))
    }

    fn build(specs: Vec<Spec>, mut make: impl FnMut(&Spec) -> Tensor) -> Self {
        let tensors = specs.iter().map(&mut make).collect();
        let index = specs
            .iter()
            .enumerate()
            .map(|(i, s)| (s.name.clone(), i))
            .collect();
        Self {
            roles: specs.iter().map(|s| s.role).collect(),
            names: specs.into_iter().map(|s| s.name).collect(),
            tensors,
            index,
            elsewhere: 0,
        }
    }

    /// Tensors of a configuration from named values. Names and shapes must match; a name that is missing
    /// is initialised only when `fresh` allows it.
    pub fn from_named(
        config: &Config,
        values: BTreeMap<String, Tensor>,
        fresh: impl Fn(&str) -> bool,
        seed: u64,
    ) -> Result<Self, String> {
        Self::from_named_without(config, values, fresh, |_| false, seed)
    }

    /// As [`Params::from_named`], but the tensors named by `elsewhere` are not held here: they have no
    /// elements and only count.
    pub fn from_named_without(
        config: &Config,
        mut values: BTreeMap<String, Tensor>,
        fresh: impl Fn(&str) -> bool,
        elsewhere: impl Fn(&str) -> bool,
        seed: u64,
    ) -> Result<Self, String> {
        let specs = specification(config);
        let absent: usize = specs
            .iter()
            .filter(|s| elsewhere(&s.name))
            .map(|s| s.dims.iter().product::<usize>())
            .sum();
        let mut fault = None;
        let mut params = Self::build(specs, |spec| match values.remove(&spec.name) {
            None if elsewhere(&spec.name) => Tensor::zeros(&[0]),
            Some(t) if t.dims() == &spec.dims[..] => t,
            Some(t) => {
                fault.get_or_insert(format!(
                    "tensor `{}` has shape {:?}, the config asks for {:?}",
                    spec.name,
                    t.dims(),
                    spec.dims
                ));
                t
            }
            None if fresh(&spec.name) => initial(spec, seed),
            None => {
                fault.get_or_insert(format!("tensor `{}` {:?} is missing", spec.name, spec.dims));
                Tensor::zeros(&[1])
            }
        });
        if let Some(name) = values.keys().next() {
            fault.get_or_insert(format!(
                "tensor `{name}` is in the file but not in the model of its config"
            ));
        }
        params.elsewhere = absent;
        fault.map_or(Ok(params), Err)
    }

    /// Turns the hidden matrices and those named into bf16: for models that only compute forward.
    pub fn narrow(&mut self, others: &[&str]) {
        for slot in 0..self.len() {
            let named = others.contains(&self.names[slot].as_str());
            if self.roles[slot] == Role::Matrix || named {
                self.tensors[slot] = self.tensors[slot].to_bf16();
            }
        }
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
    /// Total number of elements.
    pub fn count(&self) -> usize {
        self.tensors.iter().map(Tensor::numel).sum::<usize>() + self.elsewhere
    }
    /// Names in slot order.
    pub fn names(&self) -> &[String] {
        &self.names
    }
    /// Role of a slot.
    pub fn role(&self, slot: usize) -> Role {
        self.roles[slot]
    }
    /// Slot of a name.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
    /// Tensor of a slot.
    pub fn at(&self, slot: usize) -> &Tensor {
        &self.tensors[slot]
    }
    /// Tensor of a slot, to change.
    pub fn at_mut(&mut self, slot: usize) -> &mut Tensor {
        &mut self.tensors[slot]
    }
    /// Tensor of a name.
    #[track_caller]
    pub fn get(&self, name: &str) -> &Tensor {
        &self.tensors[self.expect(name)]
    }
    /// Replaces the tensor of a name; shapes must agree.
    #[track_caller]
    pub fn set(&mut self, name: &str, value: Tensor) {
        let slot = self.expect(name);
        assert_eq!(
            self.tensors[slot].dims(),
            value.dims(),
            "params: shape of `{name}`"
        );
        self.tensors[slot] = value;
    }
    /// Names, roles and tensors in slot order, the tensors to change in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, Role, &mut Tensor)> {
        let names = self.names.iter().map(String::as_str);
        let known = names.zip(self.roles.iter().copied());
        (known.zip(&mut self.tensors)).map(|((name, role), tensor)| (name, role, tensor))
    }
    /// Names and tensors in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }
    #[track_caller]
    fn expect(&self, name: &str) -> usize {
        *self
            .index
            .get(name)
            .unwrap_or_else(|| panic!("params: no tensor `{name}`"))
    }
}

/// What enters each linear map, summed over rows: for the calibration of compressed weights.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Rows seen, and the sum of squares of every column, by the name of the map's weight.
    pub squares: BTreeMap<String, (u64, Vec<f64>)>,
}

impl Inputs {
    /// Takes in rows x [N, I] of one map.
    pub fn add(&mut self, name: &str, x: &Tensor) {
        let cols = x.cols();
        let (rows, sums) = self
            .squares
            .entry(name.to_string())
            .or_insert_with(|| (0, vec![0.0; cols]));
        for row in x.to_vec().chunks(cols) {
            *rows += 1;
            sums.iter_mut()
                .zip(row)
                .for_each(|(s, v)| *s += f64::from(*v).powi(2));
        }
    }
}

/// Parameters bound to a tape: each becomes a leaf (or a constant, when frozen) on first use.
pub struct Bound<'a> {
    /// The tape.
    pub tape: &'a Tape,
    params: &'a Params,
    trainable: &'a dyn Fn(&str) -> bool,
    vars: std::cell::RefCell<Vec<Option<Var>>>,
    inputs: Option<&'a std::cell::RefCell<Inputs>>,
}

impl<'a> Bound<'a> {
    /// All parameters trainable.
    pub fn new(tape: &'a Tape, params: &'a Params) -> Self {
        Self::partly(tape, params, &|_| true)
    }

    /// Only the named ones trainable.
    pub fn partly(tape: &'a Tape, params: &'a Params, trainable: &'a dyn Fn(&str) -> bool) -> Self {
        Self {
            tape,
            params,
            trainable,
            vars: vec![None; params.len()].into(),
            inputs: None,
        }
    }

    /// All parameters, with what enters the linear maps taken down in `inputs`.
    pub fn watching(
        tape: &'a Tape,
        params: &'a Params,
        inputs: &'a std::cell::RefCell<Inputs>,
    ) -> Self {
        Self {
            inputs: Some(inputs),
            ..Self::new(tape, params)
        }
    }

    /// Takes down what enters a linear map, when that was asked for.
    pub(crate) fn watch(&self, name: &str, x: Var) {
        if let Some(inputs) = self.inputs {
            inputs.borrow_mut().add(name, &self.tape.value(x));
        }
    }

    /// Whether what enters linear maps is taken down.
    pub(crate) fn watches(&self) -> bool {
        self.inputs.is_some()
    }

    /// The leaf of a parameter.
    #[track_caller]
    pub fn var(&self, name: &str) -> Var {
        let slot = self.params.expect(name);
        if let Some(v) = self.vars.borrow()[slot] {
            return v;
        }
        let tensor = &self.params.tensors[slot];
        let v = if (self.trainable)(name) {
            self.tape.leaf(tensor, slot)
        } else {
            self.tape.constant(tensor)
        };
        self.vars.borrow_mut()[slot] = Some(v);
        v
    }
}

/// Whether a tensor belongs to a block, and to which.
pub fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Name of a part, for reports.
pub fn part_name(part: Part) -> &'static str {
    match part {
        Part::Stem => "stem",
        Part::Core => "core",
        Part::Tail => "tail",
    }
}
