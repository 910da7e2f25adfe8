//! Phase 3: the battery tells thinking from theatre, the policy term pushes the right way, a killed run goes
//! on bit by bit, and a tiny model learns to open and close its thoughts.

use data::{Family, Split, Tokenizer, builtin};
use model::cognate::{Depth, Streaming};
use model::stream::StreamState;
use model::thoughts::{Chains, ThoughtStream, ThoughtToken};
use model::{Batch, Bound, Cognate, Config};
use std::sync::Arc;
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor};
use train::phases::quietstar::battery::{
    Fault, Judgement, Thinker, bootstrap, faults, measure, remedy,
};
use train::phases::quietstar::chains::{
    Place, Policy, Sampling, chains, draw, judged, mix, sample,
};
use train::phases::quietstar::extend::extend;
use train::phases::quietstar::reward::{
    Quantities, advantages, coherence, correlation, diversity, edit_distance, ranks, reward,
};
use train::phases::quietstar::rl::reinforce;
use train::phases::quietstar::silent::{Silent, generate_with_thoughts};
use train::phases::quietstar::{Note, Quietstar, QuietstarRecipe};
use train::{Phase, Source};

/// How a constructed thinker behaves.
#[derive(Clone, Copy, PartialEq)]
enum Mind {
    /// Its thoughts say the answer, more or less often; it listens to them.
    Thinks,
    /// Its thoughts are like the former's, but it never listens.
    Pretends,
    /// It listens, but its thoughts are about other questions.
    Shuffled,
    /// Its thoughts are empty.
    Silent,
}

struct Constructed(Mind);

const POSITIONS: usize = 40;

impl Constructed {
    fn answer(position: usize) -> u32 {
        100 + position as u32
    }

    /// How often a thought names the answer of a position.
    fn mentions(position: usize, thought: &[u32]) -> f64 {
        thought
            .iter()
            .filter(|&&t| t == Self::answer(position))
            .count() as f64
    }
}

impl Thinker for Constructed {
    fn positions(&self) -> usize {
        POSITIONS
    }

    fn thoughts(&self) -> Vec<Vec<Vec<u32>>> {
        let random = Counted::new(7, "constructed", 0);
        (0..POSITIONS)
            .map(|s| {
                let about = if self.0 == Mind::Shuffled {
                    (s + 5) % POSITIONS
                } else {
                    s
                };
                let thought = |k: usize| -> Vec<u32> {
                    if self.0 == Mind::Silent {
                        return Vec::new();
                    }
                    let noise =
                        (0..8).map(|i| random.below((s * 100 + k * 10 + i) as u64, 50) as u32);
                    noise
                        .chain(std::iter::repeat_n(Self::answer(about), 1 + k))
                        .collect()
                };
                (0..4).map(thought).collect()
            })
            .collect()
    }

    fn judge(&self, asked: &[(usize, Option<&[u32]>)]) -> Vec<Judgement> {
        let heard = |s: usize, t: Option<&[u32]>| {
            if self.0 == Mind::Pretends {
                0.0
            } else {
                t.map_or(0.0, |t| Self::mentions(s, t))
            }
        };
        asked
            .iter()
            .map(|&(s, t)| {
                let knows = heard(s, t) > 0.0;
                Judgement {
                    log_p: -5.0 + heard(s, t),
                    answer: vec![if knows { Self::answer(s) } else { 0 }],
                    right: f64::from(u8::from(knows)),
                }
            })
            .collect()
    }

    fn coherence(&self, asked: &[(usize, &[u32])]) -> Vec<f64> {
        coherence(
            &asked
                .iter()
                .map(|(s, t)| Self::mentions(*s, t))
                .collect::<Vec<_>>(),
        )
    }
}

fn limits() -> train::phases::quietstar::BatteryRecipe {
    QuietstarRecipe::default().battery
}

#[test]
fn battery_passes_thoughts_that_carry_the_answer() {
    let m = measure(&Constructed(Mind::Thinks), 500, 1);
    assert_eq!(faults(&m, &limits()), [], "{m:?}");
    assert!(
        m.shuffle_gain.low > 2.0 && m.shuffle_gain.high < 3.0,
        "{m:?}"
    );
    assert_eq!(m, measure(&Constructed(Mind::Thinks), 500, 1));
}

