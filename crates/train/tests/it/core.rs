//! The optimizer, the schedule, memory accounting, and phases 1 and 2 going on from any unit.

use std::path::Path;
use store::{Bag, Run};
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor};
use train::optim::{OptimConfig, Optimizer, lr_scale};
use train::phases::cognate::CognatePhase;
use train::phases::evomerge::EvomergePhase;
use train::{Context, Phase, Recipe, Source};

pub(crate) fn recipe() -> Recipe {
    let read = |text: &str| text.parse::<toml::Table>().unwrap();
    let mut table = read(include_str!("../../../../recipes/quick.toml"));
    let small = read(
        r#"
        [data]
        builtin_documents = 80
        items_per_set = 6
        texts_per_set = 3
        tokenizer_bytes = 60_000
        [model]
        vocab = 400
        width = 32
        heads = 2
        ffn = 48
        window = 16
        slots_small = 8
        slots_large = 16
        [cognate]
        ancestor_steps = 4
        epoch_steps = 1
        epochs = [2, 3, 2]
        tokens_per_step = 256
        sequence = 48
        checks = 1
        gate_steps = 2
        gate_tokens = 128
        measure_tokens = 256
        average = 0.5
        [evomerge]
        generations = 1
        rounds = [2, 4]
        finalists = 2
        comparison_items = 4
        sequence = 48
        "#,
    );
    for (key, value) in small {
        let under = table[&key].as_table_mut().unwrap();
        under.extend(value.as_table().unwrap().clone());
    }
    table.try_into().unwrap()
}

