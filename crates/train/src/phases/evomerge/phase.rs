//! The phase around the search: parents from Phase 1, measuring children, the random-search baseline,
//! the champion, and its comparison on the held-out split.

use super::{Accuracy, combination_name, mean_distance, terms};
use super::{
    Child, Contender, Error as SearchError, Evaluate, EvaluateError, Genome, Measures, Parents,
    Sample, Search, Settings, Space, Split, Weights, decode, fitness,
};
use crate::checkpoint::{load_final, save_final};
use crate::evaluate;
use crate::phase::folder;
use crate::{Context, Error, Phase, Source, report};
use data::{Answer, Document, Item};
use model::{Batch, Bound, Cognate, Depth, Params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use store::Bag;
use tensor::{Tape, Tensor};

const VERSION: u32 = 1;

/// Settings of Phase 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvomergeRecipe {
    /// Generations after generation 0.
    pub generations: u64,
    /// Growing sample sizes of the race.
    pub rounds: Vec<usize>,
    /// Mutation rate.
    pub mutation: f64,
    /// Cosine distance between task vectors below which a population counts as converging.
    pub diversity: f64,
    /// Generations between injections under low diversity.
    pub injection_every: u64,
    /// Lambdas of the task-arithmetic sweep.
    pub sweep: Vec<f64>,
    /// Members of the final choice on the selection split.
    pub finalists: usize,
    /// Items of the selection and held-out comparison.
    pub comparison_items: usize,
    /// Longest piece of a text in an evaluation.
    pub sequence: usize,
    /// Whether random search runs with the same number of scored items, for comparison.
    pub random_search: bool,
}

/// The phase.
pub struct EvomergePhase {
    parents: Parents,
    template: Cognate,
    search: Search,
    random: Option<Search>,
    results: Results,
    recipe: EvomergeRecipe,
    line: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Results {
    champion: Option<super::Champion>,
    comparison: Vec<Contender>,
    pooled: Option<f64>,
    best_parent: usize,
    nats_difference: Option<(f64, f64)>,
    written: bool,
}

fn weights(model: &Cognate) -> Weights {
    model
        .params
        .iter()
        .map(|(n, t)| (n.to_string(), t.to_vec()))
        .collect()
}

/// A child as a model: weights, block scales and threshold over the template's configuration; the exit gate
/// is standardised anew on a fixed sample.
fn materialise(child: &Child, template: &Cognate, calibration: &Batch) -> Cognate {
    let mut config = template.config.clone();
    for (b, &s) in config.blocks.iter_mut().zip(&child.scales) {
        b.scale = s;
    }
    config.act_threshold = child.threshold as f32;
    let values: BTreeMap<String, Tensor> = child
        .weights
        .iter()
        .map(|(n, v)| {
            (
                n.clone(),
                Tensor::from_vec(v.clone(), template.params.get(n).dims()),
            )
        })
        .collect();
    let params = Params::from_named(&config, values, |_| false, 0)
        .expect("a child has its parents' tensors");
    let mut model = Cognate {
        params,
        ..Cognate::empty(config)
    };
    model.standardise_gate(calibration);
    model
}

/// Measures children on the run's evaluation data.
struct Judge<'a> {
    source: &'a Source,
    template: &'a Cognate,
    calibration: Batch,
    sequence: usize,
}

