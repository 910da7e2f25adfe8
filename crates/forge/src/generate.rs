//! `forge generate` and `forge chat`: text from a model, shown as it comes; with silent thoughts it comes at once.

use crate::args::Common;
use crate::fault::usage;
use crate::models::{self, Kind, Loaded, Text};
use crate::output;
use anyhow::{Context as _, Result};
use clap::Args;
use data::builtin::SPECIAL_TOKENS;
use model::{Cognate, Sampler, Stream};
use serde_json::json;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;
use train::phases::quietstar::chains as thinking;
use train::phases::quietstar::silent::{Silent, generate_with_thoughts};

/// Tokens written between two rounds of silent thinking.
const AHEAD: usize = 4;

/// How the next token is chosen.
#[derive(Args)]
struct Sampling {
    /// 0 takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    temperature: f32,
    /// Only the N most likely tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Only the most likely tokens that make up this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the sampling; the same seed gives the same text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most new tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    most: usize,
    /// Weights in bf16: half the memory, faster, a little less exact
    #[arg(long)]
    bf16: bool,
    /// Tokenizer of a model that has none beside it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
}

impl Sampling {
    fn load(&self, name: &str, common: &Common) -> Result<Loaded> {
        let mut model = models::load(name, self.tokenizer.as_deref(), common)?;
        if self.bf16 {
            model.kind.narrow();
        }
        Ok(model)
    }

    fn sampler(&self) -> Result<Sampler> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return usage(format!(
                "--temperature {}: allowed is 0 or more",
                self.temperature
            ));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return usage(format!(
                "--top-p {}: allowed is above 0, up to 1",
                self.top_p
            ));
        }
        Ok(Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed,
        })
    }
}

#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file
    model: String,
    /// What the text begins with; read from standard input without it
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// Think silently in N parallel thoughts beside the text (models of Phases 3 and 4)
    #[arg(long, value_name = "N", default_value_t = 0)]
    thoughts: usize,
    /// Most tokens of a silent thought
    #[arg(long, value_name = "N", default_value_t = 12)]
    thought_length: usize,
    #[command(flatten)]
    sampling: Sampling,
}

#[derive(Args)]
pub(crate) struct ChatArgs {
    /// RUN, RUN/PHASE, RUN/PHASE/NAME, a folder or a file
    model: String,
    /// Ask for visible thinking in this strategy, such as chain_of_thought
    #[arg(long, value_name = "STRATEGY")]
    think: Option<String>,
    /// Keep what was said before in mind; without it every question stands alone
    #[arg(long)]
    remember: bool,
    #[command(flatten)]
    sampling: Sampling,
}

pub(crate) fn generate(args: &GenerateArgs, common: &Common) -> Result<u8> {
    let sampler = args.sampling.sampler()?;
    let model = args.sampling.load(&args.model, common)?;
    let prompt = match &args.prompt {
        Some(p) => p.clone(),
        None => std::io::read_to_string(std::io::stdin()).context("reading standard input")?,
    };
    let tokens = model.encode(&prompt);
    if tokens.is_empty() {
        return usage("the prompt is empty; give one with --prompt TEXT");
    }
    let silent = silent(args, &model)?;
    let begun = Instant::now();
    if !common.json {
        output::text(&prompt);
    }
    let mut show = |piece: &str| {
        if !common.json {
            output::text(piece);
        }
    };
    let most = args.sampling.most;
    let made = match silent {
        Some((m, how)) => {
            let made = generate_with_thoughts(m, &tokens, &[], most, &model.stop(), how);
            show(&model.decode(&made));
            made
        }
        None => {
            let mut stream = model.language().stream(1);
            talk(&model, &mut *stream, &tokens, sampler, most, &mut show)
        }
    };
    if common.json {
        output::json(&json!({
            "prompt": prompt,
            "text": model.decode(&made),
            "tokens": made.len(),
            "prompt_tokens": tokens.len(),
            "seconds": begun.elapsed().as_secs_f64(),
        }));
    } else {
        output::text("\n");
    }
    Ok(0)
}

