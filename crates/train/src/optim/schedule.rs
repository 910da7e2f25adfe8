//! The learning rate over a run: warm up, stay, cool down.

use super::OptimConfig;

/// The factor of the learning rates at step `step` of `total`: linear from 0 over the warm-up, 1, then
/// linear towards 0 over the cool-down (warmup-stable-decay).
pub fn lr_scale(step: u64, total: u64, config: &OptimConfig) -> f32 {
    let total = total.max(1) as f64;
    let (warm, cool) = (config.warmup * total, config.cooldown * total);
    let up = if warm > 0.0 {
        (step as f64 + 1.0) / warm
    } else {
        1.0
    };
    let down = if cool > 0.0 {
        (total - step as f64) / cool
    } else {
        1.0
    };
    up.min(down).clamp(0.0, 1.0) as f32
}
