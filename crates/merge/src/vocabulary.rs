//! Vocabularies of different models, brought into one.
//!
//! The result's tokens are those of the base, of one model, or of all (`union`: the base's as they are, then what others
//! have besides, as added tokens). A model that has a token keeps its own row for it; a model that has not takes it from
//! the only model that has it, else from the base, else the mean of those that have it, else zeros (mergekit's rules).
//!
//! Works on `tokenizer.json` as JSON, since a merge needs to know which token has which number and nothing else.

use crate::checkpoint::{Checkpoint, json};
use crate::config::{TokenConfig, TokenEmbedding, Tokenizer, TokenizerSource};
use crate::error::Error;
use crate::operand::{Operand, Row, Rows};
use crate::rounding::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FILE: &str = "tokenizer.json";

/// The vocabulary of the result, and where each model has its tokens.
pub(crate) struct Vocabulary {
    /// Rows of the result's embeddings.
    rows: usize,
    /// By number of the result: whether there is such a token.
    is_token: Vec<bool>,
    /// By model, by number of the result: the model's row.
    own: Vec<Vec<Option<u32>>>,
    /// What the configuration says about certain tokens, by number of the result.
    said: BTreeMap<usize, (Option<Said>, bool)>,
    base: Option<usize>,
    /// Whose tokenizer files are taken over.
    pub(crate) folder: PathBuf,
    /// `tokenizer.json` of the result, where it is not that file as it is.
    pub(crate) changed: Option<Map<String, Value>>,
    /// Added tokens that `tokenizer_config.json` is to list.
    pub(crate) added: Vec<Value>,
}

#[derive(Clone, Copy)]
enum Said {
    Zero,
    /// Row of a model.
    Row(usize, u32),
}

/// Where a token that a model lacks comes from.
#[derive(Clone, Copy)]
enum Source {
    Zero,
    Row(usize, u32),
    Mean,
}

/// A tokenizer file: its JSON and its tokens' numbers.
struct Tokens {
    json: Map<String, Value>,
    ids: HashMap<String, u32>,
}

impl Tokens {
    fn read(folder: &Path) -> Result<Tokens, Error> {
        let path = folder.join(FILE);
        if !path.exists() {
            let remedy = "save the tokenizer as a fast one (transformers' AutoTokenizer, then save_pretrained), or leave `tokenizer_source` out";
            return Err(Error::file(
                &path,
                "not there, and `tokenizer_source` needs the tokens by name",
                remedy,
            ));
        }
        let json = json(&path)?;
        let mut ids = HashMap::new();
        match json.get("model").and_then(|m| m.get("vocab")) {
            Some(Value::Object(vocab)) => {
                ids.extend(
                    vocab
                        .iter()
                        .filter_map(|(t, id)| Some((t.clone(), id.as_u64()? as u32))),
                );
            }
            Some(Value::Array(pieces)) => {
                let named = pieces.iter().enumerate();
                ids.extend(
                    named.filter_map(|(id, p)| Some((p.get(0)?.as_str()?.to_owned(), id as u32))),
                );
            }
            _ => {
                return Err(Error::file(
                    &path,
                    "no `model.vocab`",
                    "save the tokenizer again",
                ));
            }
        }
        for added in added_tokens(&json) {
            if let Some((content, id)) = content_and_id(added) {
                ids.insert(content.to_owned(), id);
            }
        }
        Ok(Tokens { json, ids })
    }

    /// Leaves out tokens from number `rows` on: the model has no rows for them.
    fn strip(&mut self, rows: usize) -> bool {
        if self.ids.values().all(|id| (*id as usize) < rows) {
            return false;
        }
        let beyond = |id: Option<&Value>| {
            id.and_then(Value::as_u64)
                .is_some_and(|id| id as usize >= rows)
        };
        self.ids.retain(|_, id| (*id as usize) < rows);
        if let Some(Value::Array(added)) = self.json.get_mut("added_tokens") {
            added.retain(|token| !beyond(token.get("id")));
        }
        let ids = &self.ids;
        if let Some(Value::Object(model)) = self.json.get_mut("model") {
            if let Some(Value::Object(vocab)) = model.get_mut("vocab") {
                vocab.retain(|_, id| !beyond(Some(id)));
            }
            if let Some(Value::Array(merges)) = model.get_mut("merges") {
                merges.retain(|merge| match merge {
                    Value::String(pair) => pair.split(' ').all(|t| ids.contains_key(t)),
                    Value::Array(pair) => pair
                        .iter()
                        .all(|t| t.as_str().is_some_and(|t| ids.contains_key(t))),
                    _ => true,
                });
            }
        }
        true
    }

    /// All tokens in the order of their numbers.
    fn in_order(&self) -> Vec<(&str, u32)> {
        let mut all: Vec<(&str, u32)> = self.ids.iter().map(|(t, id)| (t.as_str(), *id)).collect();
        all.sort_unstable_by_key(|(token, id)| (*id, *token));
        all
    }

