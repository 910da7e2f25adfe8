//! The command line: what was typed, validated; expensive objects are built by the commands.

use crate::fault::usage;
use crate::{
    bench, datasets, doctor, eval, evolving, generate, intervene, merging, plan, report, reproduce,
    run, runs, single, tokenizer,
};
use anyhow::Result;
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

/// Stack of a thread of the pool, in bytes: what a main thread has.
const STACK: usize = 8 << 20;

const EXAMPLES: &str = "\
Examples:
  forge run                                  all four phases on built-in data, in minutes
  forge run quick --run mine --data texts/   with a folder of your own text
  forge status mine                          where it stands
  forge resume mine                          go on after Ctrl-C, a crash or a pulled plug
  forge report mine                          what came out
  forge chat mine/bitnet                     talk to the packed model

Environment:
  FORGE_ISA         instruction path of the kernels (scalar, avx2, avx512, avx512bf16, amx) instead of the best; see forge doctor
  HF_HOME           folder whose hub/ caches data sets, as for Hugging Face's own programs (HF_HUB_CACHE names it directly)
  HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY, NO_PROXY   for forge data fetch; nothing else uses the network

Exit codes: 0 done, 1 failed, 2 wrong usage or recipe, 3 stopped by a detector, 130 interrupted.";

/// Text in, one small language model that reasons out.
#[derive(Parser)]
#[command(name = "forge", version, about, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every command takes.
#[derive(ClapArgs, Clone)]
pub(crate) struct Common {
    /// Folder that holds `runs/` and `cache/`
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    pub(crate) root: PathBuf,
    /// Change a recipe key, such as --set seed=7 or --set data.root=DIR (repeatable)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Threads of the numeric kernels; the result does not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print JSON on standard output and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run all four phases of a recipe
    #[command(
        after_help = "Examples:\n  forge run\n  forge run tiny --run first --set seed=7\n  forge run small --set data.root=DIR --until evomerge"
    )]
    Run(run::RunArgs),
    /// Go on with a run that was stopped or killed
    #[command(after_help = "Example:\n  forge resume quick")]
    Resume(run::ResumeArgs),
    /// Sizes, memory, disk and time of a recipe, with their formulas, before anything starts
    #[command(after_help = "Example:\n  forge plan base")]
    Plan(plan::PlanArgs),
    /// Run a finished run once more from its recipe and seed, and compare the bytes
    #[command(after_help = "Example:\n  forge reproduce quick")]
    Reproduce(reproduce::ReproduceArgs),
    /// The runs under --root
    Runs,
    /// Where a run stands
    #[command(after_help = "Example:\n  forge status quick")]
    Status(runs::StatusArgs),
    /// What a run made and how good it is
    #[command(after_help = "Example:\n  forge report quick --json")]
    Report(report::ReportArgs),
    /// Ask a run to pause, go on, write a checkpoint, stop, or take an answer or a setting
    #[command(
        after_help = "Examples:\n  forge intervene quick pause\n  forge intervene quick stop --wait 30\n  forge intervene quick answer 1 go-on"
    )]
    Intervene(intervene::InterveneArgs),
    /// Data sets: list, fetch, check, pack
    Data(datasets::DataArgs),
    /// Learn a vocabulary, or see how one cuts a text
    Tokenizer(tokenizer::TokenizerArgs),
    /// Phase 1 alone: an ancestor and three specialists
    #[command(after_help = "Example:\n  forge cognate quick --run mine")]
    Cognate(single::CognateArgs),
    /// Phase 2 alone: evolve a merge of the specialists of a run, or of any three models of one base
    #[command(after_help = evolving::HELP)]
    Evomerge(evolving::EvomergeArgs),
    /// Phase 3 alone: teach a model to think
    #[command(
        after_help = "Examples:\n  forge quietstar --from mine\n  forge quietstar --from mine/cognate/reasoning --run thinker"
    )]
    Quietstar(single::FromArgs),
    /// Phase 4 alone: compress a model to 1.58 bits a weight
    #[command(
        after_help = "Examples:\n  forge bitnet --from mine\n  forge bitnet --from mine/evomerge --run packed"
    )]
    Bitnet(single::FromArgs),
    /// Merge models by a mergekit configuration
    #[command(after_help = merging::HELP)]
    Merge(merging::MergeArgs),
    /// Bits per byte on a text, metrics of tasks with their standard errors
    #[command(
        after_help = "Examples:\n  forge eval quick/bitnet\n  forge eval model-folder --task arc_easy --task piqa --set data.root=DIR\n  forge eval mine/bitnet --task all --items 200 --json\n  forge eval mine --task mbpp --sandbox 'timeout 10 docker run -i --rm --network none python:3 python -'\n  forge eval model-folder --text book.txt\n\nMetrics: acc and acc_norm (likelihood of the option, and by its characters), exact_match, f1 (DROP, HotpotQA), pass@1 (MBPP), bits_per_byte and word_perplexity, by the formulas of lm-evaluation-harness. Standard errors are analytic: of a mean over items, or of a ratio over texts."
    )]
    Eval(eval::EvalArgs),
    /// Continue a text
    #[command(
        after_help = "Example:\n  forge generate quick/evomerge --prompt \"Question: 3 + 4?\\nAnswer:\""
    )]
    Generate(generate::GenerateArgs),
    /// Ask a model questions
    #[command(
        after_help = "Examples:\n  forge chat quick\n  forge chat quick/quietstar --think chain_of_thought"
    )]
    Chat(generate::ChatArgs),
    /// What this machine offers, and what would stand in the way
    Doctor(doctor::DoctorArgs),
    /// How fast the engine is here
    Bench(bench::BenchArgs),
}

impl Command {
    /// Runs the command on a thread of the pool that the kernels compute on: a caller from outside would
    /// sleep and be woken once for every operation.
    pub(crate) fn run(self, common: &Common) -> Result<u8> {
        if common.threads == Some(0) {
            return usage("--threads 0: at least 1; leave it out to use all cores");
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(common.threads.unwrap_or(0)) // 0: one for each core
            .stack_size(STACK)
            .build_global()?;
        rayon::scope(|_| self.dispatch(common))
    }

    fn dispatch(self, common: &Common) -> Result<u8> {
        match self {
            Self::Run(a) => run::run(&a, common),
            Self::Resume(a) => run::resume(&a, common),
            Self::Plan(a) => plan::plan(&a, common),
            Self::Reproduce(a) => reproduce::reproduce(&a, common),
            Self::Runs => runs::runs(common),
            Self::Status(a) => runs::status(&a, common),
            Self::Report(a) => report::report(&a, common),
            Self::Intervene(a) => intervene::intervene(&a, common),
            Self::Data(a) => datasets::data(&a, common),
            Self::Tokenizer(a) => tokenizer::tokenizer(&a, common),
            Self::Cognate(a) => single::cognate(a, common),
            Self::Evomerge(a) => evolving::evomerge(&a, common),
            Self::Quietstar(a) => single::later("quietstar", &a, common),
            Self::Bitnet(a) => single::later("bitnet", &a, common),
            Self::Merge(a) => merging::merge(&a, common),
            Self::Eval(a) => eval::eval(&a, common),
            Self::Generate(a) => generate::generate(&a, common),
            Self::Chat(a) => generate::chat(&a, common),
            Self::Doctor(_) => doctor::doctor(common),
            Self::Bench(a) => bench::bench(&a, common),
        }
    }
}