#[test]
fn battery_fails_thoughts_that_are_ignored_shuffled_or_empty() {
    let of = |mind| faults(&measure(&Constructed(mind), 500, 1), &limits());
    let useless = [
        Fault::Divergence,
        Fault::AblationDrop,
        Fault::Correlation,
        Fault::ShuffleGain,
    ];
    assert_eq!(of(Mind::Pretends), useless);
    assert_eq!(of(Mind::Shuffled), useless);
    let silent = of(Mind::Silent);
    assert!(
        [Fault::ThoughtLength, Fault::Diversity, Fault::ShuffleGain]
            .iter()
            .all(|f| silent.contains(f)),
        "{silent:?}"
    );
}

#[test]
fn low_divergence_alone_loosens_the_tie_and_anything_else_tightens_it() {
    assert_eq!(remedy(&[Fault::Divergence]).kl, 0.5);
    let other = remedy(&[Fault::Divergence, Fault::ShuffleGain]);
    assert_eq!((other.kl, other.strictness), (2.0, 1.5));
}

#[test]
fn bootstrap_interval_holds_the_mean_and_narrows_with_more_values() {
    let values: Vec<f64> = (0..400)
        .map(|i| f64::from(Counted::new(3, "values", 0).normal(i)) + 1.0)
        .collect();
    let (few, many) = (bootstrap(&values[..40], 800, 5), bootstrap(&values, 800, 5));
    assert!(few.low < few.mean && few.mean < few.high);
    // The standard error of 400 unit normals is 0.05: the interval is about 0.2 wide.
    assert!((0.15..0.25).contains(&(many.high - many.low)), "{many:?}");
    assert!(few.high - few.low > 2.0 * (many.high - many.low));
}