    /// Adds a token behind the last one, with the flags of `like`.
    fn add(&mut self, token: &str, like: Option<&Value>, list: &mut Vec<Value>) {
        let id = self.ids.values().max().map_or(0, |id| id + 1);
        let mut entry = json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false,
        });
        for key in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
            if let Some(value) = like.and_then(|like| like.get(key)) {
                entry[key] = value.clone();
            }
        }
        self.ids.insert(token.to_owned(), id);
        let added = self.json.entry("added_tokens").or_insert_with(|| json!([]));
        if let Value::Array(added) = added {
            added.push(entry.clone());
        }
        list.push(entry);
    }
}

fn added_tokens(json: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    json.get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn content_and_id(token: &Value) -> Option<(&str, u32)> {
    Some((
        token.get("content")?.as_str()?,
        token.get("id")?.as_u64()? as u32,
    ))
}

impl Vocabulary {
    /// Reads the tokenizers of all models; the base is the first where none is named.
    pub(crate) fn new(
        settings: &Tokenizer,
        models: &[Checkpoint],
        base: Option<usize>,
        folder: &dyn Fn(&str) -> Result<PathBuf, Error>,
    ) -> Result<Vocabulary, Error> {
        let limits: Vec<usize> = models
            .iter()
            .map(|m| m.number(&["vocab_size"]).unwrap_or(usize::MAX))
            .collect();
        let first = base.unwrap_or(0);
        let mut tokens = Vec::with_capacity(models.len());
        for model in models {
            // A model without one is taken to have the base's.
            let own = if model.folder.join(FILE).exists() {
                &model.folder
            } else {
                &models[first].folder
            };
            tokens.push(Tokens::read(own)?);
        }
        let mut added = Vec::new();
        let (mut out, from, mut changed) = match &settings.source {
            TokenizerSource::Model(name) => {
                let from = folder(name)?;
                (Tokens::read(&from)?, from, false)
            }
            _ => {
                let mut out = Tokens::read(&models[first].folder)?;
                let stripped = out.strip(limits[first]);
                (out, models[first].folder.clone(), stripped)
            }
        };
        if settings.source == TokenizerSource::Union {
            unite(&mut out, &tokens, &limits, first, &mut added);
        }
        for (token, _) in &settings.tokens {
            if !out.ids.contains_key(token) {
                out.add(token, None, &mut added);
            }
        }
        changed |= !added.is_empty();
        let tokens_out = out.in_order();
        let n = tokens_out.last().map_or(0, |(_, id)| *id as usize + 1);
        let mut is_token = vec![false; n];
        let mut own = vec![vec![None; n]; models.len()];
        for (token, id) in &tokens_out {
            is_token[*id as usize] = true;
            for ((own, model), limit) in own.iter_mut().zip(&tokens).zip(&limits) {
                let row = model
                    .ids
                    .get(*token)
                    .filter(|row| (**row as usize) < *limit);
                own[*id as usize] = row.copied();
            }
        }
        let mut said = BTreeMap::new();
        for (token, config) in &settings.tokens {
            let id = out.ids[token];
            said.insert(
                id as usize,
                (embedding(token, config, models, &tokens)?, config.force),
            );
        }
        let multiple = settings.multiple_of.filter(|m| *m > 0).unwrap_or(1);
        Ok(Vocabulary {
            rows: n.next_multiple_of(multiple),
            is_token,
            own,
            said,
            base,
            folder: from,
            changed: changed.then_some(out.json),
            added,
        })
    }

    /// Rows of the result's embeddings.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Which rows of the given models' tensors (model, tensor) make up the rows of the result.
    pub(crate) fn map(
        &self,
        tensors: &[(usize, Operand)],
        width: usize,
        dtype: Dtype,
    ) -> Vec<Rows> {
        let mut made = Made {
            rows: Vec::new(),
            width,
            dtype,
        };
        let mut from = vec![Vec::with_capacity(self.rows); tensors.len()];
        for id in 0..self.is_token.len() {
            let owns: Vec<Option<u32>> = tensors
                .iter()
                .map(|(model, _)| self.own[*model][id])
                .collect();
            let (said, force) = self.said.get(&id).copied().unwrap_or((None, false));
            let mut substitute = None;
            for (at, own) in owns.iter().enumerate() {
                let row = match own {
                    Some(own) if !force => Row::Own(*own),
                    _ => *substitute.get_or_insert_with(|| {
                        let source = match said {
                            Some(Said::Zero) => Source::Zero,
                            Some(Said::Row(model, row)) => Source::Row(model, row),
                            None => self.source(id, tensors, &owns),
                        };
                        made.row(source, tensors, &owns)
                    }),
                };
                from[at].push(row);
            }
        }
        if self.rows > self.is_token.len() {
            // Rows for padding are the mean of the model's others.
            for (from, (_, tensor)) in from.iter_mut().zip(tensors) {
                let row = made.mean(from, tensor);
                from.resize(self.rows, row);
            }
        }
        let made = Arc::new(made.rows);
        let rows = from.into_iter().map(|from| Rows {
            width,
            from,
            made: made.clone(),
        });
        rows.collect()
    }

    fn source(&self, id: usize, tensors: &[(usize, Operand)], owns: &[Option<u32>]) -> Source {
        let mut having = tensors
            .iter()
            .zip(owns)
            .filter_map(|((m, _), own)| Some((*m, (*own)?)));
        match (having.next(), having.next()) {
            (None, _) => Source::Zero,
            (Some((model, row)), None) => Source::Row(model, row),
            _ => {
                let among = self
                    .base
                    .filter(|b| tensors.iter().any(|(model, _)| model == b));
                let row = among.and_then(|base| Some((base, self.own[base][id]?)));
                row.map_or(Source::Mean, |(base, row)| Source::Row(base, row))
            }
        }
    }
}

/// Rows that some model does not have.
struct Made {
    rows: Vec<f32>,
    width: usize,
    dtype: Dtype,
}

impl Made {
    fn row(&mut self, source: Source, tensors: &[(usize, Operand)], owns: &[Option<u32>]) -> Row {
        let mut row = vec![0.0; self.width];
        match source {
            Source::Zero => {}
            Source::Row(model, own) => {
                if let Some((_, tensor)) = tensors.iter().find(|(m, _)| *m == model) {
                    tensor.read(own as usize * self.width, &mut row);
                }
            }
            Source::Mean => {
                let mut part = vec![0.0; self.width];
                let mut count = 0.0;
                let round = |x: f64| self.dtype.round(x) as f32;
                for ((_, tensor), own) in tensors.iter().zip(owns) {
                    let Some(own) = own else { continue };
                    tensor.read(*own as usize * self.width, &mut part);
                    row.iter_mut()
                        .zip(&part)
                        .for_each(|(s, x)| *s = round(f64::from(*s) + f64::from(*x)));
                    count += 1.0;
                }
                row.iter_mut()
                    .for_each(|s| *s = round(f64::from(*s) / count));
            }
        }
        self.push(&row)
    }

    fn mean(&mut self, from: &[Row], tensor: &Operand) -> Row {
        let mut sums = vec![0.0f64; self.width];
        let mut row = vec![0.0; self.width];
        for place in from {
            match place {
                Row::Own(own) => tensor.read(*own as usize * self.width, &mut row),
                Row::Made(made) => {
                    let first = *made as usize * self.width;
                    row.copy_from_slice(&self.rows[first..first + self.width]);
                }
            }
            sums.iter_mut()
                .zip(&row)
                .for_each(|(s, x)| *s += f64::from(*x));
        }
        let n = from.len().max(1) as f64;
        let mean: Vec<f32> = sums
            .iter()
            .map(|s| self.dtype.round(s / n) as f32)
            .collect();
        self.push(&mean)
    }

    fn push(&mut self, row: &[f32]) -> Row {
        let at = self.rows.len() / self.width.max(1);
        self.rows.extend_from_slice(row);
        Row::Made(at as u32)
    }
}

/// Adds what other models' tokenizers have besides: first plain tokens, then added ones, each in the order of the models
/// and of their numbers.
fn unite(
    out: &mut Tokens,
    tokens: &[Tokens],
    limits: &[usize],
    first: usize,
    added: &mut Vec<Value>,
) {
    let order: Vec<usize> = std::iter::once(first)
        .chain((0..tokens.len()).filter(|i| *i != first))
        .collect();
    let mut special: Vec<(&str, &Value)> = Vec::new();
    let mut names: HashMap<&str, ()> = HashMap::new();
    for &i in &order {
        for token in added_tokens(&tokens[i].json) {
            if let Some((content, id)) = content_and_id(token)
                && (id as usize) < limits[i]
                && names.insert(content, ()).is_none()
            {
                special.push((content, token));
            }
        }
    }
    for &i in &order {
        for (token, id) in tokens[i].in_order() {
            if (id as usize) < limits[i]
                && !names.contains_key(token)
                && !out.ids.contains_key(token)
            {
                out.add(token, None, added);
            }
        }
    }
    for (token, like) in special {
        if !out.ids.contains_key(token) {
            out.add(token, Some(like), added);
        }
    }
}

fn embedding(
    token: &str,
    config: &TokenConfig,
    models: &[Checkpoint],
    tokens: &[Tokens],
) -> Result<Option<Said>, Error> {
    let key = || format!("tokenizer.tokens.{token}.source");
    let place = |name: &str| {
        let names = models.iter().map(|m| m.name.as_str());
        let found = models.iter().position(|m| m.name == name);
        found.ok_or_else(|| Error::unknown(key(), name, names))
    };
    let row = |name: &str, token: &str| -> Result<Said, Error> {
        let model = place(name)?;
        let id = tokens[model].ids.get(token).ok_or_else(|| Error::Value {
            key: key(),
            found: format!("token `{token}` of `{name}`, which has no such token"),
            allowed: "a token that the model has".to_owned(),
        })?;
        Ok(Said::Row(model, *id))
    };
    Ok(match &config.source {
        None => None,
        Some(TokenEmbedding::Zero) => Some(Said::Zero),
        Some(TokenEmbedding::Model(name)) => Some(row(name, token)?),
        Some(TokenEmbedding::Token(name, other)) => Some(row(name, other)?),
        Some(TokenEmbedding::TokenId(name, id)) => Some(Said::Row(place(name)?, *id as u32)),
    })
}
