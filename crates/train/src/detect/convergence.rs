//! Training that does not converge: a loss that rises, that stands still, or that is not finite.
//!
//! The thresholds are the plan's: a trend of more than 0.01 nats a step over the last hundred steps, a variance below
//! 0.001 over the last fifty, and losses that are not finite. A trend counts only where it is certain (its slope exceeds
//! its standard error several times), because a short history of small batches has slopes of that size by chance. The
//! history begins anew where the loss may jump for a good reason: with a stage of the curriculum, with the loops.

use super::Policy;
use crate::Error;
use serde::{Deserialize, Serialize};

/// When training counts as not converging, and what is done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvergenceRecipe {
    /// Who decides.
    pub policy: Policy,
    /// Most losses that a trend is fitted to.
    pub window: usize,
    /// Fewest losses that a trend is fitted to.
    pub shortest: usize,
    /// Rise of the loss in nats a step above which it diverges.
    pub trend: f64,
    /// Standard errors by which the trend must exceed zero.
    pub certainty: f64,
    /// Losses whose variance tells a plateau; 0 does not look for one.
    pub plateau_steps: usize,
    /// Variance in square nats below which the loss stands still.
    pub plateau: f64,
    /// Steps without a new lowest mean of `plateau_steps` losses that count as a plateau too (`ReduceLROnPlateau`); 0
    /// does not look.
    pub patience: u64,
    /// Steps in a row whose gradient is not finite.
    pub not_finite: u64,
    /// Standard deviations, and half a nat, by which the loss of a single batch exceeds those before it when the batch
    /// is left out as poisoned; 0 leaves none out.
    pub spike: f64,
    /// Steps between the weights that are kept to roll back to.
    pub keep_every: u64,
    /// Factor of the learning rates after a roll back.
    pub lower: f64,
    /// Factor of the learning rates on a plateau.
    pub lower_on_plateau: f64,
    /// Steps of warming up after a roll back.
    pub rewarm: u64,
    /// Remedies of one model; the next alert stops the run.
    pub remedies: u64,
}

impl Default for ConvergenceRecipe {
    fn default() -> Self {
        Self {
            policy: Policy::Automatic,
            window: 100,
            shortest: 16,
            trend: 0.01,
            certainty: 5.0,
            plateau_steps: 50,
            plateau: 0.001,
            patience: 0,
            not_finite: 3,
            spike: 8.0,
            keep_every: 20,
            lower: 0.3,
            lower_on_plateau: 0.5,
            rewarm: 10,
            remedies: 3,
        }
    }
}

impl ConvergenceRecipe {
    /// Refuses what cannot run.
    ///
    /// # Errors
    /// [`Error::Recipe`] naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        let fail = |key: &str, found: String, allowed: &str| {
            Err(Error::Recipe {
                key: format!("detectors.convergence.{key}"),
                found: format!("found {found}"),
                allowed: allowed.into(),
            })
        };
        if self.shortest < 3 || self.window < self.shortest {
            let found = format!("window {} and shortest {}", self.window, self.shortest);
            return fail(
                "window",
                found,
                "a trend needs 3 losses at least, and a window not shorter than its shortest",
            );
        }
        for (key, n) in [
            ("not_finite", self.not_finite),
            ("keep_every", self.keep_every),
        ] {
            if n == 0 {
                return fail(key, "0".into(), "it must be at least 1");
            }
        }
        for (key, x) in [
            ("lower", self.lower),
            ("lower_on_plateau", self.lower_on_plateau),
        ] {
            if !(x > 0.0 && x < 1.0) {
                return fail(key, x.to_string(), "a factor lies between 0 and 1");
            }
        }
        Ok(())
    }
}

/// Nats that a poisoned batch lies above those before at least, however little they vary.
const LEAST_SPIKE: f64 = 0.5;

/// What is wrong with a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signal {
    /// The loss rises, by so many nats a step.
    Diverging(f64),
    /// The loss stands still, with this variance; or for so many steps, where patience ran out.
    Plateau(f64),
    /// So many steps in a row had a gradient that is not finite.
    NotFinite(u64),
}

impl Signal {
    /// Name of the detector.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diverging(_) => "diverging",
            Self::Plateau(_) => "plateau",
            Self::NotFinite(_) => "not-finite",
        }
    }

    /// What was measured, and what it was compared with.
    pub fn measured(self, recipe: &ConvergenceRecipe) -> (f64, f64) {
        match self {
            Self::Diverging(slope) => (slope, recipe.trend),
            Self::Plateau(steps) if steps >= 1.0 => (steps, recipe.patience as f64),
            Self::Plateau(variance) => (variance, recipe.plateau),
            Self::NotFinite(steps) => (steps as f64, recipe.not_finite as f64),
        }
    }
}