impl Judge<'_> {
    fn split(split: Split) -> data::Split {
        match split {
            Split::Fitness => data::Split::Fitness,
            Split::Selection => data::Split::Selection,
            Split::HeldOut => data::Split::HeldOut,
        }
    }

    /// Texts and choice items of a split, families in turn, so that any prefix is balanced.
    fn data(&self, split: Split) -> (Vec<&Document>, Vec<&Item>) {
        let split = Self::split(split);
        let texts = in_turn(self.source.texts_of(split, None), |d| d.dataset.clone());
        let items = self
            .source
            .items_of(split)
            .into_iter()
            .filter(|i| matches!(i.answer, Answer::Choice { .. }))
            .collect();
        (texts, in_turn(items, |i| i.dataset.clone()))
    }

    fn measure(
        &self,
        model: &Cognate,
        sample: Sample,
    ) -> Result<(Measures, Vec<f64>), EvaluateError> {
        let (texts, items) = self.data(sample.split);
        let texts = &texts[..sample.items.min(texts.len())];
        // Options make an item cost several texts, and near chance it says less.
        let items = &items[..sample.items.div_ceil(3).min(items.len())];
        let tokenizer = &self.source.tokenizer;
        let (mut nats, mut tokens, mut flops, mut per_text) = (0.0, 0usize, 0u64, Vec::new());
        let pieces: Vec<Vec<u32>> = texts
            .iter()
            .map(|d| {
                let mut t = vec![tokenizer.end_of_document()];
                t.extend(tokenizer.encode(&d.text));
                t.truncate(self.sequence + 1);
                t
            })
            .filter(|t| t.len() > 1)
            .collect();
        for part in pieces.chunks(16) {
            let batch = Batch::new(part.iter().map(|t| (&t[..t.len() - 1], 0)));
            let targets: Vec<u32> = part.iter().flat_map(|t| t[1..].iter().copied()).collect();
            let tape = Tape::inference();
            let p = Bound::new(&tape, &model.params);
            let out = model.forward(&p, &batch, Depth::Halting, None, false);
            let nll = tape
                .value(tape.cross_entropy(out.hidden, p.var("embed.weight"), targets.into()))
                .to_vec();
            for rows in batch.segments.iter() {
                per_text.push(
                    nll[rows.clone()].iter().map(|&x| f64::from(x)).sum::<f64>()
                        / rows.len() as f64,
                );
            }
            nats += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
            tokens += nll.len();
            flops += tape.flops();
        }
        if !nats.is_finite() {
            return Err(EvaluateError::Dead("its loss is not finite".into()));
        }
        let scores = evaluate::items(model, tokenizer, items, 1);
        let accuracies = evaluate::by_task(items, &scores)
            .into_iter()
            .map(|(task, s)| Accuracy {
                task,
                correct: s.accuracy * s.items as f64,
                n: s.items as u64,
                chance: s.chance,
            })
            .collect();
        let measures = Measures {
            nats: nats / tokens.max(1) as f64,
            accuracies,
            counted_flops: flops as f64,
            bytes: bytes(model),
        };
        Ok((measures, per_text))
    }
}

/// Bytes of the tensors of the blocks that run.
fn bytes(model: &Cognate) -> f64 {
    let runs = |name: &str| {
        model::params::block_of(name).is_none_or(|b| model.config.blocks[b].scale != 0.0)
    };
    model
        .params
        .iter()
        .filter(|(n, _)| runs(n))
        .map(|(_, t)| t.numel() * 4)
        .sum::<usize>() as f64
}

/// Round-robin over groups, keeping the order within each.
fn in_turn<T>(list: Vec<T>, key: impl Fn(&T) -> String) -> Vec<T> {
    let mut groups: BTreeMap<String, std::collections::VecDeque<T>> = BTreeMap::new();
    for x in list {
        groups.entry(key(&x)).or_default().push_back(x);
    }
    let mut out = Vec::new();
    while !groups.is_empty() {
        groups.retain(|_, g| {
            out.extend(g.pop_front());
            !g.is_empty()
        });
    }
    out
}

impl Evaluate for Judge<'_> {
    fn set_hash(&self, split: Split) -> String {
        let (texts, items) = self.data(split);
        let mut h = blake3::Hasher::new();
        h.update(self.source.tokenizer.hash().as_bytes());
        h.update(&(self.sequence as u64).to_le_bytes());
        texts.iter().for_each(|d| {
            h.update(d.text.as_bytes());
        });
        items.iter().for_each(|i| {
            h.update(i.prompt.as_bytes());
        });
        h.finalize().to_hex().to_string()
    }

    fn probe(&self, child: &Child) -> Result<(), EvaluateError> {
        let model = materialise(child, self.template, &self.calibration);
        let n = self.calibration.len();
        let (nll, _) = model.nll(&self.calibration, &vec![0; n], Depth::Full);
        if nll.iter().all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err(EvaluateError::Dead(
                "its forward pass gives values that are not finite".into(),
            ))
        }
    }

    fn evaluate(&self, child: &Child, sample: Sample) -> Result<Measures, EvaluateError> {
        self.measure(
            &materialise(child, self.template, &self.calibration),
            sample,
        )
        .map(|m| m.0)
    }
}

