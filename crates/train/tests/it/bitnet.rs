//! Phase 4 end to end on a small model: what it writes, what it decides, and that it goes on from any unit.

use data::builtin::{SPECIAL_TOKENS, documents, items, texts};
use data::{Family, Split, Tokenizer, pack_in_memory};
use model::{Batch, Bound, Cognate, Config, Depth, LanguageModel};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use store::{Bag, Run};
use tensor::random::Counted;
use tensor::{Grads, Tape, Tensor};
use train::optim::{OptimConfig, Optimizer};
use train::phases::bitnet::{BitnetPhase, BitnetRecipe, BySize, Codes, is_packed, load_packed};
use train::step::{TrainDepth, forward_backward};
use train::{Context, Phase, Recipe, Source, checkpoint};

fn recipe(bitnet: BitnetRecipe) -> Recipe {
    let mut table: toml::Table = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../recipes/quick.toml"
    ))
    .parse()
    .unwrap();
    table.insert("bitnet".into(), toml::Value::try_from(bitnet).unwrap());
    table.try_into().unwrap()
}

fn small() -> BitnetRecipe {
    BitnetRecipe {
        calibration_samples: Some(12),
        recover_steps: 2,
        ramp: 1,
        finetune_steps: 4,
        tokens_per_step: 200,
        micro_tokens: 120,
        sequence: 60,
        traces: 3,
        layer_limit: 10.0,
        total_limit: 10.0,
        accuracy_limit: 1.0,
        decision_tokens: 300,
        decision_items: 4,
        items: 8,
        thinking_prompts: 1,
        optim: OptimConfig {
            muon_lr: 2e-3,
            adam_lr: 1e-3,
            grokfast_lambda: 0.0,
            ..OptimConfig::default()
        },
        ..BitnetRecipe::default()
    }
}

/// Data and a champion that has learned a little, made once.
fn world() -> &'static (Source, Cognate) {
    static WORLD: OnceLock<(Source, Cognate)> = OnceLock::new();
    WORLD.get_or_init(|| {
        let train: Vec<_> = Family::ALL.iter().map(|&f| documents(f, 5, 60)).collect();
        let mut tokenizer =
            Tokenizer::train(train.iter().flatten().map(|d| &*d.text), 400).unwrap();
        tokenizer.add_special(&SPECIAL_TOKENS);
        let shards: Vec<_> = train
            .iter()
            .map(|d| Arc::new(pack_in_memory(d, Split::Train, &tokenizer)))
            .collect();
        let items = [Family::Maths, Family::Commonsense]
            .into_iter()
            .flat_map(|f| items(f, 5, 20))
            .collect();
        let source = Source {
            tokenizer,
            shards,
            items,
            texts: texts(5, 40),
            worked: Vec::new(),
            summary: Vec::new(),
        };
        let mut config = Config::new(source.tokenizer.vocab_size(), 32, 2, 48, 16, 2);
        (config.window, config.prefix, config.chunk) = (16, 2, 8);
        let mut model = Cognate::new(config, 3);
        let mut optimizer = Optimizer::new(
            &model.params,
            OptimConfig {
                muon_lr: 1e-2,
                adam_lr: 1e-2,
                ..OptimConfig::default()
            },
        );
        let weights = data::weights(
            data::Mixture::Mean,
            data::Stage::Ancestor,
            &source.available(),
        );
        let loader = data::Loader::new(
            source.shards.clone(),
            data::Mix::of(&weights, &source.shards),
            1,
            "test",
        );
        let mut state = data::LoaderState::default();
        for step in 0..30 {
            let batch = loader.batch(&mut state, 400, 60);
            let mut grads = Grads::new(model.params.len());
            let pass = forward_backward(
                &model,
                &batch,
                TrainDepth::Random { seed: 1, step },
                0,
                &mut grads,
            );
            optimizer.step(&mut model.params, &mut grads, 1.0, &pass.peaks);
        }
        (source, model)
    })
}

/// A run folder with the champion's file in it.
struct Place {
    _dir: tempfile::TempDir,
    run: Run,
    recipe: Recipe,
    champion: PathBuf,
}