#[test]
fn rewards_are_shaped_and_judged_within_their_group() {
    assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
    assert_eq!(edit_distance::<u32>(&[], &[1, 2]), 2);
    assert_eq!(
        diversity(&[&[1, 2, 3], &[1, 2, 3], &[4, 5, 6]]),
        [1.5, 1.5, 3.0]
    );
    assert_eq!(ranks(&[3.0, 1.0, 1.0]), [1.0, 0.25, 0.25]);
    assert!((correlation(&[1.0, 2.0, 3.0], &[-2.0, -4.0, -6.0]) + 1.0).abs() < 1e-12);
    let q = Quantities {
        gain: 0.5,
        correct: true,
        length: 10,
        diversity: 5.0,
        coherence: 0.9,
    };
    assert!((reward(&q, 1.0) - 1.9).abs() < 1e-12);
    let incoherent = Quantities {
        coherence: 0.4,
        ..q
    };
    assert!((reward(&q, 1.0) - reward(&incoherent, 1.0) - 0.5).abs() < 1e-12);
    assert!(
        reward(&incoherent, 1.5) < reward(&incoherent, 1.0),
        "stricter pays less"
    );
    assert_eq!(advantages(&[1.0, 3.0, 2.0, 2.0], 2), [-1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn reinforce_learns_the_arm_that_pays() {
    // A bandit of four arms; the policy is one row of logits.
    let mut logits = Tensor::zeros(&[1, 4]);
    for step in 0..200u64 {
        let values = logits.to_vec();
        let random = Counted::new(1, "bandit", step);
        let arms: Vec<u32> = (0..8)
            .map(|i| draw(&values, 1.0, random.uniform(i)))
            .collect();
        let rewards: Vec<f64> = arms
            .iter()
            .map(|&a| if a == 2 { 1.0 } else { 0.0 })
            .collect();
        let tape = Tape::new();
        let row = tape.leaf(&logits, 0);
        let log_p = tape.log_softmax(tape.gather_rows(row, vec![0; arms.len()].into()));
        let nll = tape.scale(tape.gather_cols(log_p, arms.clone().into()), -1.0);
        let policy = Policy {
            nll,
            of_thought: (0..arms.len()).map(|i| i..i + 1).collect(),
        };
        let mut grads = Grads::new(1);
        tape.backward(
            reinforce(&tape, &policy, &advantages(&rewards, arms.len())),
            &mut grads,
        );
        if let Some(g) = grads.get(0) {
            logits.add_scaled_(g, -0.5);
        }
    }
    let v = logits.to_vec();
    let p = v[2].exp() / v.iter().map(|x| x.exp()).sum::<f32>();
    assert!(p > 0.9, "probability of the paying arm {p}");
}

fn tiny_config(vocab: usize) -> Config {
    let mut c = Config::new(vocab, 32, 2, 64, 16, 2);
    (c.window, c.chunk) = (48, 8);
    c
}

/// A model with thoughts whose every tensor matters (fresh output maps are zero).
fn stirred(seed: u64) -> (Cognate, Tokenizer) {
    let texts = builtin::documents(Family::Maths, 1, 60);
    let tokenizer = Tokenizer::train(texts.iter().map(|d| &*d.text), 300).unwrap();
    let (mut model, tokenizer, _) =
        extend(&Cognate::new(tiny_config(300), seed), &tokenizer, 8, seed).unwrap();
    for slot in 0..model.params.len() {
        let noise = Tensor::randn(
            model.params.at(slot).dims(),
            0.08,
            &Counted::new(seed, "stir", slot as u64),
        );
        model.params.at_mut(slot).add_scaled_(&noise, 1.0);
    }
    (model, tokenizer)
}

fn close(a: &[f32], b: &[f32], within: f32) {
    let worst = a
        .iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max);
    assert!(a.len() == b.len() && worst < within, "differ by {worst}");
}

#[test]
fn new_tokens_start_near_the_mean_and_leave_the_model_as_it_was() {
    let texts = builtin::documents(Family::Maths, 1, 60);
    let tokenizer = Tokenizer::train(texts.iter().map(|d| &*d.text), 300).unwrap();
    let model = Cognate::new(tiny_config(300), 3);
    let (grown, extended, added) = extend(&model, &tokenizer, 8, 3).unwrap();
    assert_eq!(
        (added.tokens, extended.vocab_size()),
        (12, tokenizer.vocab_size() + 12)
    );
    assert_eq!(added.after, grown.config.parameters());
    let old = model.params.get("embed.weight").to_vec();
    let new = grown.params.get("embed.weight").to_vec();
    assert_eq!(old[..], new[..old.len()]);
    let mean: Vec<f32> = (0..32)
        .map(|c| old.iter().skip(c).step_by(32).sum::<f32>() / 300.0)
        .collect();
    let row = extended.id_of("<mece>").unwrap() as usize * 32;
    close(&new[row..row + 32], &mean, 0.05);
    assert_ne!(
        new[row..row + 32],
        new[row + 32..row + 64],
        "rows differ by their noise"
    );
    let batch = Batch::single(&[5, 6, 7, 8, 9]);
    let tape = Tape::inference();
    let hidden = |m: &Cognate| {
        let p = Bound::new(&tape, &m.params);
        tape.value(m.forward(&p, &batch, Depth::Full, None, false).hidden)
            .to_vec()
    };
    assert_eq!(hidden(&model), hidden(&grown));
    // A second time nothing is added.
    assert_eq!(extend(&grown, &extended, 8, 3).unwrap().2.tokens, 0);
}

#[test]
fn growing_chains_give_the_states_of_whole_chains() {
    let (model, _) = stirred(5);
    let text: Vec<u32> = (0..23).map(|i| 40 + i * 7 % 200).collect();
    let batch = Batch::new([(&text[..], 0), (&text[3..15], 0)]);
    let place = |segment, row| Place {
        segment,
        row,
        target: vec![60, 61],
        judged: 0..2,
    };
    let places = [place(0, 2), place(0, 17), place(1, 9)];
    let thoughts: Vec<Vec<u32>> = vec![vec![70, 71, 72], vec![80], vec![90, 91, 92, 93]];
    let asked: Vec<(usize, &[u32])> = thoughts
        .iter()
        .enumerate()
        .map(|(i, t)| (i, &t[..]))
        .collect();
    let whole: Chains = chains(&batch, &places, &asked);
    let tape = Tape::inference();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, &batch, Depth::Full, None, true);
    let context = out.context.as_ref().unwrap();
    let expected = tape.value(model.think(&p, context, &whole, 2));
    let mut stream = ThoughtStream::from_text(&model, &p, context, whole.anchors.clone(), 2, 8);
    for step in 0..8 {
        let entries: Vec<(usize, ThoughtToken)> = whole
            .rows
            .iter()
            .enumerate()
            .filter(|(_, r)| step < r.len())
            .map(|(c, r)| (c, whole.tokens[r.start + step]))
            .collect();
        if entries.is_empty() {
            break;
        }
        let hidden = stream.extend(&entries);
        for (row, (c, _)) in entries.iter().enumerate() {
            let at = whole.rows[*c].start + step;
            close(
                &hidden.slice_rows(row..row + 1).to_vec(),
                &expected.slice_rows(at..at + 1).to_vec(),
                2e-4,
            );
        }
    }
}

#[test]
fn chains_behind_a_stream_give_the_states_of_chains_beside_a_text() {
    let (mut model, _) = stirred(8);
    // Every token goes through all passes, in streaming too.
    model.config.act_threshold = 0.0;
    let text: Vec<u32> = (0..21).map(|i| 40 + i * 11 % 200).collect();
    let batch = Batch::single(&text);
    let places = [Place {
        segment: 0,
        row: 20,
        target: vec![60],
        judged: 0..1,
    }];
    let thought = [70u32, 71, 72];
    let whole = chains(&batch, &places, &[(0, &thought)]);
    let tape = Tape::inference();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, &batch, Depth::Full, None, true);
    let expected = tape.value(model.think(&p, out.context.as_ref().unwrap(), &whole, 2));
    let mut state = StreamState::new(&model, 1);
    for part in text.chunks(6) {
        let batch = Batch::new([(part, state.position(0) as u32)]);
        model.forward(
            &p,
            &batch,
            Depth::Halting,
            Some(Streaming {
                state: &mut state,
                sequences: &[0],
            }),
            false,
        );
    }
    let mut stream = ThoughtStream::from_stream(&model, &state, &[0], 2, 2, 8);
    for (step, &token) in whole.tokens.iter().enumerate() {
        let hidden = stream.extend(&[(0, token), (1, token)]);
        let row = expected.slice_rows(step..step + 1).to_vec();
        close(&hidden.slice_rows(0..1).to_vec(), &row, 2e-4);
        close(&hidden.slice_rows(1..2).to_vec(), &row, 2e-4);
    }
}

