//! Searches against each other on the parents of a run: evolution, CMA-ES, random genomes, and the sweep of task
//! arithmetic, each with its races, cache and fallback, and each with the same number of scored items.
//!
//! Each seed is a search of its own. Its champion is the best of its finalists on the selection split, as is the best
//! parent; both are then measured on the held-out split, which nothing was chosen on.

use crate::args::Common;
use crate::fault::usage;
use crate::{output, recipes, run, runs, table};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use train::phases::evomerge::{
    Evaluate, EvomergePhase, EvomergeRecipe, Genome, Judge, Material, Parents, Remedy, Sample,
    Search, Settings, Space, Split, Strategy, fittest, parents_of,
};
use train::{Source, evaluate};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Elites, mutants and merged losers, as the plan has it
    Evolution,
    /// A normal distribution over the genes that follows the better ones
    CmaEs,
    /// Genomes drawn anew again and again
    Random,
    /// Task arithmetic alone, with as fine a sweep of lambda as the items allow
    Arithmetic,
}

#[derive(Args)]
pub(crate) struct SearchArgs {
    /// A run whose Phase 1 is done
    run: String,
    /// What is compared (repeatable) [default: all]
    #[arg(long, value_enum)]
    search: Vec<Kind>,
    /// Seeds of each: the recipe's, and those after it
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: u64,
    /// Items that each search may score [default: what the recipe's own search takes]
    #[arg(long, value_name = "N")]
    items: Option<u64>,
    /// Members of each search that are scored in full, to see how well its races stood in for that
    #[arg(long, value_name = "N", default_value_t = 0)]
    audit: usize,
}

/// What the searches share.
struct Ground<'a> {
    parents: &'a Parents,
    judge: &'a Judge<'a>,
    recipe: &'a EvomergeRecipe,
    audit: usize,
}

pub(super) fn run(args: &SearchArgs, common: &Common) -> Result<u8> {
    if args.seeds == 0 || args.items == Some(0) {
        return usage("--seeds and --items are at least 1");
    }
    let found = runs::read(&common.root, &args.run)?;
    let recipe = recipes::change(&run::recipe_of(&found)?, &common.set)?;
    let source = Source::open(&found.dir().join("data"))?;
    let (parents, template) = parents_of(&EvomergePhase::inputs(&found))?;
    let material = Material::new(&source, recipe.evomerge.sequence);
    let judge = Judge {
        material: &material,
        tokenizer: &source.tokenizer,
        template: &template,
    };
    let ground = Ground {
        parents: &parents,
        judge: &judge,
        recipe: &recipe.evomerge,
        audit: args.audit,
    };
    let kinds = match args.search.is_empty() {
        true => Kind::value_variants(),
        false => &args.search,
    };
    let mut results: Vec<(Kind, Vec<Value>)> = kinds.iter().map(|k| (*k, Vec::new())).collect();
    for seed in recipe.seed..recipe.seed + args.seeds {
        // The recipe's own search says how many items there are, unless somebody did.
        let own = recipe.evomerge.search;
        let mut told = None;
        let items = match args.items {
            Some(items) => items,
            None => {
                let mut search = begin(&ground, own, seed)?;
                while !search.finished() {
                    advance(&mut search, &ground)?;
                }
                let items = search.scored();
                told = Some(search);
                items
            }
        };
        for (kind, of) in &mut results {
            let result = match (
                kind.strategy(),
                told.take_if(|_| kind.strategy() == Some(own)),
            ) {
                (None, _) => swept(&ground, seed, items)?,
                (Some(_), Some(search)) => searched(search, &ground, seed)?,
                (Some(strategy), None) => {
                    let mut search = begin(&ground, strategy, seed)?;
                    while search.scored() < items {
                        advance(&mut search, &ground)?;
                    }
                    searched(search, &ground, seed)?
                }
            };
            if !common.json {
                output::line(&row(*kind, std::slice::from_ref(&result)).join("  "));
            }
            of.push(result);
        }
    }
    if common.json {
        let all = results.iter().map(|(kind, of)| {
            json!({ "search": kind.name(), "held_out_fitness": over(of, "fitness"), "best_parent_fitness": over(of, "best_parent_fitness"),
                "over_best_parent": over(of, "over_best_parent"), "nats_difference": over(of, "nats_difference"),
                "rank_correlation": over(of, "rank_correlation"), "saved": over(of, "saved"), "seeds": of })
        });
        output::json(&json!({
            "run": args.run, "isa": tensor::isa::name(), "precision": tensor::precision::in_use().name(),
            "threads": rayon::current_num_threads(), "searches": all.collect::<Vec<_>>(),
        }));
        return Ok(0);
    }
    let rows = results.iter().map(|(kind, of)| row(*kind, of));
    let header = [
        "search",
        "seeds",
        "items",
        "candidates",
        "held-out fitness",
        "over the best parent",
        "nats against it",
        "paired error",
        "rank correlation",
        "items saved",
    ];
    output::text(&table::table(&header, &rows.collect::<Vec<_>>()));
    output::line("mean and standard error over the seeds; nats below zero are better");
    Ok(0)
}

/// Mean and standard error over seeds of a field; null where a seed has none.
fn over(of: &[Value], field: &str) -> Value {
    let values: Option<Vec<f64>> = of.iter().map(|v| v[field].as_f64()).collect();
    let Some(values) = values else {
        return Value::Null;
    };
    let (mean, error) = evaluate::paired(&values, &vec![0.0; values.len()]);
    json!({ "mean": mean, "stderr": (values.len() > 1).then_some(error) })
}

