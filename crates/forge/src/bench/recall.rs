//! What the memory is worth on text that needs it: facts given early and asked for late, at one, four and sixteen times
//! the length trained on.
//!
//! A model with memory and one of equal size without are trained on the same generated texts of about one sequence, with
//! the recipe's optimizer, and asked on longer ones, all facts at the beginning and all questions at the end. Controls: the
//! memory model without its writes, and texts whose facts are another text's.

use super::curve::Variant;
use crate::args::Common;
use crate::fault::usage;
use crate::{output, recipes, run, runs, table};
use anyhow::Result;
use clap::Args;
use data::builtin::{Facts, Recall, recall};
use data::{Batch, Family, Piece, Tokenizer};
use model::{Cognate, Depth};
use serde_json::{Value, json};
use std::time::Instant;
use tensor::Grads;
use train::optim::{Optimizer, lr_scale};
use train::step::{TrainDepth, forward_backward, rows};
use train::{Recipe, Source};

/// Seed of the texts that are asked on; training counts on the seeds of the command.
const ASKED: u64 = 1 << 40;

#[derive(Args)]
pub(crate) struct RecallArgs {
    /// A run, whose tokenizer and recipe are taken
    run: String,
    /// Tokens that each model is trained on
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    tokens: u64,
    /// Seed of weights and texts (repeatable)
    #[arg(long, value_name = "N", default_values_t = [0])]
    seed: Vec<u64>,
    /// Lengths that are asked on, in sequences of training (repeatable)
    #[arg(long, value_name = "N", default_values_t = [1, 4, 16])]
    length: Vec<usize>,
    /// Facts of a text
    #[arg(long, value_name = "N", default_value_t = 3)]
    facts: usize,
    /// Texts that are asked on
    #[arg(long, value_name = "N", default_value_t = 64)]
    texts: usize,
}

pub(super) fn run(args: &RecallArgs, common: &Common) -> Result<u8> {
    if args.tokens == 0 || args.texts == 0 || args.length.contains(&0) {
        return usage("--tokens, --texts and --length are at least 1");
    }
    if !(1..=12).contains(&args.facts) {
        return usage("--facts is 1 to 12: there are twelve people");
    }
    let found = runs::read(&common.root, &args.run)?;
    let recipe = recipes::change(&run::recipe_of(&found)?, &common.set)?;
    let source = Source::open(&found.dir().join("data"))?;
    let texts = Texts::new(&source.tokenizer, args.facts, recipe.cognate.sequence);
    let (mut rows, mut models) = (Vec::new(), Vec::new());
    for variant in [Variant::Plain, Variant::Memory] {
        for &seed in &args.seed {
            let (model, seconds) = train(args, &recipe, &texts, variant, seed);
            let mut lengths = Vec::new();
            for &length in &args.length {
                let asked = asked(args, &texts, &model, variant, length);
                for row in asked["answers"].as_array().into_iter().flatten() {
                    rows.push(row_of(variant, seed, &asked, row));
                }
                lengths.push(asked);
            }
            models.push(
                json!({ "variant": variant.name(), "seed": seed, "parameters": model.params.count(),
                "tokens": args.tokens, "seconds": seconds, "lengths": lengths }),
            );
        }
    }
    if common.json {
        output::json(
            &json!({ "run": args.run, "facts": args.facts, "window": recipe.model.window, "models": models }),
        );
    } else {
        let header = [
            "variant",
            "seed",
            "tokens a text",
            "condition",
            "nats an answer",
            "sure and right",
        ];
        output::text(&table::table(&header, &rows));
    }
    Ok(0)
}

fn row_of(variant: Variant, seed: u64, asked: &Value, row: &Value) -> Vec<String> {
    let number = |v: &Value, digits: usize| format!("{:.digits$}", v.as_f64().unwrap_or(f64::NAN));
    vec![
        variant.name(),
        seed.to_string(),
        number(&asked["tokens_a_text"], 0),
        row["condition"].as_str().unwrap_or("").into(),
        number(&row["nats"], 3),
        number(&row["sure"], 3),
    ]
}

/// Makes texts of about so many sequences.
struct Texts<'a> {
    tokenizer: &'a Tokenizer,
    facts: usize,
    /// Tokens of a sequence of training.
    sequence: usize,
    /// Tokens of facts and questions, and those that a story adds.
    fixed: f64,
    story: f64,
}