#[test]
fn a_mixture_of_weight_zero_is_the_model_without_thoughts() {
    let (mut model, _) = stirred(6);
    let text: Vec<u32> = (0..12).map(|i| 50 + i).collect();
    let batch = Batch::single(&text);
    let places = [Place {
        segment: 0,
        row: 5,
        target: vec![9, 10, 11],
        judged: 1..3,
    }];
    let asked: Vec<(usize, &[u32])> = vec![(0, &[70, 71]), (0, &[])];
    let differences = |model: &Cognate| {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &model.params);
        let out = model.forward(&p, &batch, Depth::Full, None, true);
        let grown = chains(&batch, &places, &asked);
        let rows = judged(&batch, &places, &asked, &grown);
        assert_eq!(
            (&rows.base[..], &rows.target[..]),
            (&[6, 7, 6, 7][..], &[10, 11, 10, 11][..])
        );
        let hidden = model.think(&p, out.context.as_ref().unwrap(), &grown, 2);
        let mixed = mix(model, &p, out.hidden, hidden, &rows);
        let base = tape.value(tape.log_softmax(mixed.base)).to_vec();
        tape.value(mixed.log_p)
            .to_vec()
            .iter()
            .zip(&base)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    assert!(differences(&model) > 1e-3);
    model
        .params
        .set("mixing.out.weight", Tensor::zeros(&[1, 8]));
    model
        .params
        .set("mixing.out.bias", Tensor::full(&[1], -60.0));
    assert!(differences(&model) < 1e-5);
}

