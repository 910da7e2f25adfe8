//! The phase around the search: parents from Phase 1, the search and its random baseline, the champion, and its
//! comparison on the held-out split.

use super::judge::weights;
use super::remember::Remembered;
use super::{
    Audit, Contender, Error as SearchError, EvaluateError, EvomergeRecipe, Judge, Material,
    Measures, Parents, Search, Split, combination_name, decode, fitness,
};
use crate::checkpoint::{load_final, save_final};
use crate::detect::Question;
use crate::phase::folder;
use crate::{Context, Error, Phase};
use model::Cognate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Bag;

const VERSION: u32 = 5;

/// The phase.
pub struct EvomergePhase {
    pub(super) parents: Parents,
    template: Cognate,
    material: Arc<Material>,
    pub(super) search: Search,
    random: Option<Search>,
    pub(super) results: Results,
    recipe: EvomergeRecipe,
    pub(super) line: String,
}

/// What the phase found out beside the search's own state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Results {
    pub(super) champion: Option<super::Champion>,
    pub(super) comparison: Vec<Contender>,
    /// Held-out fitness of what the search does not see: by the name of a final model of Phase 1.
    pub(super) controls: BTreeMap<String, f64>,
    pub(super) best_parent: usize,
    pub(super) nats_difference: Option<(f64, f64)>,
    pub(super) audit: Option<Audit>,
    pub(super) watched: super::watch::Watched,
    written: bool,
}

/// Loads the parents from the final models of Phase 1 (ancestor, then the three branches), with a model of their
/// configuration; smaller memories are padded.
///
/// # Errors
/// What is wrong with a file.
pub fn parents_of(files: &[PathBuf; 4]) -> Result<(Parents, Cognate), Error> {
    let models = files.iter().map(|p| Ok(load_final(p)?.0));
    let mut models = models.collect::<Result<Vec<_>, Error>>()?;
    let slots = models.iter().map(|m| m.config.slots).max();
    let slots = slots.expect("four models");
    models = models.iter().map(|m| m.with_slots(slots)).collect();
    let thresholds = [1, 2, 3].map(|i| f64::from(models[i].config.act_threshold));
    let arcs: Vec<_> = models.iter().map(|m| Arc::new(weights(m))).collect();
    let parents = Parents {
        ancestor: arcs[0].clone(),
        models: [arcs[1].clone(), arcs[2].clone(), arcs[3].clone()],
        block_of: model::params::block_of,
        blocks: models[0].config.blocks.len(),
        thresholds,
    };
    Ok((parents, models.swap_remove(0)))
}

/// A judge whose results are kept in the run's journal.
fn remembered<'a>(judge: &'a Judge, cx: &'a Context) -> Remembered<'a> {
    Remembered {
        inner: judge,
        journal: cx.run.journal(),
    }
}

impl EvomergePhase {
    /// The files of Phase 1 in a run.
    pub fn inputs(run: &store::Run) -> [PathBuf; 4] {
        let file = |n: &str| {
            let folder = run.dir().join(folder("cognate")).join("final");
            folder.join(format!("{n}.safetensors"))
        };
        ["ancestor", "reasoning", "memory", "speed"].map(file)
    }

    /// Begins the phase from the final models of Phase 1.
    pub fn start(cx: &Context, files: &[&Path; 4]) -> Result<Self, Error> {
        let r = &cx.recipe.evomerge;
        let (parents, template) = parents_of(&files.map(Path::to_path_buf))?;
        let search = Search::new(r.settings(cx.recipe.seed), &parents)?;
        Ok(Self {
            parents,
            template,
            material: Arc::new(Material::new(cx.source, r.sequence)),
            search,
            random: None,
            results: Results::default(),
            recipe: r.clone(),
            line: String::new(),
        })
    }

