//! What optimizers need of tensors: fused updates and orthogonalisation.

use crate::Tensor;
pub use kernels::cpu::gemm::polar::Coefficients;
pub use kernels::cpu::optim::AdamW;

/// One AdamW step, in place.
#[track_caller]
pub fn adamw_(p: &mut Tensor, g: &Tensor, m: &mut Tensor, v: &mut Tensor, settings: AdamW) {
    assert!(
        p.numel() == g.numel() && p.numel() == m.numel() && p.numel() == v.numel(),
        "adamw_: parameter {:?}, gradient {:?}",
        p.dims(),
        g.dims()
    );
    kernels::cpu::optim::adamw(p.data_mut(), g.data(), m.data_mut(), v.data_mut(), settings);
}

/// Muon's quintic (Jordan et al. 2024), the same triple five times.
pub const QUINTIC: [Coefficients; 5] = [(3.4445, -4.7750, 2.0315); 5];

/// Polar Express (Amsel et al. 2025): the optimal triple of each of five iterations.
pub const POLAR_EXPRESS: [Coefficients; 5] = [
    (8.156_555, -22.483_293, 15.878_77),
    (4.042_93, -2.808_917_5, 0.500_017_8),
    (3.891_668, -2.772_484, 0.506_064_83),
    (3.285_753_7, -2.368_129_5, 0.464_490_24),
    (2.346_541_4, -1.709_782_8, 0.423_235_5),
];

/// The orthogonal factor of g [R, C], approximately: singular values are driven towards 1.
///
/// `norm_factor` divides the start besides its Frobenius norm (1.01 for Polar Express, 1 for the quintic).
/// The product runs over the shorter side.
pub fn newton_schulz(g: &Tensor, coefficients: &[Coefficients], norm_factor: f32) -> Tensor {
    let size = [g.rows(), g.cols()];
    let mut x = g.reshape(&size);
    let norm = (x.sum_sq().sqrt() as f32) * norm_factor + 1e-7;
    x.scale_(1.0 / norm);
    kernels::cpu::gemm::polar::polar(x.data_mut(), size, coefficients);
    x
}