#[test]
fn thoughts_are_sampled_from_their_seed_and_close_early() {
    let (model, tokenizer) = stirred(7);
    let batch = Batch::single(&[0, 60, 61, 62, 63]);
    let places = [Place {
        segment: 0,
        row: 3,
        target: vec![5],
        judged: 0..1,
    }];
    let run = |seed, close| {
        let tape = Tape::inference();
        let p = Bound::new(&tape, &model.params);
        let out = model.forward(&p, &batch, Depth::Full, None, true);
        let s = Sampling {
            thoughts: 3,
            length: 6,
            temperature: 1.0,
            passes: 2,
            close,
        };
        sample(
            &model,
            &p,
            out.context.as_ref().unwrap(),
            &batch,
            &places,
            s,
            &Counted::new(seed, "t", 0),
        )
    };
    let end = tokenizer.id_of("[/endthinking]").unwrap();
    let a = run(1, end);
    assert_eq!(a, run(1, end));
    assert_ne!(a, run(2, end));
    let second = a[0].tokens[1];
    let cut = run(1, second);
    assert!(
        cut[0].closed
            && cut[0].tokens.len() <= 1
            && cut[0].tokens[..] == a[0].tokens[..cut[0].tokens.len()]
    );
    let how = Silent {
        thoughts: Sampling {
            thoughts: 2,
            length: 4,
            temperature: 1.0,
            passes: 2,
            close: end,
        },
        ahead: 3,
        temperature: 0.0,
        seed: 4,
    };
    let written = generate_with_thoughts(&model, &[0, 60, 61], &[7, 8], 9, &[], how);
    assert_eq!((written.len(), &written[..2]), (9, &[7u32, 8][..]));
    assert_eq!(
        written,
        generate_with_thoughts(&model, &[0, 60, 61], &[7, 8], 9, &[], how)
    );
}

/// Built-in data of a tiny run.
fn source() -> Source {
    let sets: Vec<_> = Family::ALL
        .iter()
        .map(|&f| builtin::documents(f, 1, 120))
        .collect();
    let questions = data::builtin::Strategy::ALL
        .iter()
        .flat_map(|&s| builtin::traces(s, 9, 30, false));
    let sample: Vec<String> = sets
        .iter()
        .flatten()
        .map(|d| d.text.clone())
        .chain(questions.map(|t| format!("{}{}", t.prompt, t.completion)))
        .collect();
    let tokenizer = Tokenizer::train(sample.iter().map(|t| &**t), 420).unwrap();
    let shards = sets
        .iter()
        .map(|d| Arc::new(data::pack_in_memory(d, Split::Train, &tokenizer)))
        .collect();
    Source {
        tokenizer,
        shards,
        items: Vec::new(),
        texts: builtin::texts(1, 60),
        worked: Vec::new(),
        summary: Vec::new(),
    }
}

fn tiny_recipe() -> QuietstarRecipe {
    let mut r = QuietstarRecipe {
        mixing: 8,
        ..QuietstarRecipe::default()
    };
    let b = &mut r.baking;
    (
        b.epochs,
        b.easy_epochs,
        b.traces,
        b.held_out,
        b.held_out_between,
    ) = (2, 1, 3, 2, 1);
    (
        b.batch_tokens,
        b.micro_tokens,
        b.replay,
        b.max_len,
        b.most_new,
        b.range_steps,
        b.lr,
    ) = (512, 0, 0.25, 200, 12, 2, 0.0);
    let l = &mut r.rl;
    (
        l.steps,
        l.thoughts,
        l.length,
        l.positions,
        l.n_true,
        l.text_tokens,
        l.battery_every,
    ) = (4, 3, 6, 4, 3, 96, 2);
    // The mixing head leaves zero in a single step, so that the battery runs in the middle too.
    l.head_lr = 0.5;
    (r.battery.samples, r.battery.thoughts, r.battery.resamples) = (6, 2, 50);
    r
}