fn place(bitnet: BitnetRecipe) -> Place {
    let (source, model) = world();
    let dir = tempfile::tempdir().unwrap();
    let run = Run::create(dir.path(), "test", &serde_json::json!({})).unwrap();
    let champion = checkpoint::save_final(
        &run,
        "phase3-quietstar",
        "champion",
        model,
        &source.tokenizer,
    )
    .unwrap();
    Place {
        _dir: dir,
        run,
        recipe: recipe(bitnet),
        champion,
    }
}

impl Place {
    fn context(&self) -> Context<'_> {
        Context {
            run: &self.run,
            recipe: &self.recipe,
            source: &world().0,
            memory: train::memory::limit(),
            clock: &|| 0.0,
        }
    }

    fn run(&self) -> (BitnetPhase, serde_json::Value) {
        let cx = self.context();
        let mut phase = BitnetPhase::start(&cx, &self.champion).unwrap();
        while !phase.finished() {
            assert!(
                phase.total() > phase.done(),
                "at unit {}: {}",
                phase.done(),
                phase.message()
            );
            phase.unit(&cx).unwrap();
        }
        assert_eq!(phase.total(), phase.done());
        let report = phase.finish(&cx).unwrap();
        (phase, report)
    }

    fn packed(&self) -> PathBuf {
        self.run
            .dir()
            .join("phase4-bitnet/final/model.packed.safetensors")
    }
}