/// A fixed, small sample for standardising gates: the first texts of the fitness split.
fn calibration(source: &Source) -> Batch {
    let texts = in_turn(source.texts_of(data::Split::Fitness, None), |d| {
        d.dataset.clone()
    });
    let mut pieces = Vec::new();
    let mut rows = 0;
    for d in texts {
        let mut t = vec![source.tokenizer.end_of_document()];
        t.extend(source.tokenizer.encode(&d.text));
        t.truncate(128);
        rows += t.len();
        pieces.push(t);
        if rows >= 320 {
            break;
        }
    }
    Batch::new(pieces.iter().map(|t| (&t[..], 0)))
}

impl EvomergePhase {
    /// Loads the parents from the final models of Phase 1 (ancestor, then the three branches).
    fn load(files: &[&Path; 4]) -> Result<(Parents, Cognate), Error> {
        let mut models = files
            .iter()
            .map(|p| Ok(load_final(p)?.0))
            .collect::<Result<Vec<_>, Error>>()?;
        let slots = models
            .iter()
            .map(|m| m.config.slots)
            .max()
            .expect("four models");
        models = models.iter().map(|m| m.with_slots(slots)).collect();
        let thresholds = [1, 2, 3].map(|i| f64::from(models[i].config.act_threshold));
        let arcs: Vec<Arc<Weights>> = models.iter().map(|m| Arc::new(weights(m))).collect();
        let parents = Parents {
            ancestor: arcs[0].clone(),
            models: [arcs[1].clone(), arcs[2].clone(), arcs[3].clone()],
            block_of: model::params::block_of,
            blocks: models[0].config.blocks.len(),
            thresholds,
        };
        Ok((parents, models.swap_remove(0)))
    }

    /// The files of Phase 1 in a run.
    pub fn inputs(run: &store::Run) -> [std::path::PathBuf; 4] {
        ["ancestor", "reasoning", "memory", "speed"].map(|n| {
            run.dir()
                .join(folder("cognate"))
                .join("final")
                .join(format!("{n}.safetensors"))
        })
    }