#[test]
fn a_run_goes_on_bit_by_bit_from_any_unit() {
    let (source, recipe) = (source(), tiny_recipe());
    let model = Cognate::new(tiny_config(420), 2);
    let mut whole = Quietstar::begin(&recipe, 11, &source, &model, &source.tokenizer).unwrap();
    let mut broken = Quietstar::begin(&recipe, 11, &source, &model, &source.tokenizer).unwrap();
    let mut stages = std::collections::BTreeSet::new();
    let mut remedies = Vec::new();
    while !whole.finished() {
        stages.insert(whole.message().split(',').next().unwrap().to_string());
        let notes = whole.advance(&source).unwrap();
        // The other run is taken apart and put together again after every unit.
        let bag = broken.save();
        broken = Quietstar::resume(&recipe, 11, &source, &bag).unwrap();
        remedies.extend(notes.iter().filter_map(|n| {
            if let Note::Event("remedy", json) = n {
                json["done"].as_str().map(String::from)
            } else {
                None
            }
        }));
        assert_eq!(
            notes,
            broken.advance(&source).unwrap(),
            "unit {}",
            whole.done()
        );
        assert!(whole.done() <= whole.total());
    }
    let (a, b) = (whole.save(), broken.save());
    assert_eq!(a.json, b.json);
    assert_eq!(a.arrays, b.arrays);
    for stage in [
        "range test",
        "baking",
        "control without thinking",
        "thoughts",
        "judging the finished model",
    ] {
        assert!(stages.contains(stage), "{stage} never ran: {stages:?}");
    }
    let section = whole.section(&serde_json::Value::Null, &|| 0.0);
    for pointer in [
        "/tokens_added",
        "/size_increase",
        "/baking/accuracy",
        "/baking/by_strategy/uncertainty",
        "/baking/answer_accuracy_without_thinking",
        "/rl/reward",
        "/rl/thinking_usage",
        "/rl/ms_per_token_with",
        "/anti_theater/shuffle_gain/low",
        "/anti_theater/ablation_drop",
    ] {
        assert!(
            section
                .pointer(pointer)
                .is_some_and(serde_json::Value::is_number),
            "{pointer}: {section}"
        );
    }
    assert_eq!(section["anti_theater"]["passed"], false);
    assert_eq!(section["anti_theater"]["kept"], "baked");
    // An untrained model's thoughts do no work: back once in the middle, and the baked model at the end.
    assert_eq!(
        remedies,
        [
            "rolled back to the last good model",
            "the baked model is kept"
        ]
    );
}

#[test]
fn a_bag_of_another_version_is_refused() {
    let (source, recipe) = (source(), tiny_recipe());
    let model = Cognate::new(tiny_config(420), 2);
    let mut bag = Quietstar::begin(&recipe, 11, &source, &model, &source.tokenizer)
        .unwrap()
        .save();
    bag.version = 99;
    let fault = Quietstar::resume(&recipe, 11, &source, &bag)
        .err()
        .unwrap()
        .to_string();
    assert!(
        fault.contains("99") && fault.contains("quietstar"),
        "{fault}"
    );
}

#[test]
fn settings_that_cannot_run_are_named() {
    let mut r = QuietstarRecipe::default();
    r.validate().unwrap();
    r.rl.thoughts = 1;
    assert!(
        r.validate()
            .unwrap_err()
            .to_string()
            .contains("quietstar.rl.thoughts")
    );
    // The plan's table by size: 25M parameters are below 100 MB.
    assert_eq!(QuietstarRecipe::default().rl.sizes(25_000_000), (8, 20));
    assert_eq!(QuietstarRecipe::default().rl.sizes(100_000_000), (6, 15));
}

#[test]
fn baking_teaches_a_tiny_model_well_formed_thoughts() {
    let source = source();
    let mut recipe = tiny_recipe();
    let b = &mut recipe.baking;
    (
        b.epochs,
        b.easy_epochs,
        b.traces,
        b.held_out,
        b.held_out_between,
    ) = (5, 0, 24, 4, 1);
    (b.batch_tokens, b.replay, b.most_new, b.lr) = (1024, 0.0, 110, 1e-2);
    let mut phase = Quietstar::begin(
        &recipe,
        5,
        &source,
        &Cognate::new(tiny_config(420), 2),
        &source.tokenizer,
    )
    .unwrap();
    while phase.baking_accuracy().len() < 5 {
        phase.advance(&source).unwrap();
    }
    let accuracy = phase.baking_accuracy();
    assert!(
        accuracy[4] > 0.5 && accuracy[0] < accuracy[4],
        "{accuracy:?}"
    );
}
