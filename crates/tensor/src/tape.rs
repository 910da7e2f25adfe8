//! The tape: operations are recorded as they run and undone in reverse.
//!
//! A node holds its value, and a closure that turns the gradient of its value into gradients of its
//! inputs. [`Tape::backward`] consumes the nodes from the last to the first, so that activations return to
//! the pool as soon as nothing needs them. A tape made by [`Tape::inference`] keeps no closures.
//!
//! Gradients of parameters leave through *slots*: a leaf is bound to a slot of [`Grads`], which
//! accumulates over several backward passes (micro-batches).

use crate::Tensor;
use std::cell::{Cell, RefCell};

/// A value on a tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(pub(crate) u32);

type Backward = Box<dyn FnOnce(&Tensor, &mut Sink)>;

struct Node {
    /// None once forgotten.
    value: Option<Tensor>,
    dims: Vec<usize>,
    /// The value of an operation, not one that was given.
    computed: bool,
    needs_grad: bool,
    slot: Option<usize>,
    backward: Option<Backward>,
}

/// Records operations; see `ops` for what there is.
pub struct Tape {
    nodes: RefCell<Vec<Node>>,
    recording: bool,
    /// The largest attention score of each head seen so far, by the index that the caller gave.
    pub(crate) peaks: RefCell<Vec<(usize, Vec<f32>)>>,
    flops: Cell<u64>,
}

/// Gradients of parameters, one slot each; accumulates until cleared.
#[derive(Default, Debug)]
pub struct Grads {
    slots: Vec<Option<Tensor>>,
}

impl Grads {
    /// `n` empty slots.
    pub fn new(n: usize) -> Self {
        Self {
            slots: vec![None; n],
        }
    }
    /// The gradient in a slot; none when nothing reached it.
    pub fn get(&self, slot: usize) -> Option<&Tensor> {
        self.slots.get(slot).and_then(Option::as_ref)
    }
    /// The gradient in a slot, to change in place.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut Tensor> {
        self.slots.get_mut(slot).and_then(Option::as_mut)
    }
    /// Empties every slot; the buffers return to the pool.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|s| *s = None);
    }
    /// The gradient of each slot, to change in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Option<&mut Tensor>> {
        self.slots.iter_mut().map(Option::as_mut)
    }
    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Where backward closures put the gradients of their inputs.
pub(crate) struct Sink {
    grads: Vec<Option<Tensor>>,
    needs: Vec<bool>,
    dims: Vec<Vec<usize>>,
}

impl Sink {
    /// Whether a gradient for `x` is wanted at all.
    pub(crate) fn wants(&self, x: Var) -> bool {
        self.needs[x.0 as usize]
    }

    /// Adds `g` to the gradient of `x`.
    #[track_caller]
    pub(crate) fn add(&mut self, x: Var, g: Tensor) {
        let i = x.0 as usize;
        if !self.needs[i] {
            return;
        }
        assert_eq!(
            g.numel(),
            self.dims[i].iter().product::<usize>(),
            "gradient {:?} for value {:?}",
            g.dims(),
            self.dims[i]
        );
        match &mut self.grads[i] {
            Some(sum) => sum.add_scaled_(&g, 1.0),
            none => *none = Some(g.reshape(&self.dims[i])),
        }
    }

    /// The gradient of `x` for a product that ends in C = beta C + ...: the buffer, and beta. Before the first
    /// gradient beta is 0 and the buffer holds old values.
    pub(crate) fn target(&mut self, x: Var) -> (&mut Tensor, f32) {
        let i = x.0 as usize;
        let beta = if self.grads[i].is_some() { 1.0 } else { 0.0 };
        let dims = &self.dims[i];
        let buffer = self.grads[i].get_or_insert_with(|| Tensor::dirty(dims));
        (buffer, beta)
    }

    /// As [`Sink::target`], taken out, so that a kernel can write several at once; [`Sink::add`] puts it back.
    pub(crate) fn take(&mut self, x: Var) -> (Tensor, f32) {
        let i = x.0 as usize;
        match self.grads[i].take() {
            Some(sum) => (sum, 1.0),
            None => (Tensor::dirty(&self.dims[i]), 0.0),
        }
    }

    /// Adds the product a b to the gradient of `x`, either operand transposed on request.
    #[track_caller]
    pub(crate) fn add_product(
        &mut self,
        x: Var,
        a: &Tensor,
        b: &Tensor,
        trans_a: bool,
        trans_b: bool,
    ) {
        if self.wants(x) {
            let (gradient, beta) = self.target(x);
            gradient.matmul_(a, b, trans_a, trans_b, beta);
        }
    }

    /// The gradient buffer of `x`, zero at first, for kernels that add into it.
    pub(crate) fn buffer(&mut self, x: Var) -> &mut Tensor {
        let i = x.0 as usize;
        let dims = &self.dims[i];
        self.grads[i].get_or_insert_with(|| Tensor::zeros(dims))
    }
}

impl Tape {
    /// A tape that records for a backward pass.
    pub fn new() -> Self {
        Self {
            nodes: RefCell::default(),
            recording: true,
            peaks: RefCell::default(),
            flops: Cell::new(0),
        }
    }

    /// A tape for evaluation: values only.
    pub fn inference() -> Self {
        Self {
            recording: false,
            ..Self::new()
        }
    }

