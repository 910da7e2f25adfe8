//! [`Tensor`]: a shape over shared, opaque storage; contiguous, row-major.

use crate::storage::Buffer;
use kernels::cpu::elementwise;
use kernels::cpu::gemm::gemm_bf16;
use kernels::math::{from_bf16, to_bf16};
use kernels::random::Counted;
use std::sync::Arc;

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Host memory.
    #[default]
    Cpu,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floating point: what every operation computes in today.
    #[default]
    F32,
    /// bfloat16: weights of models that only compute forward, half the memory to read.
    BF16,
}

/// Extents of a tensor, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }
    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.iter().product()
    }
}

#[derive(Debug)]
enum Storage {
    F32(Buffer),
    BF16(Vec<u16>),
}

impl Clone for Storage {
    fn clone(&self) -> Self {
        match self {
            Self::F32(b) => {
                let mut copy = Buffer::dirty(b.as_slice().len());
                copy.as_mut_slice().copy_from_slice(b.as_slice());
                Self::F32(copy)
            }
            Self::BF16(values) => Self::BF16(values.clone()),
        }
    }
}

/// A tensor. Cloning shares the storage; methods ending in `_` change it in place, copying first when it
/// is shared.
#[derive(Clone, Debug)]
pub struct Tensor {
    storage: Arc<Storage>,
    shape: Shape,
}

impl Tensor {
    fn new(buffer: Buffer, dims: &[usize]) -> Self {
        Self {
            storage: Arc::new(Storage::F32(buffer)),
            shape: Shape(dims.to_vec()),
        }
    }

    /// All zeros.
    pub fn zeros(dims: &[usize]) -> Self {
        Self::new(Buffer::zeroed(dims.iter().product()), dims)
    }

    /// Old values of a reused buffer: for outputs that a kernel overwrites entirely.
    pub(crate) fn dirty(dims: &[usize]) -> Self {
        Self::new(Buffer::dirty(dims.iter().product()), dims)
    }

    /// All elements `value`.
    pub fn full(dims: &[usize], value: f32) -> Self {
        let mut t = Self::dirty(dims);
        t.data_mut().fill(value);
        t
    }

    /// Takes host values, row-major.
    #[track_caller]
    pub fn from_vec(values: Vec<f32>, dims: &[usize]) -> Self {
        assert_eq!(
            values.len(),
            dims.iter().product::<usize>(),
            "from_vec: {} values for shape {dims:?}",
            values.len()
        );
        Self::new(Buffer::from_vec(values), dims)
    }

    /// Normal values with standard deviation `std`, counted.
    pub fn randn(dims: &[usize], std: f32, random: &Counted) -> Self {
        let n: usize = dims.iter().product();
        Self::from_vec(
            (0..n).map(|i| random.normal(i as u64) * std).collect(),
            dims,
        )
    }

    /// Host copy, row-major.
    pub fn to_vec(&self) -> Vec<f32> {
        match self.half() {
            None => self.data().to_vec(),
            Some(values) => values.iter().map(|&x| from_bf16(x)).collect(),
        }
    }

    /// The only element.
    #[track_caller]
    pub fn item(&self) -> f32 {
        assert_eq!(self.numel(), 1, "item: shape {:?}", self.dims());
        self.data()[0]
    }

    /// Extents.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Product of all extents but the last.
    pub fn rows(&self) -> usize {
        let d = self.dims();
        d[..d.len().saturating_sub(1)].iter().product()
    }

    /// The last extent (1 for a scalar shape).
    pub fn cols(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        match *self.storage {
            Storage::F32(_) => DType::F32,
            Storage::BF16(_) => DType::BF16,
        }
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> usize {
        match *self.storage {
            Storage::F32(_) => 4 * self.numel(),
            Storage::BF16(_) => 2 * self.numel(),
        }
    }

    /// The same values as bf16, rounded to nearest. Such a tensor is the weight of [`crate::Tape::linear`], the
    /// table of an embedding or of a cross-entropy, on a tape that does not record; everything else wants fp32.
    pub fn to_bf16(&self) -> Self {
        match &*self.storage {
            Storage::BF16(_) => self.clone(),
            Storage::F32(b) => Self {
                storage: Arc::new(Storage::BF16(
                    b.as_slice().iter().map(|&x| to_bf16(x)).collect(),
                )),
                shape: self.shape.clone(),
            },
        }
    }

    /// The same values as fp32.
    pub fn to_f32(&self) -> Self {
        match self.half() {
            None => self.clone(),
            Some(_) => Self::from_vec(self.to_vec(), self.dims()),
        }
    }

    /// The elements of a bf16 tensor.
    pub(crate) fn half(&self) -> Option<&[u16]> {
        match &*self.storage {
            Storage::BF16(values) => Some(values),
            Storage::F32(_) => None,
        }
    }

    /// The same storage under another shape.
    #[track_caller]
    pub fn reshape(&self, dims: &[usize]) -> Self {
        assert_eq!(
            self.numel(),
            dims.iter().product::<usize>(),
            "reshape: {:?} to {dims:?}",
            self.dims()
        );
        Self {
            storage: self.storage.clone(),
            shape: Shape(dims.to_vec()),
        }
    }

    #[track_caller]
    pub(crate) fn data(&self) -> &[f32] {
        match &*self.storage {
            Storage::F32(b) => b.as_slice(),
            Storage::BF16(_) => panic!("{:?} in bf16 where fp32 is wanted", self.dims()),
        }
    }

    #[track_caller]
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        match Arc::make_mut(&mut self.storage) {
            Storage::F32(b) => b.as_mut_slice(),
            Storage::BF16(_) => panic!("a bf16 tensor is not changed in place"),
        }
    }