pub(crate) struct World {
    _dir: tempfile::TempDir,
    pub(crate) run: Run,
    pub(crate) recipe: Recipe,
    pub(crate) source: Source,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(recipe())
    }

    pub(crate) fn of(recipe: Recipe) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::create(dir.path(), "test", &serde_json::json!({})).unwrap();
        let source = Source::prepare(
            &run.dir().join("data"),
            &recipe.data,
            recipe.model.vocab,
            &|_| {},
        )
        .unwrap();
        Self {
            _dir: dir,
            run,
            recipe,
            source,
        }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            run: &self.run,
            recipe: &self.recipe,
            source: &self.source,
            memory: train::memory::limit(),
            clock: &|| 0.0,
        }
    }

    pub(crate) fn finals(&self, phase: &str) -> Vec<(String, Vec<u8>)> {
        let folder = self.run.dir().join(phase).join("final");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path())
            .map(|p| {
                (
                    p.file_name().unwrap().to_string_lossy().into_owned(),
                    std::fs::read(p).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    }
}

/// Drives a phase; with `hop`, saves and restores it after every unit.
fn drive<P: Phase>(
    cx: &Context,
    mut phase: P,
    restore: impl Fn(&Context, &Bag) -> P,
    hop: bool,
) -> u64 {
    let mut units = 0;
    while !phase.finished() {
        phase.unit(cx).unwrap();
        units += 1;
        if hop {
            phase = restore(cx, &phase.save());
        }
        assert!(phase.done() <= phase.total());
    }
    phase.finish(cx).unwrap();
    units
}

#[test]
fn phases_one_and_two_go_on_from_any_unit_with_the_same_bits() {
    let mut finals = Vec::new();
    for hop in [false, true] {
        let world = World::new();
        let cx = world.context();
        let threads = if hop { 2 } else { 1 };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let units = pool.install(|| {
            let start = CognatePhase::start(&cx).unwrap();
            drive(
                &cx,
                start,
                |cx, bag| CognatePhase::restore(cx, bag).unwrap(),
                hop,
            )
        });
        assert!(units > 15, "{units} units");
        let inputs = EvomergePhase::inputs(&world.run);
        let files: [&Path; 4] = [&inputs[0], &inputs[1], &inputs[2], &inputs[3]];
        pool.install(|| {
            let start = EvomergePhase::start(&cx, &files).unwrap();
            drive(
                &cx,
                start,
                |cx, bag| EvomergePhase::restore(cx, &files, bag).unwrap(),
                hop,
            )
        });
        finals.push((
            world.finals("phase1-cognate"),
            world.finals("phase2-evomerge"),
        ));
    }
    assert_eq!(finals[0].0.len(), 4);
    assert_eq!(finals[0].1.len(), 1);
    for (a, b) in finals[0]
        .0
        .iter()
        .chain(&finals[0].1)
        .zip(finals[1].0.iter().chain(&finals[1].1))
    {
        assert!(a == b, "{} differs", a.0);
    }
}

#[test]
fn the_schedule_warms_up_stays_and_cools_down() {
    let c = OptimConfig {
        warmup: 0.1,
        cooldown: 0.5,
        ..OptimConfig::default()
    };
    let scale: Vec<f32> = (0..100).map(|s| lr_scale(s, 100, &c)).collect();
    assert!((scale[0] - 0.1).abs() < 1e-6 && (scale[4] - 0.5).abs() < 1e-6);
    assert!(scale[9..50].iter().all(|&s| s == 1.0));
    assert!((scale[75] - 0.5).abs() < 1e-6 && scale[99] > 0.0 && scale[99] < 0.05);
}

fn gradients(model: &model::Cognate, direction: f32) -> Grads {
    let mut grads = Grads::new(model.params.len());
    let tape = Tape::new();
    let p = model::Bound::new(&tape, &model.params);
    let mut total = None;
    for name in model.params.names() {
        let random = Counted::new(3, name, 0);
        let g = Tensor::randn(model.params.get(name).dims(), direction, &random);
        let s = tape.sum(tape.mul(p.var(name), tape.constant(&g)));
        total = Some(total.map_or(s, |t| tape.add(t, s)));
    }
    tape.backward(total.unwrap(), &mut grads);
    grads
}

fn small_model() -> model::Cognate {
    model::Cognate::new(model::Config::new(64, 16, 2, 24, 8, 2), 1)
}

#[test]
fn muon_moves_a_matrix_by_a_step_of_fixed_size_whatever_the_gradient() {
    let config = OptimConfig {
        grokfast_lambda: 0.0,
        weight_decay: 0.0,
        clip_norm: f32::MAX,
        ..OptimConfig::default()
    };
    let name = "blocks.0.attn.q.weight";
    let mut sizes = Vec::new();
    for scale in [1e-3, 1.0, 1e3] {
        let mut model = small_model();
        let before = model.params.get(name).clone();
        let mut optimizer = Optimizer::new(&model.params, config.clone());
        let mut grads = gradients(&model, scale);
        optimizer.step(&mut model.params, &mut grads, 1.0, &[]);
        let mut change = model.params.get(name).clone();
        change.add_scaled_(&before, -1.0);
        sizes.push((change.sum_sq() / change.numel() as f64).sqrt());
    }
    // Orthogonal updates of a square matrix have RMS 1/sqrt(16); times 0.2 sqrt(16) lr = 2e-4.
    for s in &sizes {
        assert!((s / 2e-4 - 1.0).abs() < 0.15, "{sizes:?}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_and_is_counted() {
    let mut model = small_model();
    let before: Vec<Vec<f32>> = model.params.iter().map(|(_, t)| t.to_vec()).collect();
    let mut optimizer = Optimizer::new(&model.params, OptimConfig::default());
    let mut grads = gradients(&model, f32::NAN);
    let report = optimizer.step(&mut model.params, &mut grads, 1.0, &[]);
    assert!(report.skipped && optimizer.skipped == 1 && optimizer.step == 0);
    let after: Vec<Vec<f32>> = model.params.iter().map(|(_, t)| t.to_vec()).collect();
    assert_eq!(before, after);
}

#[test]
fn grokfast_amplifies_what_gradients_have_in_common_and_spares_the_embedding() {
    let run = |lambda: f32, name: &str| {
        let mut model = small_model();
        let config = OptimConfig {
            grokfast_lambda: lambda,
            grokfast_alpha: 0.5,
            clip_norm: f32::MAX,
            ..OptimConfig::default()
        };
        let mut optimizer = Optimizer::new(&model.params, config);
        for _ in 0..3 {
            let mut grads = gradients(&model, 1e-3);
            optimizer.step(&mut model.params, &mut grads, 1.0, &[]);
        }
        let (arrays, _) = optimizer.state(&model.params, "");
        let first = arrays
            .into_iter()
            .find(|a| a.name == format!("first/{name}"));
        first.unwrap().to_f32()
    };
    let (off, on) = (run(0.0, "norm.weight"), run(2.0, "norm.weight"));
    // A constant gradient g: the slow part is g (1 - 2^-n), so the filtered one is 2, 2.5 and 2.75 times g.
    let factor = on[0] / off[0];
    let weights = [0.081, 0.09, 0.1];
    let want =
        (2.0 * weights[0] + 2.5 * weights[1] + 2.75 * weights[2]) / weights.iter().sum::<f64>();
    assert!((f64::from(factor) - want).abs() < 1e-3, "{factor} {want}");
    assert_eq!(run(0.0, "embed.weight"), run(2.0, "embed.weight"));
}

#[test]
fn qk_clip_shrinks_the_gains_of_the_heads_that_exceed_it() {
    let mut model = small_model();
    let mut optimizer = Optimizer::new(
        &model.params,
        OptimConfig {
            muon_lr: 0.0,
            adam_lr: 0.0,
            ..OptimConfig::default()
        },
    );
    let mut grads = gradients(&model, 1.0);
    let peaks = [(1, vec![29.0, 120.0])];
    let report = optimizer.step(&mut model.params, &mut grads, 1.0, &peaks);
    assert_eq!(report.qk_clips, 1);
    let gain = |b: usize, n: &str| {
        model
            .params
            .get(&format!("blocks.{b}.attn.{n}_gain"))
            .to_vec()
    };
    assert_eq!(gain(1, "q"), [1.5, 0.75]);
    assert_eq!(gain(1, "k"), [1.0, 0.5]);
    assert_eq!(gain(0, "q"), [1.5, 1.5]);
}

#[test]
fn the_memory_limit_is_the_smallest_on_the_way_up_the_control_groups() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/meminfo", "MemTotal:       8000 kB\nMemFree: 1 kB\n");
    let limit = || {
        let limit = train::memory::limit_under(root.path());
        (limit.bytes, limit.from)
    };
    assert_eq!(limit(), (8000 * 1024, "machine"));
    write("proc/self/cgroup", "0::/a/b\n");
    write("sys/fs/cgroup/a/b/memory.max", "max\n");
    write("sys/fs/cgroup/a/memory.max", "5000000\n");
    assert_eq!(limit(), (5_000_000, "control group"));
    write("proc/self/cgroup", "4:cpu:/x\n3:memory:/y\n0::/nowhere\n");
    write("sys/fs/cgroup/memory/y/memory.limit_in_bytes", "4000000\n");
    assert_eq!(limit(), (4_000_000, "control group"));
    write(
        "proc/self/limits",
        "Limit  Soft Limit\nMax address space         6000000  unlimited  bytes\n",
    );
    write("proc/self/status", "VmSize:\t 3000 kB\nVmRSS:\t 500 kB\n");
    assert_eq!(limit(), (6_000_000 - 3000 * 1024, "address space limit"));
    write(
        "proc/self/limits",
        "Max address space         unlimited  unlimited  bytes\n",
    );
    assert_eq!(limit(), (4_000_000, "control group"));
}

#[test]
fn the_seed_decides_every_bit_of_a_trajectory() {
    let embedding_after_four_steps = |seed: u64| {
        let world = World::new();
        let mut recipe = world.recipe.clone();
        recipe.seed = seed;
        let cx = Context {
            recipe: &recipe,
            ..world.context()
        };
        let mut phase = CognatePhase::start(&cx).unwrap();
        for _ in 0..4 {
            phase.unit(&cx).unwrap();
        }
        let bag = phase.save();
        bag.arrays
            .iter()
            .find(|a| a.name.ends_with("model/embed.weight"))
            .unwrap()
            .bytes
            .clone()
    };
    assert_eq!(
        embedding_after_four_steps(42),
        embedding_after_four_steps(42)
    );
    assert_ne!(
        embedding_after_four_steps(42),
        embedding_after_four_steps(43)
    );
}

#[test]
fn of_a_held_out_text_only_the_beginning_is_scored_whole_characters_of_it() {
    let whole = World::new().source.texts;
    let mut recipe = recipe();
    recipe.data.text_bytes = 33;
    let cut = World::of(recipe).source.texts;
    assert_eq!(whole.len(), cut.len());
    assert!(whole.iter().any(|t| t.text.len() > 33));
    for (whole, cut) in whole.iter().zip(&cut) {
        assert_eq!(cut.text, whole.text[..whole.text.floor_char_boundary(33)]);
    }
}