    /// Goes on from a checkpoint.
    pub fn restore(cx: &Context, files: &[&Path; 4], bag: &Bag) -> Result<Self, Error> {
        if bag.version != VERSION {
            let found = format!(
                "its version is {}, this program reads {VERSION}",
                bag.version
            );
            return Err(Error::bag("evomerge", found));
        }
        let get = |key: &str| bag.json[key].clone();
        let bad = |e: serde_json::Error| Error::bag("evomerge", e);
        Ok(Self {
            search: serde_json::from_value(get("search")).map_err(bad)?,
            random: serde_json::from_value(get("random")).map_err(bad)?,
            results: serde_json::from_value(get("results")).map_err(bad)?,
            ..Self::start(cx, files)?
        })
    }

    fn judge<'a>(&'a self, material: &'a Material, cx: &'a Context) -> Judge<'a> {
        Judge {
            material,
            tokenizer: &cx.source.tokenizer,
            template: &self.template,
        }
    }

    fn random_done(&self) -> bool {
        let enough = |r: &Search| r.scored() >= self.search.scored();
        !self.recipe.random_search || self.random.as_ref().is_some_and(enough)
    }

    fn generation(&mut self, cx: &Context) -> Result<(), Error> {
        if self.held_before(cx)? {
            return Ok(());
        }
        let mut search = self.search.clone();
        let judge = self.judge(&self.material, cx);
        let judge = remembered(&judge, cx);
        let g = search.next_generation(&self.parents, &judge)?.clone();
        let key = cx.key(folder("evomerge"), "", g.generation);
        for (name, value) in [
            ("generation", g.generation as f64),
            ("best_fitness", g.best_fitness),
            ("mean_fitness", g.mean_fitness),
            ("diversity", g.diversity),
            ("improvement", g.improvement),
            ("scored_items", g.work.scored_items as f64),
            ("rejected", g.work.rejected as f64),
        ] {
            cx.metric(&key, name, value)?;
        }
        self.line = format!(
            "generation {} best {:.4} mean {:.4} diversity {:.2}",
            g.generation, g.best_fitness, g.mean_fitness, g.diversity
        );
        self.search = search;
        self.look_after(cx, &g)
    }

    fn random_generation(&mut self, cx: &Context) -> Result<(), Error> {
        let mut random = match self.random.clone() {
            Some(r) => r,
            None => self.search.random_baseline(&self.parents)?,
        };
        let judge = self.judge(&self.material, cx);
        let judge = remembered(&judge, cx);
        random.next_generation(&self.parents, &judge)?;
        self.line = format!(
            "random search, {} of {} items scored",
            random.scored(),
            self.search.scored()
        );
        self.random = Some(random);
        Ok(())
    }

    fn choose(&mut self, cx: &Context) -> Result<(), Error> {
        let (n, items) = (self.recipe.finalists, self.recipe.comparison_items);
        let mut search = self.search.clone();
        let judge = self.judge(&self.material, cx);
        let judge = remembered(&judge, cx);
        let champion = search.choose(&self.parents, &judge, (n, items))?;
        let best = search.best_parent(&self.parents, &judge, items)?;
        let audited = (self.recipe.audit > 0)
            .then(|| search.audit(&self.parents, &judge, self.recipe.audit))
            .transpose()?;
        self.line = format!(
            "champion {} with fitness {:.4} on the selection split",
            combination_name(champion.individual.genome.bits),
            champion.finalists[0].fitness
        );
        self.search = search;
        self.results.audit = audited;
        self.results.best_parent = best;
        self.results.champion = Some(champion);
        Ok(())
    }

    fn compare(&mut self, cx: &Context) -> Result<(), Error> {
        let items = self.recipe.comparison_items;
        let best_parent = self.results.best_parent;
        let champion = self.results.champion.as_ref();
        let champion = champion.expect("chosen before it is compared");
        let champion = champion.individual.genome.clone();
        let random = self.random.as_ref().and_then(Search::best);
        let random = random.map(|best| ("random_search".to_owned(), best.genome.clone()));
        let mut search = self.search.clone();
        let judge = self.judge(&self.material, cx);
        let kept = remembered(&judge, cx);
        let others = random.into_iter().collect();
        let rows = search.stand(&self.parents, &kept, &champion, others, items)?;
        let best = &rows[1 + best_parent];
        let difference = rows[0].measures.paired(&best.measures);
        let controls = self.controls(cx, &judge, &rows[1..4])?;
        self.search = search;
        self.results.nats_difference = Some(difference);
        self.results.controls = controls;
        self.line = format!(
            "held-out fitness {:.4}, best parent {:.4}",
            rows[0].fitness, best.fitness
        );
        self.results.comparison = rows;
        Ok(())
    }

    /// The fitness of the model that the parents come from and, where Phase 1 trained it, of the one that was given the
    /// pooled compute of all three, on the items that gave the rows of the parents.
    fn controls(
        &self,
        cx: &Context,
        judge: &Judge,
        parents: &[Contender],
    ) -> Result<BTreeMap<String, f64>, Error> {
        let parents: Vec<Measures> = parents.iter().map(|r| r.measures.clone()).collect();
        let mean = Measures::mean(&parents);
        let made = cx.run.dir().join(folder("cognate")).join("final");
        let mut controls = BTreeMap::new();
        for name in ["ancestor", "pooled"] {
            let file = made.join(format!("{name}.safetensors"));
            if !file.is_file() {
                continue;
            }
            let items = 0..self.recipe.comparison_items;
            let measures = judge.measure(&load_final(&file)?.0, Split::HeldOut, items);
            let measures = measures.map_err(|e: EvaluateError| SearchError::DeadContender {
                name: name.into(),
                reason: format!("{e:?}"),
            })?;
            controls.insert(
                name.into(),
                fitness(&measures, &mean, self.parents.size_mb()),
            );
        }
        Ok(controls)
    }

    /// The champion as a model.
    pub(super) fn champion(&self, cx: &Context) -> Cognate {
        let champion = self.results.champion.as_ref().expect("chosen");
        let child = decode(&champion.individual.genome, &self.parents);
        self.judge(&self.material, cx).model(&child)
    }
}

