//! Evaluations written down as they are made, in the run's journal, so that a kill loses those in flight and no others.
//!
//! A generation that is begun again after a kill asks for the same evaluations in the same order; those that were finished
//! are answered from the journal, and a child all of whose evaluations are is not even made into a model. The search
//! counts them as scored, as it would have without the kill.

use super::{Candidate, Child, Evaluate, EvaluateError, Measures, Probe, Split};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};
use store::Journal;

/// An evaluator whose results are kept.
pub(super) struct Remembered<'a> {
    pub(super) inner: &'a dyn Evaluate,
    pub(super) journal: &'a Journal,
}

/// A child that becomes a model when something about it is not known.
struct Known<'a> {
    of: &'a Remembered<'a>,
    hash: String,
    child: Mutex<Option<Child>>,
    ready: OnceLock<Box<dyn Candidate + 'a>>,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept<T> {
    Found(T),
    Dead(String),
}

impl Evaluate for Remembered<'_> {
    fn set_hash(&self, split: Split) -> String {
        self.inner.set_hash(split)
    }

    fn items(&self, split: Split) -> usize {
        self.inner.items(split)
    }

    fn unigram(&self) -> f64 {
        self.inner.unigram()
    }

    fn ready<'a>(&'a self, child: Child) -> Box<dyn Candidate + 'a> {
        Box::new(Known {
            of: self,
            hash: child.hash(),
            child: Mutex::new(Some(child)),
            ready: OnceLock::new(),
        })
    }
}

impl<'a> Known<'a> {
    fn candidate(&self) -> &(dyn Candidate + 'a) {
        let make = || {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            let child = child.take().expect("a child is made into a model once");
            self.of.inner.ready(child)
        };
        &**self.ready.get_or_init(make)
    }

    /// What is known under a key, else what is found, which is then known.
    fn recall<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        find: impl FnOnce(&dyn Candidate) -> Result<T, EvaluateError>,
    ) -> Result<T, EvaluateError> {
        let failed = |e: store::Error| EvaluateError::Failed(Box::new(e));
        let entry = self.of.journal.cached(key).map_err(failed)?;
        let kept = match entry.map(|e| serde_json::from_value(e.value)) {
            Some(Ok(kept)) => kept,
            // An entry of another form, or one with a number that is not finite, is found anew.
            Some(Err(_)) | None => {
                let kept = match find(self.candidate()) {
                    Ok(found) => Kept::Found(found),
                    Err(EvaluateError::Dead(reason)) => Kept::Dead(reason),
                    Err(failed) => return Err(failed),
                };
                let json = serde_json::to_value(&kept).expect("plain data");
                self.of.journal.cache(key, &json).map_err(failed)?;
                kept
            }
        };
        match kept {
            Kept::Found(found) => Ok(found),
            Kept::Dead(reason) => Err(EvaluateError::Dead(reason)),
        }
    }
}

impl Candidate for Known<'_> {
    fn probe(&self) -> Result<Probe, EvaluateError> {
        let key = format!("evomerge/{}/probe", self.hash);
        self.recall(&key, |candidate| candidate.probe())
    }

    fn evaluate(&self, split: Split, items: Range<usize>) -> Result<Measures, EvaluateError> {
        let (hash, set) = (&self.hash, self.of.set_hash(split));
        let key = format!("evomerge/{hash}/{set}/{}-{}", items.start, items.end);
        self.recall(&key, |candidate| candidate.evaluate(split, items))
    }
}