impl<'a> Texts<'a> {
    fn new(tokenizer: &'a Tokenizer, facts: usize, sequence: usize) -> Self {
        let mut texts = Self {
            tokenizer,
            facts,
            sequence,
            fixed: 0.0,
            story: 1.0,
        };
        let mean = |stories: usize, place: Facts| {
            let lengths = (0..64).map(|i| {
                texts
                    .piece(&recall(ASKED, i, facts, stories, place))
                    .0
                    .tokens
                    .len()
            });
            lengths.sum::<usize>() as f64 / 64.0
        };
        let (none, ten) = (mean(0, Facts::First), mean(10, Facts::First));
        (texts.fixed, texts.story) = (none, (ten - none) / 10.0);
        texts
    }

    /// Stories that make a text as long as `length` sequences.
    fn stories(&self, length: usize) -> usize {
        (((length * self.sequence) as f64 - self.fixed) / self.story).max(1.0) as usize
    }

    /// A text as a sequence, and where its answers are predicted.
    fn piece(&self, text: &Recall) -> (Piece, Vec<std::ops::Range<usize>>) {
        let mut tokens = vec![self.tokenizer.end_of_document()];
        let mut answers = Vec::new();
        for (part, is_answer) in &text.parts {
            let begun = tokens.len() - 1;
            tokens.extend(self.tokenizer.encode(part));
            if *is_answer {
                answers.push(begun..tokens.len() - 1);
            }
        }
        let loss = vec![1.0; tokens.len() - 1];
        let piece = Piece {
            tokens,
            loss,
            start: 0,
            dataset: 0,
            family: Family::Language,
        };
        (piece, answers)
    }
}

/// Trains a variant; gives it with the seconds that its steps took.
fn train(
    args: &RecallArgs,
    recipe: &Recipe,
    texts: &Texts,
    variant: Variant,
    seed: u64,
) -> (Cognate, f64) {
    let config = variant.config(recipe, texts.tokenizer.vocab_size());
    let mut model = variant.model(config, seed);
    let recipe = &variant.recipe(recipe, seed).cognate;
    let mut optimizer = Optimizer::new(&model.params, recipe.optim.clone());
    let total = args.tokens.div_ceil(recipe.tokens_per_step as u64);
    // A question after each story makes texts longer: as many stories as one sequence holds with them.
    let stories = texts.stories(1).saturating_sub(1).max(1);
    let (mut index, mut seconds) = (0, 0.0);
    for step in 0..total {
        let mut batch = Batch { pieces: Vec::new() };
        while batch.predictions() < recipe.tokens_per_step {
            let text = recall(seed, index, texts.facts, stories, Facts::Anywhere);
            batch.pieces.push(texts.piece(&text).0);
            index += 1;
        }
        let begun = Instant::now();
        let mut grads = Grads::new(model.params.len());
        let depth = TrainDepth::Same(1);
        let pass = forward_backward(&model, &batch, depth, recipe.micro_tokens, &mut grads);
        let scale = lr_scale(step, total, &optimizer.config);
        optimizer.step(&mut model.params, &mut grads, scale, &pass.peaks);
        seconds += begun.elapsed().as_secs_f64();
    }
    (model, seconds)
}

/// Asks a model on texts of so many sequences, as it is and under the controls.
fn asked(
    args: &RecallArgs,
    texts: &Texts,
    model: &Cognate,
    variant: Variant,
    length: usize,
) -> Value {
    let stories = texts.stories(length);
    let mut silent = model.clone();
    silent.config.theta_max = 0.0;
    let mut conditions = vec![
        ("facts first", model, Facts::First),
        ("others' facts", model, Facts::OthersFirst),
    ];
    if variant == Variant::Memory {
        conditions.push(("no writes", &silent, Facts::First));
    }
    let mut tokens = 0;
    let answers: Vec<Value> = conditions
        .into_iter()
        .map(|(condition, model, place)| {
            let (mut nats, mut sure, mut count) = (0.0, 0, 0);
            tokens = 0;
            for index in 0..args.texts {
                let text = recall(ASKED, index, texts.facts, stories, place);
                let (piece, answers) = texts.piece(&text);
                tokens += piece.tokens.len();
                let (batch, targets, _) = rows(std::slice::from_ref(&piece));
                let (nll, _) = model.nll(&batch, &targets, Depth::Full);
                for answer in answers {
                    let of_answer: f64 = nll[answer].iter().map(|&x| f64::from(x)).sum();
                    nats += of_answer;
                    sure += usize::from(of_answer < std::f64::consts::LN_2);
                    count += 1;
                }
            }
            let count = f64::from(count);
            json!({ "condition": condition, "nats": nats / count, "sure": sure as f64 / count })
        })
        .collect();
    json!({ "length": length, "tokens_a_text": tokens as f64 / args.texts as f64, "answers": answers })
}