    /// Sets every element.
    pub fn fill_(&mut self, value: f32) {
        self.data_mut().fill(value);
    }

    /// self_i = f(self_i, x_i)
    pub fn update_(&mut self, x: &Tensor, f: impl Fn(f32, f32) -> f32 + Copy + Sync) {
        elementwise::update(self.data_mut(), x.data(), f);
    }

    /// self += alpha x
    pub fn add_scaled_(&mut self, x: &Tensor, alpha: f32) {
        elementwise::add_scaled(self.data_mut(), x.data(), alpha);
    }

    /// self *= a
    pub fn scale_(&mut self, a: f32) {
        for v in self.data_mut() {
            *v *= a;
        }
    }

    /// self += w (x - self)
    pub fn lerp_(&mut self, x: &Tensor, w: f32) {
        kernels::cpu::optim::lerp(self.data_mut(), x.data(), w);
    }

    /// self = x, in place.
    #[track_caller]
    pub fn copy_(&mut self, x: &Tensor) {
        assert_eq!(self.dims(), x.dims(), "copy_: shapes");
        self.data_mut().copy_from_slice(x.data());
    }

    /// Writes the rows of `x` from row `at` on.
    #[track_caller]
    pub fn write_rows(&mut self, at: usize, x: &Tensor) {
        let d = self.cols();
        assert_eq!(
            d,
            x.cols(),
            "write_rows: {:?} into {:?}",
            x.dims(),
            self.dims()
        );
        self.data_mut()[at * d..at * d + x.numel()].copy_from_slice(x.data());
    }

    /// Writes row `src` of `x` to row `at`.
    pub fn write_row(&mut self, at: usize, x: &Tensor, src: usize) {
        let d = self.cols();
        self.data_mut()[at * d..][..d].copy_from_slice(&x.data()[src * d..][..d]);
    }

    /// Moves `n` rows within the tensor; the ranges may overlap.
    pub fn copy_rows_within(&mut self, src: usize, dst: usize, n: usize) {
        let d = self.cols();
        self.data_mut().copy_within(src * d..(src + n) * d, dst * d);
    }

    /// Rows `range` as a tensor of their own.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Tensor {
        let d = self.cols();
        Self::from_vec(
            self.data()[range.start * d..range.end * d].to_vec(),
            &[range.len(), d],
        )
    }

    /// Sum of squares, accumulated in f64 over fixed blocks.
    pub fn sum_sq(&self) -> f64 {
        elementwise::sum_sq(self.data())
    }

    /// Whether every element is finite.
    pub fn is_finite(&self) -> bool {
        self.data().iter().all(|v| v.is_finite())
    }

    /// The largest magnitude; 0 for an empty tensor.
    pub fn max_abs(&self) -> f32 {
        self.data()
            .iter()
            .fold(0.0, |m, v| if v.abs() > m { v.abs() } else { m })
    }

    /// a b, either operand transposed on request. a [M, K], b [K, N]. A transposed b may be bf16 where a is not
    /// transposed.
    #[track_caller]
    pub fn matmul(a: &Tensor, b: &Tensor, trans_a: bool, trans_b: bool) -> Tensor {
        let m = if trans_a { a.cols() } else { a.rows() };
        let n = if trans_b { b.rows() } else { b.cols() };
        let mut c = Tensor::dirty(&[m, n]);
        match b.half() {
            Some(half) if !trans_a && trans_b && a.cols() == b.cols() => {
                gemm_bf16(m, n, a.cols(), a.data(), half, c.data_mut());
            }
            _ => c.matmul_(a, b, trans_a, trans_b, 0.0),
        }
        c
    }

    /// self = beta self + a b, either operand transposed on request. With `beta` 0 old values are not read.
    #[track_caller]
    pub(crate) fn matmul_(
        &mut self,
        a: &Tensor,
        b: &Tensor,
        trans_a: bool,
        trans_b: bool,
        beta: f32,
    ) {
        // Rows, columns and the strides of both.
        let view = |t: &Tensor, trans: bool| {
            if trans {
                (t.cols(), t.rows(), 1, t.cols())
            } else {
                (t.rows(), t.cols(), t.cols(), 1)
            }
        };
        let (m, k, rsa, csa) = view(a, trans_a);
        let (kb, n, rsb, csb) = view(b, trans_b);
        assert!(
            k == kb && (m, n) == (self.rows(), self.cols()),
            "matmul: {:?} (transposed {trans_a}) by {:?} (transposed {trans_b}) into {:?}",
            a.dims(),
            b.dims(),
            self.dims()
        );
        kernels::cpu::gemm::gemm(
            m,
            n,
            k,
            1.0,
            a.data(),
            rsa,
            csa,
            b.data(),
            rsb,
            csb,
            beta,
            self.data_mut(),
            n,
        );
    }
}
