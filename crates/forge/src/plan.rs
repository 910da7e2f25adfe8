//! `forge plan`: sizes, memory, disk, time and tokens of a recipe, each with its formula, before anything starts.
//!
//! Everything but the time follows from the recipe. The time comes from a calibration of about a second: a
//! few passes of this model over random tokens on this machine. Times of Phases 2 to 4 scale it by the tokens
//! that they pass forward and backward, so they are estimates; what the text settles (how long answers
//! become) is not known before.

use crate::args::Common;
use crate::bench::random_pieces;
use crate::{output, recipes, table};
use anyhow::Result;
use clap::Args;
use model::{Bound, Cognate, Config, Depth};
use serde_json::{Value, json};
use std::time::Instant;
use tensor::{Grads, Tape};
use train::Recipe;
use train::memory::{self, Limit, Steps};
use train::phases::evomerge;
use train::step::{self, TrainDepth};

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Recipe by name or path
    #[arg(default_value = "quick")]
    recipe: String,

    /// Also say how long it takes where so many TFLOP/s are made (of products, as `forge bench` counts them)
    #[arg(long, value_name = "N", value_parser = rate)]
    tflops: Option<f64>,
}

/// A rate above zero.
fn rate(said: &str) -> Result<f64, String> {
    match said.parse() {
        Ok(x) if x > 0.0 && f64::is_finite(x) => Ok(x),
        _ => Err("a number above 0 is needed".into()),
    }
}

/// What one phase takes.
struct Phase {
    name: &'static str,
    params: u64,
    disk: u64,
    memory: u64,
    /// Rows of a micro-batch, where it takes gradient steps.
    rows: Option<usize>,
    /// Where it cannot run.
    warning: Option<String>,
    tokens: u64,
    cost: Cost,
    formulas: Vec<(String, String)>,
}