/// The losses of one training since its history last began, and what was done about it so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The newest losses, at most as many as a detector looks at.
    losses: Vec<f64>,
    /// Steps in a row whose gradient was not finite.
    not_finite: u64,
    /// Whether the batch before was left out.
    spiked: bool,
    /// The lowest mean of `plateau_steps` losses, and steps since.
    best: Option<(f64, u64)>,
    /// Remedies applied.
    pub remedies: u64,
}

impl Watch {
    /// Whether a batch of this loss, in nats, is to be left out: it lies far above those before. Two in a row are no
    /// accident, so the second is not.
    pub fn poisoned(&mut self, loss: f64, recipe: &ConvergenceRecipe) -> bool {
        let newest = &self.losses[self.losses.len().saturating_sub(recipe.shortest)..];
        let enough = recipe.spike > 0.0 && newest.len() == recipe.shortest;
        let spiked = enough && !self.spiked && {
            let (mean, variance) = moments(newest);
            loss > mean + recipe.spike * variance.sqrt() + LEAST_SPIKE
        };
        self.spiked = spiked;
        spiked
    }

    /// Takes the loss of a step, in nats; `finite` says whether its gradient was.
    pub fn note(&mut self, loss: f64, finite: bool, recipe: &ConvergenceRecipe) {
        if !finite {
            self.not_finite += 1;
            return;
        }
        self.not_finite = 0;
        self.losses.push(loss);
        let longest = recipe.window.max(recipe.plateau_steps);
        if self.losses.len() > longest {
            self.losses.drain(..self.losses.len() - longest);
        }
        if recipe.patience > 0
            && let Some(now) = self.mean(recipe.plateau_steps)
        {
            self.best = match self.best {
                Some((best, since)) if best <= now => Some((best, since + 1)),
                _ => Some((now, 0)),
            };
        }
    }

    /// Forgets the losses, because they may jump for a good reason; what was done stays.
    pub fn begin(&mut self) {
        (self.losses, self.best) = (Vec::new(), None);
    }

    /// Goes on as if nothing had been seen, because a person said so.
    pub fn overlook(&mut self) {
        self.begin();
        self.not_finite = 0;
    }

    /// Counts a remedy, and begins anew.
    pub fn repaired(&mut self) {
        *self = Self {
            remedies: self.remedies + 1,
            ..Self::default()
        };
    }

    /// Mean of the newest `n` losses, where there are as many.
    pub fn mean(&self, n: usize) -> Option<f64> {
        let from = self.losses.len().checked_sub(n).filter(|_| n > 0)?;
        Some(self.losses[from..].iter().sum::<f64>() / n as f64)
    }

    /// What is wrong now, if anything.
    pub fn signal(&self, recipe: &ConvergenceRecipe) -> Option<Signal> {
        if self.not_finite >= recipe.not_finite {
            return Some(Signal::NotFinite(self.not_finite));
        }
        let newest = &self.losses[self.losses.len().saturating_sub(recipe.window)..];
        if newest.len() >= recipe.shortest {
            let (slope, error) = trend(newest);
            if slope > recipe.trend && slope > recipe.certainty * error {
                return Some(Signal::Diverging(slope));
            }
        }
        if recipe.plateau_steps > 0 && self.losses.len() >= recipe.plateau_steps {
            let (_, variance) = moments(&self.losses[self.losses.len() - recipe.plateau_steps..]);
            if variance < recipe.plateau {
                return Some(Signal::Plateau(variance));
            }
        }
        match self.best {
            Some((_, since)) if since >= recipe.patience => Some(Signal::Plateau(since as f64)),
            _ => None,
        }
    }
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (
        mean,
        values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n,
    )
}

/// Slope of the least-squares line through equally spaced values, and its standard error.
fn trend(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let (mid, mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (i, v) in values.iter().enumerate() {
        let (x, y) = (i as f64 - mid, v - mean);
        (xx, xy, yy) = (xx + x * x, xy + x * y, yy + y * y);
    }
    let slope = xy / xx;
    let residual = (yy - slope * xy).max(0.0) / (n - 2.0);
    (slope, (residual / xx).sqrt())
}
