//! The micro-batch that a phase chooses before its first step, so that it is predicted to fit.

use crate::core::World;
use model::{Cognate, Config};
use train::checkpoint::save_final;
use train::memory::{Limit, Line, Steps};
use train::phases::bitnet::{self, BitnetPhase};
use train::phases::cognate::{CognatePhase, steps};
use train::phases::quietstar::{Quietstar, baking};
use train::{Context, Error, Phase};

fn limit(bytes: u64) -> Limit {
    Limit {
        bytes,
        from: "control group",
    }
}

#[test]
fn the_recipe_is_halved_until_it_is_predicted_to_fit() {
    let of = |micro_tokens: usize, longest: usize| Steps {
        key: "cognate.micro_tokens",
        micro_tokens,
        rows: 1000,
        longest,
        longest_key: "cognate.sequence",
        // 1 MiB whatever the rows, and 1 KiB a row.
        lines: Box::new(|rows| {
            [1 << 20, rows as u64 * 1024]
                .map(|bytes| Line {
                    name: "part",
                    bytes,
                    formula: String::new(),
                })
                .to_vec()
        }),
    };
    let chosen = |micro_tokens: usize, longest: usize, kib: u64| {
        let choice = of(micro_tokens, longest).choose(limit(kib * 1024));
        choice.map(|c| (c.asked, c.rows, c.lowered()))
    };
    // A tenth is left over for what the prediction misses.
    assert_eq!(chosen(0, 100, 2400).unwrap(), (1000, 1000, false));
    assert_eq!(chosen(0, 100, 2200).unwrap(), (1000, 500, true));
    assert_eq!(chosen(600, 100, 1500).unwrap(), (600, 300, true));
    assert_eq!(chosen(4000, 100, 2400).unwrap(), (1000, 1000, false));
    // Down to the longest piece, which is never cut, and which may do without the tenth.
    assert_eq!(chosen(600, 400, 1600).unwrap(), (600, 400, true));
    assert_eq!(chosen(50, 400, 9999).unwrap(), (400, 400, false));
    assert_eq!(chosen(0, 125, 1200).unwrap(), (1000, 125, true));
    let said = chosen(0, 125, 1100).unwrap_err().to_string();
    for part in [
        "`cognate.micro_tokens`",
        "of 125 tokens",
        "2 MiB",
        "control group allows",
        "`cognate.sequence`",
        "`model.slots_large`",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// The state after the ancestor's steps and some of the branches'.
fn trained(cx: &Context) -> Vec<(String, Vec<u8>)> {
    let mut phase = CognatePhase::start(cx).unwrap();
    for _ in 0..8 {
        phase.unit(cx).unwrap();
    }
    let arrays = phase.save().arrays;
    assert!(arrays.iter().any(|a| a.name.starts_with("3/model/")));
    arrays
        .into_iter()
        .map(|a| (a.name, a.bytes.to_vec()))
        .collect()
}

#[test]
fn under_a_small_limit_a_phase_has_the_bits_of_its_micro_batch_set_by_hand() {
    let world = World::new();
    let (recipe, mut config) = (&world.recipe.cognate, world.recipe.model.config());
    config.vocab = world.source.tokenizer.vocab_size();
    let (small, config): (usize, &Config) = (world.recipe.model.slots_small, &config);
    assert_eq!((recipe.micro_tokens, recipe.tokens_per_step), (0, 256));
    let need = |rows: usize| steps(recipe, small, config).bytes(rows);
    // Room for half of the step, not for all of it.
    let memory = limit((need(128) + need(256)) / 2 * 11 / 10);
    let limited = Context {
        memory,
        ..world.context()
    };
    let chosen = trained(&limited);
    let events = world.run.journal().events().unwrap();
    let event = events.iter().find(|e| e.kind == "micro-batch").unwrap();
    assert_eq!(event.json["rows"], 128);
    assert_eq!(event.json["asked"], 256);
    assert_eq!(event.json["limit_from"], "control group");

    let other = World::new();
    let mut by_hand = other.recipe.clone();
    by_hand.cognate.micro_tokens = 128;
    let by_hand = Context {
        recipe: &by_hand,
        ..other.context()
    };
    assert!(trained(&by_hand) == chosen, "chosen and set by hand");
    assert!(
        trained(&World::new().context()) != chosen,
        "the choice shows"
    );

    let none = Context {
        memory: limit(need(48) - 1),
        ..world.context()
    };
    let said = CognatePhase::start(&none).err().unwrap();
    assert!(
        matches!(said, Error::NothingFits { rows: 48, .. }),
        "{said}"
    );
}

/// A limit under which half of the rows that a phase asks for fit, and all do not.
fn half(steps: &Steps) -> (Limit, usize) {
    let all = match steps.micro_tokens {
        0 => steps.rows,
        n => n,
    };
    let between = (steps.bytes(all / 2) + steps.bytes(all)) / 2;
    (limit(between * 11 / 10), all / 2)
}

#[test]
fn phases_three_and_four_choose_theirs_in_the_same_way() {
    let mut world = World::new();
    world.recipe.quietstar.baking.max_len = 400;
    world.recipe.bitnet.sequence = 64;
    let mut config = world.recipe.model.config();
    config.vocab = world.source.tokenizer.vocab_size();
    let (model, tokenizer) = (Cognate::new(config, 1), &world.source.tokenizer);

    let phase = |memory| {
        let cx = Context {
            memory,
            ..world.context()
        };
        Quietstar::start(&cx, &model, tokenizer).map(|p| p.save())
    };
    let extended = phase(limit(u64::MAX)).unwrap();
    assert!(extended.json["record"]["micro_batch"]["fits"].is_null());
    let extended: Config = serde_json::from_slice(&extended.files["config.json"]).unwrap();
    let (memory, rows) = half(&baking::steps(&world.recipe.quietstar.baking, &extended));
    let record = &phase(memory).unwrap().json["record"];
    assert_eq!(record["micro_batch"]["fits"], rows);
    let said = phase(limit(1 << 20)).err().unwrap().to_string();
    assert!(said.contains("`quietstar.baking.max_len`"), "{said}");

    let champion = save_final(
        &world.run,
        "phase3-quietstar",
        "champion",
        &model,
        tokenizer,
    );
    let champion = champion.unwrap();
    let phase = |memory| {
        let cx = Context {
            memory,
            ..world.context()
        };
        BitnetPhase::start(&cx, &champion).map(|p| p.save())
    };
    let fits = |memory| phase(memory).unwrap().json["state"]["micro_batch"]["fits"].clone();
    let (memory, rows) = half(&bitnet::steps(&world.recipe.bitnet, &model.config));
    assert!(fits(limit(u64::MAX)).is_null());
    assert_eq!(fits(memory), rows);
    let said = phase(limit(1 << 20)).err().unwrap().to_string();
    assert!(said.contains("`bitnet.sequence`"), "{said}");
}