pub(crate) fn plan(args: &PlanArgs, common: &Common) -> Result<u8> {
    let recipe = recipes::load(&args.recipe, &common.set)?;
    tensor::precision::select(recipe.precision.resolved()).map_err(anyhow::Error::msg)?;
    let config = recipe.model.config();
    let limit = memory::limit();
    let speed = calibrate(&config, &recipe);
    let phases = phases(&recipe, &config, &speed, limit);
    let Limit {
        bytes: limit,
        from: limit_from,
    } = limit;
    let free = store::disk_free(&common.root);
    let need = phases.iter().map(|p| p.memory).max().unwrap_or(0);
    let disk: u64 = phases.iter().map(|p| p.disk).sum();
    let seconds: f64 = phases.iter().map(|p| p.cost.seconds).sum();
    let work: f64 = phases.iter().map(|p| p.cost.flops).sum();
    let elsewhere = |flops: f64| args.tflops.map(|rate| flops / (1e12 * rate));
    let mut warnings: Vec<String> = phases.iter().filter_map(|p| p.warning.clone()).collect();
    if disk > free {
        warnings.push(format!(
            "the run needs {} and {} are free: make room, or choose another --root",
            table::bytes(disk),
            table::bytes(free)
        ));
    }
    if common.json {
        let rows: Vec<Value> = phases
            .iter()
            .map(|p| {
                let formulas: serde_json::Map<String, Value> =
                    p.formulas.iter().map(|(n, f)| (n.clone(), json!(f))).collect();
                json!({
                    "name": p.name, "params": p.params, "disk_bytes": p.disk, "peak_memory_bytes": p.memory, "micro_batch_rows": p.rows,
                    "tokens": p.tokens, "flops": p.cost.flops, "seconds": p.cost.seconds, "seconds_elsewhere": elsewhere(p.cost.flops),
                    "cost_usd": 0.0, "formulas": formulas,
                })
            })
            .collect();
        output::json(&json!({
            "recipe": recipe.name, "phases": rows, "flops": work, "seconds": seconds, "seconds_elsewhere": elsewhere(work), "disk_bytes": disk, "disk_free_bytes": free,
            "peak_memory_bytes": need, "memory_limit_bytes": limit, "memory_limit_from": limit_from,
            "train_tokens_per_second": speed.train, "forward_tokens_per_second": speed.forward, "warnings": warnings,
        }));
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = phases
        .iter()
        .map(|p| {
            let cells = [
                p.name.into(),
                p.params.to_string(),
                table::bytes(p.memory),
                table::bytes(p.disk),
                p.tokens.to_string(),
                table::flops(p.cost.flops),
                table::seconds(p.cost.seconds),
            ];
            let there = elsewhere(p.cost.flops).map(table::seconds);
            cells.into_iter().chain(there).collect()
        })
        .collect();
    let mut out = format!("recipe `{}`\n\n", recipe.name);
    let header = "phase,parameters,peak memory,disk,tokens,work,time".split(',');
    let there = args.tflops.map(|rate| format!("at {rate} TFLOP/s"));
    let header: Vec<&str> = header.chain(there.as_deref()).collect();
    out += &table::table(&header, &rows);
    for p in &phases {
        out += &format!("\n{}\n", p.name);
        for (name, formula) in &p.formulas {
            out += &format!("  {name:<18} {formula}\n");
        }
    }
    out += &format!(
        "\nmeasured here: {:.0} tokens/s forward and backward, {:.0} forward; times of other work on this machine come on top\n",
        speed.train, speed.forward
    );
    let there = args
        .tflops
        .zip(elsewhere(work))
        .map_or(String::new(), |(rate, there)| {
            format!(" ({} at {rate} TFLOP/s)", table::seconds(there))
        });
    out += &format!(
        "in all: {}, {}{there}, {} on disk ({} free), {} of memory (the {limit_from} allows {}), no cost\n",
        table::flops(work),
        table::seconds(seconds),
        table::bytes(disk),
        table::bytes(free),
        table::bytes(need),
        table::bytes(limit)
    );
    for w in &warnings {
        out += &format!("warning: {w}\n");
    }
    output::text(&out);
    Ok(0)
}

/// Tokens a second of this model on this machine, and the products of one token in FLOP.
struct Speed {
    train: f64,
    forward: f64,
    flops_train: f64,
    flops_forward: f64,
}

/// Time here, and products anywhere.
struct Cost {
    seconds: f64,
    flops: f64,
}

impl Speed {
    /// So many tokens forward and backward, so many forward alone, and so many generated one by one.
    fn cost(&self, trained: u64, forward: u64, generated: u64) -> Cost {
        let [trained, forward, generated] = [trained, forward, generated].map(|n| n as f64);
        Cost {
            seconds: trained / self.train + (forward + generated * DECODE) / self.forward,
            flops: trained * self.flops_train + (forward + generated) * self.flops_forward,
        }
    }
}

/// Rows of one calibration pass.
const ROWS: usize = 1024;

fn calibrate(config: &Config, recipe: &Recipe) -> Speed {
    let model = Cognate::new(config.clone(), 0);
    let length = recipe.cognate.sequence.clamp(2, ROWS);
    let pieces = random_pieces(ROWS.div_ceil(length), length, config.vocab);
    let rows: usize = pieces.pieces.iter().map(|p| p.loss.len()).sum();
    let mut grads = Grads::new(model.params.len());
    let (mut train, mut forward) = (f64::INFINITY, f64::INFINITY);
    let (mut flops_train, mut flops_forward) = (0.0, 0.0);
    for _ in 0..2 {
        let begun = Instant::now();
        let depth = TrainDepth::Random { seed: 0, step: 0 };
        let pass = step::forward_backward(&model, &pieces, depth, 0, &mut grads);
        train = train.min(begun.elapsed().as_secs_f64());
        // A backward pass computes each product twice.
        flops_train = 3.0 * pass.flops as f64 / rows as f64;
        grads.clear();
        let begun = Instant::now();
        let tape = Tape::inference();
        let bound = Bound::new(&tape, &model.params);
        let (batch, _, _) = step::rows(&pieces.pieces);
        model.forward(&bound, &batch, Depth::Halting, None, false);
        forward = forward.min(begun.elapsed().as_secs_f64());
        flops_forward = tape.flops() as f64 / rows as f64;
    }
    Speed {
        train: rows as f64 / train,
        forward: rows as f64 / forward,
        flops_train,
        flops_forward,
    }
}

fn phases(recipe: &Recipe, config: &Config, speed: &Speed, limit: Limit) -> Vec<Phase> {
    let c = &recipe.cognate;
    let params = config.parameters() as u64;
    let file = 4 * params;
    let branch_steps: u64 = c.branch_steps().iter().sum();
    let steps = c.ancestor_steps + branch_steps;
    let tokens = steps * c.tokens_per_step as u64;
    let mut formulas = vec![
        (
            "parameters".into(),
            format!(
                "{params}: sum over the tensors of width {}, {} heads, ffn {}, vocabulary {}, {} blocks, {} slots",
                config.width,
                config.heads,
                config.ffn,
                config.vocab,
                config.blocks.len(),
                config.slots
            ),
        ),
        (
            "file".into(),
            format!("{params} x 4 bytes = {}", table::bytes(file)),
        ),
        (
            "tokens".into(),
            format!(
                "({} ancestor + {branch_steps} branch steps) x {} = {tokens}",
                c.ancestor_steps, c.tokens_per_step
            ),
        ),
    ];
    let steps = train::phases::cognate::steps(c, recipe.model.slots_small, config);
    let fitted = Fitted::of(&steps, limit);
    formulas.extend(fitted.formulas);
    let held: u64 = memory::held(config, c.optim.grokfast_lambda > 0.0)
        .iter()
        .sum();
    let checkpoints = 2 * 4 * held;
    let phase1_disk = 4 * file + checkpoints;
    formulas.push((
        "disk".into(),
        format!(
            "4 final models + 2 checkpoints of 4 models with optimizers = {}",
            table::bytes(phase1_disk)
        ),
    ));
    formulas.push((
        "time".into(),
        format!(
            "{tokens} tokens / {:.0} tokens/s; evaluation on top",
            speed.train
        ),
    ));
    let mut list = vec![Phase {
        name: "cognate",
        params,
        disk: phase1_disk,
        memory: fitted.bytes,
        rows: Some(fitted.rows),
        warning: fitted.warning,
        tokens,
        cost: speed.cost(tokens, 0, 0),
        formulas,
    }];

    let e = &recipe.evomerge;
    let most = evomerge::most_items(&e.settings(recipe.seed));
    let items = match e.budget_items {
        0 => most,
        budget => most.min(budget),
    };
    let searches = if e.random_search { 2 } else { 1 };
    let evolved = items * searches * (e.sequence as u64 / 2);
    list.push(Phase {
        name: "evomerge",
        params,
        disk: file,
        // Four parents, their three differences, and the children of a generation.
        memory: 12 * file,
        rows: None,
        warning: (12 * file > limit.bytes).then(|| {
            format!(
                "the search holds 12 models, {}, and the {} allows {}: lower `model.width` or `model.slots_large`",
                table::bytes(12 * file),
                limit.from,
                table::bytes(limit.bytes)
            )
        }),
        tokens: evolved,
        cost: speed.cost(0, evolved, 0),
        formulas: vec![
            ("scored items".into(), format!("parents, generation 0 and {} generations over rounds of {:?} items, nobody stopped early: {most}, budget {}", e.generations, e.rounds, if e.budget_items == 0 { "none".into() } else { e.budget_items.to_string() })),
            ("tokens".into(), format!("at most {items} items x {searches} with random search x about {} tokens = {evolved}", e.sequence / 2)),
            ("peak memory".into(), format!("12 models of {}", table::bytes(file))),
            ("time".into(), format!("{evolved} tokens / {:.0} tokens/s forward", speed.forward)),
        ],
    });
    list.push(quietstar(recipe, config, speed, limit));
    list.push(bitnet(recipe, config, speed, limit));
    list
}

/// Phase 3.
fn quietstar(recipe: &Recipe, config: &Config, speed: &Speed, limit: Limit) -> Phase {
    let (b, r) = (&recipe.quietstar.baking, &recipe.quietstar.rl);
    let strategies = data::builtin::Strategy::ALL.len();
    let easy =
        2 * b.easy_epochs.min(b.epochs) + strategies * (b.epochs - b.easy_epochs.min(b.epochs));
    // A trace fills about half of the longest that is allowed; the control learns from as many tokens.
    let trace = b.max_len / 2;
    let baked = (2.0 * (easy * b.traces * trace) as f64 / (1.0 - b.replay).max(0.1)) as u64;
    let thoughts = if r.thoughts == 0 { 8 } else { r.thoughts };
    let length = if r.length == 0 { 12 } else { r.length };
    let thought = (r.positions * thoughts * length) as u64;
    let reinforced = r.steps * (2 * thought + r.text_tokens as u64);
    let answers = (strategies
        * (b.held_out + b.held_out_between * b.epochs.saturating_sub(1))
        * b.most_new) as u64;
    let tokens = baked + reinforced + answers;
    let params = config.parameters() as u64;
    let file = 4 * params;
    let fitted = Fitted::of(&train::phases::quietstar::baking::steps(b, config), limit);
    Phase {
        name: "quietstar",
        params,
        disk: file + 2 * 4 * file,
        memory: fitted.bytes,
        rows: Some(fitted.rows),
        warning: fitted.warning,
        tokens,
        cost: speed.cost(baked + reinforced, 0, answers),
        formulas: [fitted.formulas, vec![
            (
                "parameters".into(),
                format!(
                    "{params} + 12 rows of the embedding and a mixing head of {} hidden units",
                    recipe.quietstar.mixing
                ),
            ),
            (
                "baking".into(),
                format!(
                    "2 (with its control) x {easy} strategy epochs x {} traces x about {trace} tokens, replay {} on top = {baked} tokens",
                    b.traces, b.replay
                ),
            ),
            (
                "thoughts".into(),
                format!(
                    "{} steps x (2 x {} positions x {thoughts} thoughts x {length} tokens + {} of text) = {reinforced} tokens",
                    r.steps, r.positions, r.text_tokens
                ),
            ),
            (
                "answers".into(),
                format!(
                    "{strategies} strategies x ({} + {} x {}) prompts x at most {} tokens = {answers}",
                    b.held_out,
                    b.held_out_between,
                    b.epochs.saturating_sub(1),
                    b.most_new
                ),
            ),
            (
                "disk".into(),
                "the model + 2 checkpoints of 4 times its size".into(),
            ),
            (
                "time".into(),
                format!(
                    "{} tokens / {:.0} tokens/s + {answers} generated one by one",
                    baked + reinforced,
                    speed.train
                ),
            ),
        ]].concat(),
    }
}

/// Phase 4.
fn bitnet(recipe: &Recipe, config: &Config, speed: &Speed, limit: Limit) -> Phase {
    let b = &recipe.bitnet;
    let specs = model::params::specification(config);
    let size = |matrix: bool| -> u64 {
        specs
            .iter()
            .filter(|s| (s.role == model::params::Role::Matrix) == matrix)
            .map(|s| s.dims.iter().product::<usize>() as u64)
            .sum()
    };
    let (quantised, kept) = (size(true), size(false));
    let params = quantised + kept;
    // The blocks, and the maps around the core.
    let layers = config.blocks.len() as u64 + 1;
    let steps = layers * b.recover_steps + b.finetune_steps;
    // The champion that is learned from passes forward as well.
    let tokens = steps * b.tokens_per_step as u64;
    let packed = quantised / 4 + 2 * kept;
    let fitted = Fitted::of(&train::phases::bitnet::steps(b, config), limit);
    Phase {
        name: "bitnet",
        params,
        disk: packed + 2 * 4 * 4 * params,
        memory: fitted.bytes,
        rows: Some(fitted.rows),
        warning: fitted.warning,
        tokens,
        cost: speed.cost(tokens, tokens, 0),
        formulas: [fitted.formulas, vec![
            (
                "file".into(),
                format!(
                    "{quantised} matrix elements x 2 bits + {kept} others x 2 bytes = {} ({:.1}x smaller than {})",
                    table::bytes(packed),
                    4.0 * params as f64 / packed as f64,
                    table::bytes(4 * params)
                ),
            ),
            (
                "steps".into(),
                format!(
                    "{layers} layers x {} of recovery + {} of fine-tuning = {steps}",
                    b.recover_steps, b.finetune_steps
                ),
            ),
            (
                "tokens".into(),
                format!("{steps} x {} = {tokens}", b.tokens_per_step),
            ),
            (
                "disk".into(),
                "the packed file + 2 checkpoints of 4 times the model".into(),
            ),
            (
                "time".into(),
                format!(
                    "{tokens} tokens / {:.0} tokens/s + as many forward through the champion",
                    speed.train
                ),
            ),
        ]].concat(),
    }
}

/// How much slower a generated token is than one of many in a forward pass.
const DECODE: f64 = 8.0;

/// The micro-batch that a phase would choose here, and its memory.
struct Fitted {
    rows: usize,
    bytes: u64,
    /// Every term, and how the micro-batch came about.
    formulas: Vec<(String, String)>,
    /// Where nothing fits.
    warning: Option<String>,
}

impl Fitted {
    fn of(steps: &Steps, limit: Limit) -> Self {
        let (rows, why, warning) = match steps.choose(limit) {
            Ok(chosen) if chosen.lowered() => (
                chosen.rows,
                format!(
                    "{} rows: {} as the recipe asks would need {}, and the {} allows {}",
                    chosen.rows,
                    chosen.asked,
                    table::bytes(chosen.asked_bytes),
                    limit.from,
                    table::bytes(limit.bytes)
                ),
                None,
            ),
            Ok(chosen) => (
                chosen.rows,
                format!("{} rows, as the recipe asks", chosen.rows),
                None,
            ),
            Err(fault) => (
                steps.longest,
                format!("{} rows, and even they do not fit", steps.longest),
                Some(fault.to_string()),
            ),
        };
        let lines = (steps.lines)(rows);
        let mut formulas = vec![("micro-batch".to_string(), why)];
        for l in &lines {
            let formula = format!("{} = {}", l.formula, table::bytes(l.bytes));
            formulas.push((format!("step: {}", l.name), formula));
        }
        let bytes = steps.bytes(rows);
        formulas.push((
            "peak memory".into(),
            format!("their sum = {}", table::bytes(bytes)),
        ));
        Self {
            rows,
            bytes,
            formulas,
            warning,
        }
    }
}
