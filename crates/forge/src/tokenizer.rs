//! `forge tokenizer`: learn a vocabulary, see how it cuts a text.

use crate::args::Common;
use crate::fault::usage;
use crate::{models, output};
use anyhow::Result;
use clap::{Args, Subcommand};
use data::Tokenizer;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct TokenizerArgs {
    #[command(subcommand)]
    command: TokenizerCommand,
}

#[derive(Subcommand)]
enum TokenizerCommand {
    /// Learn a byte-level BPE and write it as a tokenizer.json
    #[command(
        after_help = "Example:\n  forge tokenizer train tokenizer.json --text book.txt --vocab 2048"
    )]
    Train {
        /// The file to write
        out: PathBuf,
        /// A text file, or a folder of .txt, .jsonl, .json, .csv or .parquet files (repeatable)
        #[arg(long, required = true, value_name = "PATH")]
        text: Vec<PathBuf>,
        /// Most tokens
        #[arg(long, value_name = "N", default_value_t = 8192)]
        vocab: usize,
    },
    /// Show the tokens of a text
    #[command(after_help = "Example:\n  forge tokenizer encode tokenizer.json \"one and 2\"")]
    Encode {
        /// A tokenizer.json, or one of our models
        tokenizer: String,
        /// The text; read from standard input without it
        text: Option<String>,
    },
}

pub(crate) fn tokenizer(args: &TokenizerArgs, common: &Common) -> Result<u8> {
    match &args.command {
        TokenizerCommand::Train { out, text, vocab } => train(out, text, *vocab, common),
        TokenizerCommand::Encode { tokenizer, text } => encode(tokenizer, text.as_deref(), common),
    }
}

fn train(out: &Path, paths: &[PathBuf], vocab: usize, common: &Common) -> Result<u8> {
    let mut texts = Vec::new();
    for path in paths {
        if path.is_dir() {
            let loaded = data::load_folder(path)?;
            texts.extend(loaded.train.into_iter().map(|d| d.text));
        } else {
            texts.push(models::read_text_file(path)?);
        }
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes == 0 {
        return usage("there is no text in what --text names");
    }
    if vocab < 257 {
        return usage(format!(
            "--vocab {vocab}: the bytes and the end of document alone are 257 tokens"
        ));
    }
    let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), vocab)?;
    store::write_file(out, "the tokenizer", &tokenizer.to_bytes())?;
    let tokens: usize = texts.iter().map(|t| tokenizer.encode(t).len()).sum();
    let per_token = bytes as f64 / tokens.max(1) as f64;
    if common.json {
        output::json(&json!({
            "file": out, "vocab": tokenizer.vocab_size(), "bytes": bytes, "tokens": tokens,
            "bytes_per_token": per_token, "hash": tokenizer.hash(),
        }));
    } else {
        output::line(&format!(
            "{}: {} tokens, {per_token:.2} bytes per token on its own text",
            out.display(),
            tokenizer.vocab_size()
        ));
    }
    Ok(0)
}

fn encode(name: &str, text: Option<&str>, common: &Common) -> Result<u8> {
    let tokenizer = if name.ends_with(".json") {
        Tokenizer::from_file(Path::new(name))?
    } else {
        match models::load(name, None, common)?.text {
            models::Text::Tokenizer(t) => *t,
            models::Text::Vocabulary(_) => {
                return usage(format!(
                    "{name} has a vocabulary of llama2.c, not a tokenizer.json"
                ));
            }
        }
    };
    let text = match text {
        Some(t) => t.to_string(),
        None => models::read_text_file(Path::new("-"))?,
    };
    let ids = tokenizer.encode(&text);
    let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.decode(&[id])).collect();
    if common.json {
        output::json(
            &json!({ "ids": ids, "pieces": pieces, "tokens": ids.len(), "bytes": text.len() }),
        );
    } else {
        for (id, piece) in ids.iter().zip(&pieces) {
            output::line(&format!("{id:>7}  {piece:?}"));
        }
        output::line(&format!("{} tokens, {} bytes", ids.len(), text.len()));
    }
    Ok(0)
}
