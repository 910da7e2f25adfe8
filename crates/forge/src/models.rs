//! MODEL on the command line: a run's model, a folder or a file; ours or one from elsewhere.
//!
//! `RUN/PHASE/NAME`, `RUN/PHASE` (its champion or only model) and `RUN` (what its last phase made) stand for
//! finished models under `--root`. A path that exists comes first: one of our files, a Hugging Face folder
//! of a Llama, or a file of llama2.c with its vocabulary beside it.

use crate::args::Common;
use crate::fault::{nearest, usage};
use crate::runs;
use anyhow::{Context as _, Result};
use data::Tokenizer;
use model::llama::Llama;
use model::llama2c::{self, Vocabulary};
use model::{Cognate, LanguageModel};
use std::path::{Path, PathBuf};
use train::evaluate::{Spelling, Subject};
use train::phase::{ORDER, folder};
use train::phases::bitnet;
use train::report::MAX_LEN;

/// A model that is ready to be used.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) text: Text,
}

/// What kind of model.
pub(crate) enum Kind {
    Cognate(Box<Cognate>),
    Llama(Box<Llama>),
}

/// How text becomes tokens.
pub(crate) enum Text {
    Tokenizer(Box<Tokenizer>),
    /// A vocabulary of llama2.c.
    Vocabulary(Vocabulary),
}

impl Kind {
    /// Turns the weights into bf16.
    pub(crate) fn narrow(&mut self) {
        match self {
            Kind::Cognate(m) => m.narrow(),
            Kind::Llama(m) => m.narrow(),
        }
    }

    pub(crate) fn language(&self) -> &dyn LanguageModel {
        match self {
            Kind::Cognate(m) => &**m,
            Kind::Llama(m) => &**m,
        }
    }
}

impl Loaded {
    pub(crate) fn language(&self) -> &dyn LanguageModel {
        self.kind.language()
    }

    /// The token in front of a text, if the model wants one.
    pub(crate) fn start(&self) -> Option<u32> {
        match (&self.kind, &self.text) {
            (_, Text::Vocabulary(_)) => Some(llama2c::BOS),
            (Kind::Llama(m), _) if m.config.bos.is_some() => m.config.bos,
            (_, Text::Tokenizer(t)) => Some(t.end_of_document()),
        }
    }

    /// The tokens that end a text.
    pub(crate) fn stop(&self) -> Vec<u32> {
        let mut stop = match &self.text {
            Text::Vocabulary(_) => vec![llama2c::BOS, llama2c::EOS],
            Text::Tokenizer(t) => vec![t.end_of_document()],
        };
        if let Kind::Llama(m) = &self.kind {
            stop.extend(&m.config.eos);
        }
        stop
    }

    /// The tokens of a text, the start included.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens: Vec<u32> = self.start().into_iter().collect();
        match &self.text {
            Text::Vocabulary(_) if text.is_empty() => {}
            Text::Vocabulary(v) => tokens.extend(v.encode(text, false)),
            Text::Tokenizer(t) => tokens.extend(t.encode(text)),
        }
        tokens
    }

    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        match &self.text {
            Text::Vocabulary(v) => v.decode(tokens),
            Text::Tokenizer(t) => t.decode(tokens),
        }
    }

    /// The model as evaluations need it. A model from elsewhere gets what its tokenizer's template puts in front of a
    /// prompt, and no more tokens than it was trained on.
    pub(crate) fn subject(&self) -> Subject<'_> {
        let spelling: &dyn Spelling = match &self.text {
            Text::Tokenizer(t) => &**t,
            Text::Vocabulary(v) => v,
        };
        let (opening, longest) = match (&self.kind, &self.text) {
            (Kind::Cognate(m), Text::Tokenizer(t)) => return Subject::own(&**m, t),
            (Kind::Llama(m), Text::Tokenizer(t)) => (t.opening(), Some(m.config.positions)),
            (Kind::Llama(m), Text::Vocabulary(_)) => (vec![llama2c::BOS], Some(m.config.positions)),
            (Kind::Cognate(_), Text::Vocabulary(_)) => (vec![llama2c::BOS], None),
        };
        Subject {
            model: self.language(),
            spelling,
            opening,
            start: self.start().unwrap_or(llama2c::BOS),
            stop: self.stop(),
            window: longest.unwrap_or(MAX_LEN),
            longest,
        }
    }

    /// The run that the model's file lies in.
    pub(crate) fn run_folder(&self) -> Option<PathBuf> {
        run_folder(&self.path)
    }
}

/// The folder of the run that a file lies in.
pub(crate) fn run_folder(path: &Path) -> Option<PathBuf> {
    let whole = path.canonicalize().ok()?;
    let runs = whole.ancestors().skip(1);
    runs.into_iter()
        .find(|p| p.join("recipe.json").is_file() && p.join("state.json").is_file())
        .map(Path::to_path_buf)
}

/// Finds and reads a model; `tokenizer` overrides the one beside it.
pub(crate) fn load(name: &str, tokenizer: Option<&Path>, common: &Common) -> Result<Loaded> {
    let path = find(name, &common.root)?;
    let (kind, own) = read(&path)?;
    let text = match (tokenizer, own) {
        (Some(given), _) => read_text(given)?,
        (None, Some(text)) => text,
        (None, None) => {
            return usage(format!(
                "{} has no tokenizer beside it; give a tokenizer.json or a vocabulary of llama2.c with --tokenizer FILE",
                path.display()
            ));
        }
    };
    let (tokens, rows) = match (&text, &kind) {
        (Text::Tokenizer(t), Kind::Cognate(m)) => (t.vocab_size(), m.config.vocab),
        (Text::Tokenizer(t), Kind::Llama(m)) => (t.vocab_size(), m.config.vocab),
        (Text::Vocabulary(v), Kind::Llama(m)) => (v.len(), m.config.vocab),
        (Text::Vocabulary(v), Kind::Cognate(m)) => (v.len(), m.config.vocab),
    };
    if tokens > rows {
        return usage(format!(
            "the tokenizer has {tokens} tokens and the model {} only {rows}: they do not belong together; give the right one with --tokenizer FILE",
            path.display()
        ));
    }
    Ok(Loaded { path, kind, text })
}