    /// Begins the phase from the final models of Phase 1.
    pub fn start(cx: &Context, files: &[&Path; 4]) -> Result<Self, Error> {
        let r = &cx.recipe.evomerge;
        let (parents, template) = Self::load(files)?;
        let settings = Settings {
            seed: cx.recipe.seed,
            rounds: r.rounds.clone(),
            mutation: r.mutation,
            diversity: r.diversity,
            injection_every: r.injection_every,
            sweep: r.sweep.clone(),
            ..Settings::default()
        };
        let search = Search::new(settings, &parents)?;
        Ok(Self {
            parents,
            template,
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
            return Err(Error::bag(
                "evomerge",
                format!(
                    "its version is {}, this program reads {VERSION}",
                    bag.version
                ),
            ));
        }
        let (parents, template) = Self::load(files)?;
        let get = |key: &str| bag.json[key].clone();
        let bad = |e: serde_json::Error| Error::bag("evomerge", e);
        Ok(Self {
            parents,
            template,
            search: serde_json::from_value(get("search")).map_err(bad)?,
            random: serde_json::from_value(get("random")).map_err(bad)?,
            results: serde_json::from_value(get("results")).map_err(bad)?,
            recipe: cx.recipe.evomerge.clone(),
            line: String::new(),
        })
    }

    fn judge<'a>(&'a self, source: &'a Source) -> Judge<'a> {
        Judge {
            source,
            template: &self.template,
            calibration: calibration(source),
            sequence: self.recipe.sequence,
        }
    }

    fn evolved(&self) -> bool {
        self.search.history.len() as u64 > self.recipe.generations
    }

    fn random_done(&self) -> bool {
        !self.recipe.random_search
            || self
                .random
                .as_ref()
                .is_some_and(|r| r.work().scored_items >= self.search_items())
    }

    /// Items that evolution scored, the choice aside.
    fn search_items(&self) -> u64 {
        let generations = self.search.history.iter();
        generations.map(|g| g.work.scored_items).sum()
    }

    fn generation(&mut self, cx: &Context) -> Result<(), Error> {
        let mut search = self.search.clone();
        let (parents, judge) = (&self.parents, self.judge(cx.source));
        let g = search.next_generation(parents, &judge)?.clone();
        let key = cx.key(folder("evomerge"), "", g.generation);
        for (name, value) in [
            ("generation", g.generation as f64),
            ("best_fitness", g.best_fitness),
            ("mean_fitness", g.mean_fitness),
            ("diversity", g.diversity),
            ("improvement", g.improvement),
        ] {
            cx.metric(&key, name, value)?;
        }
        if g.injected {
            let id = cx.run.journal().alert(
                &key,
                "premature-convergence",
                g.diversity,
                self.recipe.diversity,
            )?;
            cx.run.journal().settle_alert(id, "inject", "automatic")?;
        }
        self.line = format!(
            "generation {} best {:.4} mean {:.4} diversity {:.2}",
            g.generation, g.best_fitness, g.mean_fitness, g.diversity
        );
        self.search = search;
        Ok(())
    }

    fn random_generation(&mut self, cx: &Context) -> Result<(), Error> {
        let mut random = match self.random.clone() {
            Some(r) => r,
            None => self.search.random_baseline(&self.parents)?,
        };
        let judge = self.judge(cx.source);
        random.next_generation(&self.parents, &judge)?;
        self.line = format!(
            "random search, {} of {} items scored",
            random.work().scored_items,
            self.search_items()
        );
        self.random = Some(random);
        Ok(())
    }

    fn choose(&mut self, cx: &Context) -> Result<(), Error> {
        let (n, items) = (self.recipe.finalists, self.recipe.comparison_items);
        let mut search = self.search.clone();
        let judge = self.judge(cx.source);
        let champion = search.choose(&self.parents, &judge, (n, items))?;
        // The best parent is chosen on the selection split too.
        let contenders: Vec<(String, Genome)> = (0..3)
            .map(|i| (format!("parent{i}"), Genome::parent(i, &self.parents)))
            .collect();
        let rows = search.compare(
            &self.parents,
            &judge,
            &contenders,
            Sample {
                split: Split::Selection,
                items,
            },
        )?;
        let best = (0..3)
            .max_by(|&a, &b| rows[a].fitness.total_cmp(&rows[b].fitness))
            .expect("three parents");
        self.line = format!(
            "champion {} with fitness {:.4} on the selection split",
            combination_name(champion.individual.genome.bits),
            champion.finalists[0].fitness
        );
        self.search = search;
        self.results.best_parent = best;
        self.results.champion = Some(champion);
        Ok(())
    }

    fn compare(&mut self, cx: &Context) -> Result<(), Error> {
        let sample = Sample {
            split: Split::HeldOut,
            items: self.recipe.comparison_items,
        };
        let champion = self
            .results
            .champion
            .clone()
            .expect("chosen before it is compared");
        let space = Space::of(&self.parents);
        let mut contenders = vec![
            ("champion".to_string(), champion.individual.genome.clone()),
            (
                "best_parent".into(),
                Genome::parent(self.results.best_parent, &self.parents),
            ),
        ];
        contenders.extend((0..3).map(|i| (format!("parent{i}"), Genome::parent(i, &self.parents))));
        let sweep = self
            .search
            .best_of_sweep()
            .map_or(Genome::arithmetic(0.4, space), |m| m.genome);
        contenders.push(("task_arithmetic".into(), sweep));
        contenders.push(("uniform".into(), Genome::linear([1.0 / 3.0; 3], space)));
        if let Some(best) = self.random.as_ref().and_then(Search::best) {
            contenders.push(("random_search".into(), best.genome.clone()));
        }
        let mut search = self.search.clone();
        let judge = self.judge(cx.source);
        let rows = search.compare(&self.parents, &judge, &contenders, sample)?;
        let measured = |g: &Genome| {
            judge.measure(
                &materialise(
                    &decode(g, &self.parents),
                    &self.template,
                    &judge.calibration,
                ),
                sample,
            )
        };
        let dead = |e: EvaluateError| SearchError::DeadContender {
            name: "champion".into(),
            reason: format!("{e:?}"),
        };
        let (_, a) = measured(&contenders[0].1).map_err(dead)?;
        let (_, b) = measured(&contenders[1].1).map_err(dead)?;
        let difference = evaluate::paired(&a, &b);
        // The control given the pooled compute, where Phase 1 trained it.
        let pooled = cx
            .run
            .dir()
            .join(folder("cognate"))
            .join("final")
            .join("pooled.safetensors");
        let pooled = if pooled.is_file() {
            let (model, _) = load_final(&pooled)?;
            let (m, _) = judge.measure(&model, sample).map_err(dead)?;
            let mean = Measures::mean(
                &rows[2..5]
                    .iter()
                    .map(|r| r.measures.clone())
                    .collect::<Vec<_>>(),
            );
            Some(fitness(&m, &mean, self.parents.size_mb()))
        } else {
            None
        };
        drop(judge);
        self.search = search;
        self.results.nats_difference = Some(difference);
        self.results.pooled = pooled;
        self.line = format!(
            "held-out fitness {:.4}, best parent {:.4}",
            rows[0].fitness, rows[1].fitness
        );
        self.results.comparison = rows;
        Ok(())
    }

    fn champion(&self, source: &Source) -> Cognate {
        let genome = &self
            .results
            .champion
            .as_ref()
            .expect("chosen")
            .individual
            .genome;
        materialise(
            &decode(genome, &self.parents),
            &self.template,
            &calibration(source),
        )
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
        let generations = self.recipe.generations + 1;
        let random = match (&self.random, self.recipe.random_search) {
            (_, false) => 0,
            (Some(r), true) if self.random_done() => r.history.len() as u64,
            _ => generations,
        };
        generations + random + 3
    }

    fn message(&self) -> String {
        self.line.clone()
    }

    fn unit(&mut self, cx: &Context) -> Result<(), Error> {
        if !self.evolved() {
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
                &self.champion(cx.source),
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

    fn finish(&mut self, cx: &Context) -> Result<Value, Error> {
        let path = cx
            .run
            .dir()
            .join(folder("evomerge"))
            .join("final")
            .join("champion.safetensors");
        let model = self.champion(cx.source);
        let r = &self.results;
        let champion = r.champion.as_ref().expect("finished");
        let of = |name: &str| {
            r.comparison
                .iter()
                .find(|c| c.name == name)
                .map(|c| c.fitness)
        };
        let best = of("best_parent").unwrap_or(f64::NAN);
        let held_out = of("champion").unwrap_or(f64::NAN);
        let (difference, error) = r.nats_difference.unwrap_or((f64::NAN, f64::NAN));
        // To first order the perplexity term moves by its weight times the nats; the others are not sampled.
        let fitness_error = r
            .comparison
            .first()
            .map(|c| error * terms(&c.measures, &c.measures, self.parents.size_mb())[0].weight);
        let diversities: Vec<f64> = self.search.history.iter().map(|g| g.diversity).collect();
        let counts = self.search.work();
        let combos: serde_json::Map<String, Value> = self
            .search
            .combinations
            .iter()
            .enumerate()
            .map(|(b, n)| (format!("{b:03b}"), json!(n)))
            .collect();
        Ok(json!({
            "generations": self.recipe.generations,
            "evaluations": counts.evaluations,
            "scored_items": counts.scored_items,
            "cache_hits": counts.cache_hits,
            "rejected": counts.rejected,
            "champion": report::model(cx, "champion", Some(&path), &model, data::Split::HeldOut, None)?,
            "combo": combination_name(champion.individual.genome.bits),
            "fitness": held_out,
            "improvement": { "over_mean_parent": held_out - 1.0, "over_best_parent": held_out / best - 1.0 },
            "held_out": {
                "champion": held_out, "best_parent": best, "task_arithmetic": of("task_arithmetic"), "uniform": of("uniform"),
                "random_search": of("random_search"), "pooled_compute": r.pooled, "stderr": fitness_error,
                "nats_champion_minus_best_parent": difference, "nats_stderr": error,
            },
            "best_parent": super::super::cognate_branch(r.best_parent),
            "combos": combos,
            "diversity": {
                "min": diversities.iter().copied().fold(f64::INFINITY, f64::min),
                "mean": diversities.iter().sum::<f64>() / diversities.len().max(1) as f64,
                "last": mean_distance(&self.search.distances),
            },
            "genome": champion.individual.genome,
            "lineage": self.search.lineage(champion.individual.id).len(),
        }))
    }
}