    /// Whether gradients are recorded.
    pub fn recording(&self) -> bool {
        self.recording
    }

    /// A value that gets no gradient.
    pub fn constant(&self, value: &Tensor) -> Var {
        self.insert(Node {
            value: Some(value.clone()),
            dims: value.dims().to_vec(),
            computed: false,
            needs_grad: false,
            slot: None,
            backward: None,
        })
    }

    /// A parameter whose gradient goes to `slot`.
    pub fn leaf(&self, value: &Tensor, slot: usize) -> Var {
        self.insert(Node {
            value: Some(value.clone()),
            dims: value.dims().to_vec(),
            computed: false,
            needs_grad: self.recording,
            slot: Some(slot),
            backward: None,
        })
    }

    /// The value of `x`.
    ///
    /// # Panics
    /// When it was forgotten.
    #[track_caller]
    pub fn value(&self, x: Var) -> Tensor {
        let nodes = self.nodes.borrow();
        let value = nodes[x.0 as usize].value.as_ref();
        value.expect("a value that was forgotten is read").clone()
    }

    /// The extents of `x`.
    pub fn dims(&self, x: Var) -> Vec<usize> {
        self.nodes.borrow()[x.0 as usize].dims.clone()
    }

    /// Rows of `x`.
    pub fn rows(&self, x: Var) -> usize {
        let nodes = self.nodes.borrow();
        let (cols, outer) = nodes[x.0 as usize].dims.split_last().unwrap_or((&1, &[]));
        outer.iter().product::<usize>() * usize::from(*cols > 0)
    }

    /// Last extent of `x`.
    pub fn cols(&self, x: Var) -> usize {
        let nodes = self.nodes.borrow();
        nodes[x.0 as usize].dims.last().copied().unwrap_or(1)
    }

    /// The place in the tape that has been reached, for [`Tape::forget`].
    pub fn mark(&self) -> usize {
        self.nodes.borrow().len()
    }

    /// Lets go of the values computed since `mark`, all but `keep`: what a backward pass needs is held by the
    /// operations themselves, and the rest returns to the pool. They can no longer be read.
    pub fn forget(&self, mark: usize, keep: &[Var]) {
        for (i, node) in self.nodes.borrow_mut().iter_mut().enumerate().skip(mark) {
            if node.computed && !keep.contains(&Var(i as u32)) {
                node.value = None;
            }
        }
    }

    /// Floating-point operations of the products recorded so far (forward only; a multiplication and an
    /// addition are two).
    pub fn flops(&self) -> u64 {
        self.flops.get()
    }

    pub(crate) fn count_flops(&self, n: usize) {
        self.flops.set(self.flops.get() + n as u64);
    }

    /// The largest attention score per head of each attention that was given a `site`, over this tape.
    pub fn attention_peaks(&self) -> Vec<(usize, Vec<f32>)> {
        self.peaks.borrow().clone()
    }

    fn insert(&self, node: Node) -> Var {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(node);
        Var(nodes.len() as u32 - 1)
    }

    pub(crate) fn needs_grad(&self, x: Var) -> bool {
        self.nodes.borrow()[x.0 as usize].needs_grad
    }

    /// Records an operation. `backward` gets the gradient of the value.
    pub(crate) fn push(
        &self,
        value: Tensor,
        inputs: &[Var],
        backward: impl FnOnce(&Tensor, &mut Sink) + 'static,
    ) -> Var {
        let needs_grad = self.recording && inputs.iter().any(|&x| self.needs_grad(x));
        let backward: Option<Backward> = if needs_grad {
            Some(Box::new(backward))
        } else {
            None
        };
        self.insert(Node {
            dims: value.dims().to_vec(),
            value: Some(value),
            computed: true,
            needs_grad,
            slot: None,
            backward,
        })
    }

    /// Adds the gradient of the scalar `root` with respect to every leaf to its slot of `grads`. The nodes
    /// are consumed: afterwards values of this tape can no longer be read.
    #[track_caller]
    pub fn backward(&self, root: Var, grads: &mut Grads) {
        let mut nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        let root_dims = &nodes[root.0 as usize].dims;
        assert_eq!(
            root_dims.iter().product::<usize>(),
            1,
            "backward: root has shape {root_dims:?}"
        );
        let mut sink = Sink {
            grads: vec![None; nodes.len()],
            needs: nodes.iter().map(|n| n.needs_grad).collect(),
            dims: nodes
                .iter_mut()
                .map(|n| std::mem::take(&mut n.dims))
                .collect(),
        };
        for (i, node) in nodes.iter().enumerate() {
            if let (Some(slot), true) = (node.slot, node.needs_grad) {
                sink.grads[i] = grads.slots[slot].take();
            }
        }
        let seed = Tensor::full(&sink.dims[root.0 as usize], 1.0);
        sink.add(root, seed);
        while let Some(node) = nodes.pop() {
            let i = nodes.len();
            if let Some(slot) = node.slot {
                // Several leaves may share a slot (tied weights): the first one carries the old sum.
                match (&mut grads.slots[slot], sink.grads[i].take()) {
                    (Some(sum), Some(g)) => sum.add_scaled_(&g, 1.0),
                    (none, Some(g)) => *none = Some(g),
                    (_, None) => {}
                }
            } else if let (Some(backward), Some(g)) = (node.backward, sink.grads[i].take()) {
                backward(&g, &mut sink);
            }
        }
    }
}

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}