fn read_text(path: &Path) -> Result<Text> {
    Ok(match path.extension().and_then(|e| e.to_str()) {
        Some("bin") => Text::Vocabulary(Vocabulary::load(path)?),
        _ => Text::Tokenizer(Box::new(Tokenizer::from_file(path)?)),
    })
}

fn read(path: &Path) -> Result<(Kind, Option<Text>)> {
    if path.is_dir() {
        let found = model::hub_format::load(path)?;
        let text = match found.tokenizer {
            Some(bytes) => Some(Text::Tokenizer(Box::new(Tokenizer::from_bytes(&bytes)?))),
            None => None,
        };
        return Ok((Kind::Llama(Box::new(found.model)), text));
    }
    if path.extension().is_some_and(|e| e == "bin") {
        let model = llama2c::load(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = files(folder, "bin")
            .into_iter()
            .find(|f| file_name(f).starts_with("tok"));
        let text = beside.map(|f| read_text(&f)).transpose()?;
        return Ok((Kind::Llama(Box::new(model)), text));
    }
    let (model, tokenizer) = if bitnet::is_packed(path)? {
        bitnet::load_packed(path)?
    } else {
        train::checkpoint::load_final(path)?
    };
    Ok((
        Kind::Cognate(Box::new(model)),
        Some(Text::Tokenizer(Box::new(tokenizer))),
    ))
}

/// The path that a MODEL means.
pub(crate) fn find(name: &str, root: &Path) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.is_file() || path.join("config.json").is_file() {
        return Ok(path);
    }
    if path.is_dir() && !path.join("recipe.json").is_file() {
        return only(&path, "folder", name);
    }
    let mut parts = name.trim_end_matches('/').splitn(3, '/');
    let run = parts.next().unwrap_or_default();
    let (phase, own) = (parts.next(), parts.next());
    if name.starts_with(['/', '.']) {
        return usage(format!(
            "no model at {name}: there is neither such a file nor a folder with a config.json"
        ));
    }
    let dir = runs::read(root, run)?.dir().to_path_buf();
    let phase = match phase {
        Some(p) => match ORDER.into_iter().find(|o| *o == p || folder(o) == p) {
            Some(found) => found,
            None => {
                return usage(format!(
                    "MODEL {name}: no phase `{p}`; there are {}{}",
                    ORDER.join(", "),
                    nearest(p, ORDER.into_iter())
                ));
            }
        },
        None => match ORDER
            .into_iter()
            .rev()
            .find(|p| !finals(&dir, p).is_empty())
        {
            Some(found) => found,
            None => {
                return usage(format!(
                    "run `{run}` has no finished model yet; `forge status {run}` shows where it stands"
                ));
            }
        },
    };
    let files = finals(&dir, phase);
    if files.is_empty() {
        return usage(format!(
            "run `{run}` has no finished model of phase {phase}; `forge status {run}` shows where it stands"
        ));
    }
    let Some(own) = own else {
        return only(&dir.join(folder(phase)).join("final"), "phase", name);
    };
    let names: Vec<String> = files.iter().map(|f| stem(f)).collect();
    match files.iter().find(|f| stem(f) == own) {
        Some(f) => Ok(f.clone()),
        None => usage(format!(
            "MODEL {name}: no model `{own}`; there are {}{}",
            names.join(", "),
            nearest(own, names.iter().map(String::as_str))
        )),
    }
}

/// The one model of a folder, or the one that the phase is about.
fn only(folder: &Path, what: &str, name: &str) -> Result<PathBuf> {
    let files = files(folder, "safetensors");
    let main = ["model.packed", "quietstar", "champion"];
    let chosen = main
        .iter()
        .find_map(|m| files.iter().find(|f| stem(f) == *m));
    match (chosen, &files[..]) {
        (Some(f), _) | (None, [f]) => Ok(f.clone()),
        (None, []) => usage(format!(
            "MODEL {name}: the {what} holds no .safetensors file"
        )),
        (None, many) => usage(format!(
            "MODEL {name}: the {what} holds several models; name one, such as {}/{}; there are {}",
            name.trim_end_matches('/'),
            stem(&many[0]),
            many.iter().map(|f| stem(f)).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// The finished models of a phase of a run.
pub(crate) fn finals(run: &Path, phase: &str) -> Vec<PathBuf> {
    files(&run.join(folder(phase)).join("final"), "safetensors")
}

/// Files with an extension, sorted.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut list: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file() && p.extension().is_some_and(|e| e == extension))
        .collect();
    list.sort();
    list
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn stem(path: &Path) -> String {
    file_name(path).trim_end_matches(".safetensors").to_string()
}

/// A text file, or what a command is to read from standard input for `-`.
pub(crate) fn read_text_file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("reading standard input");
    }
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).or_else(|e| {
            usage(format!(
                "{}: not UTF-8 at byte {}; give plain text",
                path.display(),
                e.utf8_error().valid_up_to()
            ))
        }),
        Err(e) => usage(format!(
            "{}: {e}; give a text file, or - for standard input",
            path.display()
        )),
    }
}