fn row(kind: Kind, of: &[Value]) -> Vec<String> {
    let cell = |field: &str, digits: usize| {
        let v = over(of, field);
        match (v["mean"].as_f64(), v["stderr"].as_f64()) {
            (Some(mean), Some(error)) => format!("{mean:.digits$} +- {error:.digits$}"),
            (Some(mean), None) => format!("{mean:.digits$}"),
            _ => "-".into(),
        }
    };
    vec![
        kind.name(),
        of.len().to_string(),
        cell("scored_items", 0),
        cell("candidates", 0),
        cell("fitness", 4),
        cell("over_best_parent", 4),
        cell("nats_difference", 4),
        cell("nats_error", 4),
        cell("rank_correlation", 3),
        cell("saved", 1),
    ]
}

/// One generation, with the recommended remedy where the population converges.
fn advance(search: &mut Search, ground: &Ground) -> Result<()> {
    if search.newly_converging().is_some() {
        search.diversify(Remedy::Inject);
    }
    search.next_generation(ground.parents, ground.judge)?;
    Ok(())
}

/// A search that has not begun.
fn begin(ground: &Ground, strategy: Strategy, seed: u64) -> Result<Search> {
    let settings = Settings {
        strategy,
        budget_items: 0,
        ..ground.recipe.settings(seed)
    };
    Ok(Search::new(settings, ground.parents)?)
}

/// What a search came to.
fn searched(mut search: Search, ground: &Ground, seed: u64) -> Result<Value> {
    let (work, scored) = (search.work(), search.scored());
    let audit = match ground.audit {
        0 => None,
        n => Some(search.audit(ground.parents, ground.judge, n)?),
    };
    let choice = (ground.recipe.finalists, ground.recipe.comparison_items);
    let champion = search.choose(ground.parents, ground.judge, choice)?;
    let mut result = held_out(&mut search, ground, champion.individual.genome)?;
    let more = json!({
        "seed": seed, "generations": search.history.len() - 1, "scored_items": scored, "candidates": work.candidates,
        "cache_hit_rate": work.hit_rate(), "rejected": work.rejected,
        "rank_correlation": audit.and_then(|a| a.spearman), "saved": audit.map(|a| a.saved),
    });
    super::merge(&mut result, more);
    Ok(result)
}

/// Task arithmetic alone: as many lambdas as the items allow, each on all that the last round scores.
fn swept(ground: &Ground, seed: u64, items: u64) -> Result<Value> {
    let mut search = begin(ground, Strategy::Evolution, seed)?;
    let last = search.settings.rounds.last().copied().unwrap_or(1);
    let full = last.min(ground.judge.items(Split::Fitness));
    let n = (items / full as u64).saturating_sub(3).max(2);
    let space = Space::of(ground.parents);
    let lambda = |i: u64| LAMBDAS.0 + (LAMBDAS.1 - LAMBDAS.0) * i as f64 / (n - 1) as f64;
    let sweep: Vec<(String, Genome)> = (0..n)
        .map(|i| {
            (
                format!("{:.4}", lambda(i)),
                Genome::arithmetic(lambda(i), space),
            )
        })
        .collect();
    let sample = |split, items| Sample { split, items };
    let fitness = sample(Split::Fitness, full);
    // A merge that is degenerate is no candidate.
    let mut rows = search.compare_living(ground.parents, ground.judge, &sweep, fitness)?;
    if rows.is_empty() {
        bail!(
            "every merge of the sweep is degenerate; `forge report` has the barriers between the parents"
        );
    }
    let (scored, candidates) = (search.work().scored_items, search.work().candidates);
    rows.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
    let finalists = rows.into_iter().take(ground.recipe.finalists.max(1));
    let finalists: Vec<(String, Genome)> = finalists.map(|r| (r.name, r.genome)).collect();
    let selection = sample(Split::Selection, ground.recipe.comparison_items);
    let chosen = search.compare(ground.parents, ground.judge, &finalists, selection)?;
    let champion = fittest(chosen).expect("at least one lambda").genome;
    let mut result = held_out(&mut search, ground, champion)?;
    super::merge(
        &mut result,
        json!({ "seed": seed, "scored_items": scored, "candidates": candidates }),
    );
    Ok(result)
}

/// Range of the sweep: that of the genes.
const LAMBDAS: (f64, f64) = (0.1, 0.8);

/// A champion against the best parent, chosen on the selection split, on the held-out split.
fn held_out(search: &mut Search, ground: &Ground, champion: Genome) -> Result<Value> {
    let (parents, judge) = (ground.parents, ground.judge);
    let items = ground.recipe.comparison_items;
    let held_out = Sample {
        split: Split::HeldOut,
        items,
    };
    let best = search.best_parent(parents, judge, items)?;
    let two = [
        ("champion".to_owned(), champion),
        (format!("parent{best}"), Genome::parent(best, parents)),
    ];
    let rows = search.compare(parents, judge, &two, held_out)?;
    let (nats, error) = rows[0].measures.paired(&rows[1].measures);
    Ok(json!({
        "fitness": rows[0].fitness, "best_parent_fitness": rows[1].fitness,
        "over_best_parent": rows[0].fitness / rows[1].fitness - 1.0,
        "nats_difference": nats, "nats_error": error, "genome": rows[0].genome,
    }))
}

impl Kind {
    fn name(self) -> String {
        let name = self.to_possible_value();
        name.map_or(String::new(), |v| v.get_name().to_string())
    }

    /// What proposes its genomes; the sweep proposes none.
    fn strategy(self) -> Option<Strategy> {
        match self {
            Kind::Evolution => Some(Strategy::Evolution),
            Kind::CmaEs => Some(Strategy::CmaEs),
            Kind::Random => Some(Strategy::Random),
            Kind::Arithmetic => None,
        }
    }
}