fn logits(model: &Cognate, tokens: &[u32]) -> Tensor {
    let tape = Tape::inference();
    let p = Bound::new(&tape, &model.params);
    let out = model.forward(&p, &Batch::single(tokens), Depth::Full, None, false);
    tape.value(model.logits(&p, out.hidden))
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn the_whole_phase_writes_a_packed_model_that_runs_and_reports_it() {
    let place = place(small());
    let (_, report) = place.run();
    let (model, tokenizer) = load_packed(&place.packed()).unwrap();
    let champion = &world().1;
    assert!(is_packed(&place.packed()).unwrap() && !is_packed(&place.champion).unwrap());
    assert_eq!(model.parameters(), champion.parameters());
    assert_eq!(tokenizer.hash(), world().0.tokenizer.hash());
    // Every matrix but the memories' gates.
    assert_eq!(model.packed.len(), 8 * 7 + 2 * 3 + 2);

    let fields = [
        "seconds",
        "model",
        "file_bytes",
        "compression_fp32",
        "compression_fp16",
        "sparsity",
        "zero_count",
        "quantised_params",
        "kept_params",
        "accuracy_before",
        "accuracy_after",
        "accuracy_drop",
        "bits_per_byte_before",
        "bits_per_byte_after",
        "decode_speedup",
        "thinking_usage_before",
        "thinking_usage_after",
        "reverted_layers",
    ];
    for field in fields {
        assert!(report.get(field).is_some(), "report lacks `{field}`");
    }
    for field in ["calibration", "compression", "fine_tuning"] {
        assert!(
            report["seconds"][field].is_number(),
            "seconds lack `{field}`"
        );
    }
    let number = |f: &str| report[f].as_f64().unwrap();
    assert_eq!(number("file_bytes") as u64, size(&place.packed()));
    assert_eq!(
        number("compression_fp32"),
        size(&place.champion) as f64 / size(&place.packed()) as f64
    );
    assert_eq!(
        (number("quantised_params") + number("kept_params")) as usize,
        champion.parameters()
    );
    assert!((0.2..0.7).contains(&number("sparsity")));
    assert!(
        number("bits_per_byte_after") < number("bits_per_byte_before") * 1.5,
        "{report}"
    );
    assert_eq!(report["thinking_prompts"], 10);
    assert_eq!(report["reverted_layers"], serde_json::json!([]));
}

#[test]
fn from_any_unit_the_phase_goes_on_to_the_same_file() {
    let straight = place(small());
    straight.run();
    let broken = place(small());
    let cx = broken.context();
    let mut phase = BitnetPhase::start(&cx, &broken.champion).unwrap();
    while !phase.finished() {
        phase.unit(&cx).unwrap();
        let bag = phase.save();
        // As it comes back from disk.
        let json = serde_json::from_str(&bag.json.to_string()).unwrap();
        phase = BitnetPhase::restore(&cx, &Bag { json, ..bag }).unwrap();
    }
    assert_eq!(
        std::fs::read(straight.packed()).unwrap(),
        std::fs::read(broken.packed()).unwrap()
    );
}

#[test]
fn a_layer_that_costs_too_much_is_put_back() {
    let place = place(BitnetRecipe {
        recover_steps: 0,
        ramp: 0,
        finetune_steps: 0,
        layer_limit: 0.0,
        ..small()
    });
    let (_, report) = place.run();
    let layers = report["layers"].as_array().unwrap();
    let reverted: Vec<&str> = report["reverted_layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect();
    assert!(!reverted.is_empty() && layers.len() == 9, "{report}");
    let (model, _) = load_packed(&place.packed()).unwrap();
    for layer in layers {
        let (name, cost) = (
            layer["name"].as_str().unwrap(),
            layer["cost"].as_f64().unwrap(),
        );
        let kept = layer["kept"].as_bool().unwrap();
        assert_eq!(kept, cost <= 0.0, "{layer}");
        assert_eq!(kept, !reverted.contains(&name), "{layer}");
        let matrices: Vec<&String> = model
            .params
            .names()
            .iter()
            .filter(|n| n.starts_with(&format!("{name}.")) && n.ends_with("ffn.up.weight"))
            .collect();
        for m in matrices {
            assert_eq!(model.packed.contains_key(m), kept, "{m}");
            if !kept {
                let (found, wanted) = (
                    model.params.get(m).to_vec(),
                    world().1.params.get(m).to_vec(),
                );
                assert!(
                    found
                        .iter()
                        .zip(&wanted)
                        .all(|(f, w)| (f - w).abs() <= 1e-3 * w.abs() + 1e-7),
                    "{m} is the champion's in half precision"
                );
            }
        }
    }
}

#[test]
fn a_costly_layer_is_recovered_twice_as_long_before_it_is_put_back() {
    let place = place(BitnetRecipe {
        layer_limit: 0.0,
        finetune_steps: 0,
        optim: OptimConfig {
            muon_lr: 0.0,
            adam_lr: 0.0,
            ..small().optim
        },
        ..small()
    });
    let (_, report) = place.run();
    let layers = report["layers"].as_array().unwrap();
    let reverted = layers.iter().filter(|l| l["kept"] == false).count();
    assert!(reverted > 0, "{report}");
    let rows = place
        .run
        .journal()
        .metrics(&store::Filter {
            name: Some("recovery/loss".into()),
            ..Default::default()
        })
        .unwrap();
    assert_eq!(rows.len(), 2 * layers.len() + 2 * reverted);
}

#[test]
fn when_the_whole_costs_too_much_conservative_settings_are_tried_once() {
    let place = place(BitnetRecipe {
        sparsity: Some(0.2),
        total_limit: 0.0,
        finetune_steps: 1,
        recover_steps: 1,
        ..small()
    });
    let (_, report) = place.run();
    assert_eq!(report["conservative"], true);
    assert!((report["sparsity_threshold"].as_f64().unwrap() - 0.05).abs() < 1e-6);
    let (model, _) = load_packed(&place.packed()).unwrap();
    assert!(
        model
            .packed
            .keys()
            .all(|n| !n.starts_with("blocks.7.") && !n.starts_with("core."))
    );
    assert!(model.packed.contains_key("blocks.0.ffn.up.weight"));
    let alerts = place.run.journal().alerts().unwrap();
    assert!(
        alerts.iter().any(|a| a.detector == "accuracy-drop"),
        "{alerts:?}"
    );
    let actions: Vec<_> = place
        .run
        .journal()
        .events()
        .unwrap()
        .into_iter()
        .filter(|e| e.kind == "judged")
        .map(|e| e.json["action"].clone())
        .collect();
    assert_eq!(
        actions,
        [
            "fine-tune-longer",
            "conservative-settings",
            "fine-tune-longer",
            "go-on"
        ]
    );
}

#[test]
fn a_low_ratio_puts_the_embedding_into_8_bits() {
    let file = |target: f64, packing: Codes| {
        let place = place(BitnetRecipe {
            target_compression: Some(target),
            packing,
            recover_steps: 0,
            ramp: 0,
            finetune_steps: 0,
            ..small()
        });
        let (_, report) = place.run();
        (
            report["embedding"].clone(),
            size(&place.packed()),
            logits(&load_packed(&place.packed()).unwrap().0, &[5, 9, 300, 7]).to_vec(),
        )
    };
    let (half, large, a) = file(1.0, Codes::Base3);
    let (eight, little, _) = file(100.0, Codes::Base3);
    let (_, two_bit, b) = file(1.0, Codes::TwoBit);
    assert_eq!((half, eight), ("half".into(), "eight".into()));
    assert!(
        little < large && large < two_bit,
        "{little} {large} {two_bit}"
    );
    assert_eq!(a, b, "the packing is no part of the model");
}

#[test]
fn a_damaged_file_is_refused_with_what_is_wrong() {
    let place = place(BitnetRecipe {
        recover_steps: 0,
        ramp: 0,
        finetune_steps: 0,
        ..small()
    });
    place.run();
    let (mut arrays, meta) = store::read_safetensors(place.packed()).unwrap();
    let bad = place.run.dir().join("bad.safetensors");
    let trits = arrays
        .iter()
        .position(|a| a.name == "blocks.0.attn.q.weight.trits")
        .unwrap();
    arrays[trits].bytes[3] = 1;
    store::write_safetensors(&bad, &arrays, &meta).unwrap();
    let message = load_packed(&bad).err().unwrap().to_string();
    assert!(
        message.contains("blocks.0.attn.q.weight") && message.contains("byte 1 at 3"),
        "{message}"
    );
    arrays.remove(trits);
    store::write_safetensors(&bad, &arrays, &meta).unwrap();
    let message = load_packed(&bad).err().unwrap().to_string();
    assert!(
        message.contains("blocks.0.attn.q.weight") && message.contains("missing"),
        "{message}"
    );
    let message = load_packed(&place.champion).err().unwrap().to_string();
    assert!(message.contains("forge.packed"), "{message}");
}

#[test]
fn settings_follow_the_size_of_the_model_unless_the_recipe_says_otherwise() {
    let r = BitnetRecipe::default();
    let of = |n| BySize::of(n, &r);
    for (n, s, target, samples) in [
        (25_000_000, 0.05, 6.0, 500),
        (124_000_000, 0.1, 8.0, 1000),
        (1_500_000_000, 0.15, 10.0, 2000),
        (7_000_000_000, 0.2, 12.0, 5000),
    ] {
        assert_eq!(
            of(n),
            BySize {
                sparsity: s,
                target_compression: target,
                calibration_samples: samples
            }
        );
    }
    let own = BySize::of(
        25_000_000,
        &BitnetRecipe {
            sparsity: Some(0.3),
            ..r
        },
    );
    assert_eq!(
        (
            own.sparsity,
            own.conservative().sparsity,
            own.conservative().target_compression
        ),
        (0.3, 0.05, 4.0)
    );
    let message = BitnetRecipe {
        ramp: 9,
        recover_steps: 3,
        ..small()
    }
    .validate()
    .unwrap_err()
    .to_string();
    assert!(
        message.contains("bitnet.ramp") && message.contains("found 9"),
        "{message}"
    );
}

#[test]
fn calibration_and_recovery_are_the_same_at_any_thread_count() {
    let file = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let place = place(small());
        pool.install(|| place.run());
        std::fs::read(place.packed()).unwrap()
    };
    assert_eq!(file(1), file(3));
}

#[test]
fn a_packed_model_streams_as_it_reads() {
    let place = place(BitnetRecipe {
        recover_steps: 0,
        ramp: 0,
        finetune_steps: 0,
        ..small()
    });
    place.run();
    let (mut model, _) = load_packed(&place.packed()).unwrap();
    // Every token runs all passes, so that both ways agree on depth.
    model.config.act_threshold = 0.0;
    let random = Counted::new(1, "tokens", 0);
    let tokens: Vec<u32> = (0..40).map(|i| random.below(i, 400) as u32).collect();
    let whole = logits(&model, &tokens);
    let mut stream = model.stream(1);
    for (i, token) in tokens.iter().enumerate() {
        let row = stream.extend(&[(0, &[*token])]).to_vec();
        let wanted = whole.slice_rows(i..i + 1).to_vec();
        let far = row
            .iter()
            .zip(&wanted)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        // 8-bit activations may round to a neighbouring step where sums differ in the last bit.
        assert!(far < 0.05, "row {i}: {far}");
    }
}