/// How to think beside the text, when `--thoughts` asks for it and the model can.
fn silent<'a>(args: &GenerateArgs, model: &'a Loaded) -> Result<Option<(&'a Cognate, Silent)>> {
    if args.thoughts == 0 {
        return Ok(None);
    }
    let (Kind::Cognate(m), Text::Tokenizer(tokenizer)) = (&model.kind, &model.text) else {
        return usage("--thoughts: this model is from elsewhere and has no silent thoughts");
    };
    let close = tokenizer.id_of(SPECIAL_TOKENS[1]);
    let (Some(close), true) = (close, m.config.mixing > 0) else {
        return usage(format!(
            "--thoughts: {} has no mixing head; silent thoughts come with Phase 3 (forge quietstar)",
            model.path.display()
        ));
    };
    let thoughts = thinking::Sampling {
        thoughts: args.thoughts,
        length: args.thought_length.max(1),
        temperature: 1.0,
        passes: m.config.passes,
        close,
    };
    let how = Silent {
        thoughts,
        ahead: AHEAD,
        temperature: args.sampling.temperature,
        seed: args.sampling.seed,
    };
    Ok(Some((m, how)))
}

pub(crate) fn chat(args: &ChatArgs, common: &Common) -> Result<u8> {
    let sampler = args.sampling.sampler()?;
    if common.json {
        return usage("chat has no JSON form; use: forge generate MODEL --prompt TEXT --json");
    }
    let think = match &args.think {
        Some(name) => {
            let known: Vec<&str> = data::builtin::Strategy::ALL
                .iter()
                .map(|s| s.name())
                .collect();
            if !known.contains(&name.as_str()) {
                return usage(format!(
                    "--think {name}: no such strategy; there are {}",
                    known.join(", ")
                ));
            }
            format!("\nThink: {name}")
        }
        None => String::new(),
    };
    let model = args.sampling.load(&args.model, common)?;
    let mut stream = model.language().stream(1);
    let person = std::io::stdin().is_terminal();
    if person {
        eprintln!("{}; an empty line or Ctrl-D ends", model.path.display());
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if person {
            eprint!("> ");
        }
        let Some(line) = lines.next() else {
            return Ok(0);
        };
        let line = line.context("reading standard input")?;
        if line.trim().is_empty() {
            return Ok(0);
        }
        if !args.remember {
            stream.reset(0);
        }
        // The manner in which our models learn to be asked.
        let tokens = model.encode(&format!("Question: {}{think}\nAnswer:", line.trim()));
        let most = args.sampling.most;
        talk(
            &model,
            &mut *stream,
            &tokens,
            sampler,
            most,
            &mut output::text,
        );
        output::text("\n");
    }
}

/// Feeds the prompt and continues it until a stop token; pieces of text are shown as soon as they are whole
/// characters.
fn talk(
    model: &Loaded,
    stream: &mut dyn Stream,
    prompt: &[u32],
    sampler: Sampler,
    most: usize,
    show: &mut dyn FnMut(&str),
) -> Vec<u32> {
    let stop = model.stop();
    let (mut made, mut shown): (Vec<u32>, usize) = (Vec::new(), 0);
    let mut logits = stream.extend(&[(0, prompt)]).to_vec();
    for step in 0..most {
        let token = sampler.choose(&logits, 0, step as u64);
        if stop.contains(&token) {
            break;
        }
        made.push(token);
        let text = model.decode(&made);
        if !text.ends_with('\u{fffd}') && text.is_char_boundary(shown) && text.len() > shown {
            show(&text[shown..]);
            shown = text.len();
        }
        if step + 1 < most {
            logits = stream.extend(&[(0, &[token])]).to_vec();
        }
    }
    made
}
