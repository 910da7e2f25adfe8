//! The two scans over the rows of a chunk, in closed form.
//!
//! With u_t the step of row t, momentum and memory (as its distance D from the learned slots) run
//! ```text
//! S_t = eta_t S_{t-1} + (1 - eta_t) u_t          D_t = (1 - alpha_t) D_{t-1} + S_t
//! ```
//! Only the ends matter, and both are linear in the start and in the steps u_t = -theta_t G_t:
//! ```text
//! S_T = decay S_0 + sum_t to_momentum_t G_t      to_momentum_t = -theta_t (1 - eta_t) after_t
//! D_T = keep D_0 + carry S_0 + sum_t to_memory_t G_t   to_memory_t = -theta_t (1 - eta_t) reach_t
//! after_T = kept_T = reach_T = 1
//! after_t = eta_{t+1} after_{t+1}                decay = eta_1 after_1
//! kept_t  = (1 - alpha_{t+1}) kept_{t+1}         keep  = (1 - alpha_1) kept_1
//! reach_t = kept_t + eta_{t+1} reach_{t+1}       carry = eta_1 reach_1
//! ```
//! All of it is one pass backwards over T numbers, done in f64: it costs nothing beside the
//! matrices, and products of 64 factors near one keep their digits.

/// The weights of one chunk for one head (see the module's text).
pub(super) struct Coefficients {
    after: Vec<f64>,
    kept: Vec<f64>,
    reach: Vec<f64>,
    pub(super) to_momentum: Vec<f32>,
    pub(super) to_memory: Vec<f32>,
    pub(super) decay: f32,
    pub(super) keep: f32,
    pub(super) carry: f32,
}

impl Coefficients {
    pub(super) fn of(eta: &[f32], theta: &[f32], alpha: &[f32]) -> Self {
        let t = eta.len();
        let (mut after, mut kept, mut reach) = (vec![1.0; t], vec![1.0; t], vec![1.0; t]);
        for i in (0..t.saturating_sub(1)).rev() {
            let (eta, alpha) = (f64::from(eta[i + 1]), f64::from(alpha[i + 1]));
            after[i] = eta * after[i + 1];
            kept[i] = (1.0 - alpha) * kept[i + 1];
            reach[i] = kept[i] + eta * reach[i + 1];
        }
        let weigh = |by: &[f64]| {
            let step = |i: usize| -f64::from(theta[i]) * (1.0 - f64::from(eta[i]));
            (0..t).map(|i| (step(i) * by[i]) as f32).collect()
        };
        Self {
            to_momentum: weigh(&after),
            to_memory: weigh(&reach),
            decay: (f64::from(eta[0]) * after[0]) as f32,
            keep: ((1.0 - f64::from(alpha[0])) * kept[0]) as f32,
            carry: (f64::from(eta[0]) * reach[0]) as f32,
            after,
            kept,
            reach,
        }
    }

    /// Gradients with respect to (eta, theta, alpha), given those of the two rows of weights and
    /// of (keep, carry, decay).
    pub(super) fn backward(
        &self,
        (eta, theta, alpha): (&[f32], &[f32], &[f32]),
        dto_memory: &[f32],
        dto_momentum: &[f32],
        (dkeep, dcarry, ddecay): (f64, f64, f64),
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let t = eta.len();
        let (mut deta, mut dtheta, mut dalpha) =
            (vec![0.0f64; t], vec![0.0f64; t], vec![0.0f64; t]);
        // Gradients of after_t, reach_t, kept_t as the pass reaches row t: those of decay, carry
        // and keep play the part of a row before the first.
        let (mut dafter, mut dreach, mut dkept) = (ddecay, dcarry, dkeep);
        for i in 0..t {
            let (eta, theta) = (f64::from(eta[i]), f64::from(theta[i]));
            let keep = 1.0 - f64::from(alpha[i]);
            deta[i] += dafter * self.after[i] + dreach * self.reach[i];
            dalpha[i] -= dkept * self.kept[i];
            let (dmemory, dmomentum) = (f64::from(dto_memory[i]), f64::from(dto_momentum[i]));
            let through = dmomentum * self.after[i] + dmemory * self.reach[i];
            dtheta[i] = -(1.0 - eta) * through;
            deta[i] += theta * through;
            let step = -theta * (1.0 - eta);
            dafter = dafter * eta + step * dmomentum;
            dreach = dreach * eta + step * dmemory;
            // reach_t = kept_t + ...: what reaches reach reaches kept as well.
            dkept = dkept * keep + dreach;
        }
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        (narrow(deta), narrow(dtheta), narrow(dalpha))
    }
}