impl Phase for EvomergePhase {
    fn name(&self) -> &'static str {
        "evomerge"
    }

    fn done(&self) -> u64 {
        let random = self.random.as_ref().map_or(0, |r| r.history.len()) as u64;
        let r = &self.results;
        self.search.history.len() as u64
            + random
            + u64::from(r.champion.is_some())
            + u64::from(!r.comparison.is_empty())
            + u64::from(r.written)
    }

    fn total(&self) -> u64 {
        let generations = self.search.settings.generations + 1;
        let random = match (&self.random, self.recipe.random_search) {
            (_, false) => 0,
            (None, true) => generations,
            // Its generations score fewer items than evolution's: as many as it will take at this rate.
            (Some(r), true) => {
                let done = r.history.len() as u64;
                let all = (done * self.search.scored()).div_ceil(r.scored().max(1));
                all.max(done + u64::from(!self.random_done()))
            }
        };
        generations + random + 3
    }

    fn message(&self) -> String {
        self.line.clone()
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        if !self.search.finished() {
            self.generation(cx)
        } else if !self.random_done() {
            self.random_generation(cx)
        } else if self.results.champion.is_none() {
            self.choose(cx)
        } else if self.results.comparison.is_empty() {
            self.compare(cx)
        } else {
            save_final(
                cx.run,
                folder("evomerge"),
                "champion",
                &self.champion(cx),
                &cx.source.tokenizer,
            )?;
            self.results.written = true;
            Ok(())
        }
    }

    fn finished(&self) -> bool {
        self.results.written
    }

    fn save(&self) -> Bag {
        let json = json!({ "search": self.search, "random": self.random, "results": self.results });
        Bag {
            version: VERSION,
            json,
            arrays: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    fn question(&self) -> Option<&Question> {
        self.results.watched.question.as_ref()
    }

    fn answer(&mut self, cx: &Context, choice: &str) -> Result<(), Error> {
        match self.results.watched.question.take() {
            Some(q) => self.act(cx, &q.detector, choice),
            None => Ok(()),
        }
    }

    fn finish(&mut self, cx: &Context) -> Result<Value, Error> {
        self.section(cx)
    }
}
