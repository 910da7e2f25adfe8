//! mergekit's YAML, read and checked: what is merged with what, by which method, with which numbers.
//!
//! ```yaml
//! merge_method: ties
//! base_model: models/base
//! models:                        # or `slices`, each with `sources` of one `layer_range`
//!   - model: models/a
//!     parameters:
//!       weight: 0.6
//!       density:                 # the first filter that is part of a tensor's name decides
//!         - filter: self_attn
//!           value: [0.2, 0.8]    # a gradient: from the first layer to the last
//!         - value: 0.5
//!   - model: models/b
//!     parameters: { weight: 0.4 }
//! parameters: { lambda: 0.9 }    # for all; a source's own come before the slice's, those before these
//! dtype: bfloat16                # that the merge is done in; `out_dtype` is what is written
//! tokenizer_source: base         # or union, or a model; `tokenizer` says more
//! chat_template: auto
//! ```
//!
//! Left out on purpose: `modules` (models of several towers) and LoRA adapters (`model+adapter`).

use crate::error::Error;
use crate::rounding::Dtype;
use crate::table::{METHODS, Method, method};
use crate::yaml::{self, Node, Value, find};
use std::collections::BTreeMap;

/// A merge as its configuration says it.
#[derive(Debug)]
pub struct Config {
    /// The method.
    pub method: &'static Method,
    /// The base, as written.
    pub base: Option<String>,
    /// The slices; a list of `models` is one slice without ranges.
    pub slices: Vec<Slice>,
    /// Whether `models` was written, not `slices`.
    pub whole: bool,
    /// Numbers for all tensors.
    pub parameters: Settings,
    /// The type that the merge is done in.
    pub dtype: Option<Dtype>,
    /// The type that is written.
    pub out_dtype: Option<Dtype>,
    /// Which vocabulary the result has.
    pub tokenizer: Option<Tokenizer>,
    /// The chat template, as written.
    pub chat_template: Option<String>,
    /// Parameters that were written and that the method does not take.
    pub ignored: Vec<String>,
}

/// A stretch of layers of the result.
#[derive(Debug)]
pub struct Slice {
    /// Whose layers it is made of.
    pub sources: Vec<Source>,
    /// A base for this slice.
    pub base: Option<String>,
    /// Numbers for this slice.
    pub parameters: Settings,
}

/// One model's part of a slice.
#[derive(Debug)]
pub struct Source {
    /// The model, as written.
    pub model: String,
    /// Its first layer, and the one behind its last; `None` for all.
    pub layers: Option<(usize, usize)>,
    /// Numbers for this model.
    pub parameters: Settings,
}

/// Where the vocabulary comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    /// The base model, or the first.
    Base,
    /// The tokens of all models.
    Union,
    /// This model.
    Model(String),
}

/// What is said about the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokenizer {
    /// Whose tokens.
    pub source: TokenizerSource,
    /// Where certain tokens' embeddings come from.
    pub tokens: Vec<(String, TokenConfig)>,
    /// Rows are added up to a multiple of this.
    pub multiple_of: Option<usize>,
}

/// Where a token's embedding comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenConfig {
    /// The source; without one, it is chosen as for other tokens.
    pub source: Option<TokenEmbedding>,
    /// Whether models that have the token take it from there too.
    pub force: bool,
}

/// One token's embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenEmbedding {
    /// Zeros.
    Zero,
    /// The same token of that model.
    Model(String),
    /// Another token of that model, by its text.
    Token(String, String),
    /// Another token of that model, by its number.
    TokenId(String, usize),
}

/// Numbers by parameter.
pub type Settings = BTreeMap<String, Setting>;

/// A number that may depend on the tensor's name and on the layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting(Vec<Condition>);

#[derive(Clone, Debug, PartialEq)]
struct Condition {
    /// Part of the names that it holds for; `None` for all.
    filter: Option<String>,
    /// One number, or those of a gradient.
    values: Vec<f64>,
}

impl Setting {
    /// The number for a tensor at `t` of the way through its slice's layers, 0 to 1; switches do not blend.
    pub fn at(&self, tensor: &str, t: f64, switch: bool) -> Option<f64> {
        let fits = |filter: &String| filter == "*" || tensor.contains(filter.as_str());
        let found = self.0.iter().find(|c| c.filter.as_ref().is_none_or(fits))?;
        let last = found.values.len().checked_sub(1)?;
        let place = t * last as f64;
        let low = place as usize;
        if switch {
            return Some(found.values[low]);
        }
        let share = place - low as f64;
        let high = found.values[(low + 1).min(last)];
        Some((1.0 - share) * found.values[low] + share * high)
    }
}

const KEYS: &[&str] = &[
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
];

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Names the key, what was found and what is allowed.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let root = yaml::parse(text)?;
        if find(root.any_map("")?, "modules").is_some() {
            return Err(Error::Value {
                key: "modules".to_owned(),
                found: "written".to_owned(),
                allowed: "`models` or `slices`; models of several towers are not merged".to_owned(),
            });
        }
        let pairs = root.map("", KEYS)?;
        let name = find(pairs, "merge_method").ok_or_else(|| Error::Missing {
            key: "merge_method".to_owned(),
            remedy: format!(
                "one of {}",
                METHODS
                    .iter()
                    .map(|m| m.name)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        })?;
        let mut reader = Reader {
            method: method(&name.text("merge_method")?)?,
            ignored: Vec::new(),
        };
        let (whole, slices) = match (find(pairs, "models"), find(pairs, "slices")) {
            (Some(models), None) => {
                let sources = models.list("models")?.iter().enumerate();
                let sources =
                    sources.map(|(i, n)| reader.source(&format!("models[{i}]"), n, false));
                let slice = Slice {
                    sources: sources.collect::<Result<_, _>>()?,
                    base: None,
                    parameters: Settings::new(),
                };
                (true, vec![slice])
            }
            (None, Some(slices)) => {
                let slices = slices.list("slices")?.iter().enumerate();
                let slices = slices.map(|(i, node)| reader.slice(&format!("slices[{i}]"), node));
                (false, slices.collect::<Result<Vec<_>, _>>()?)
            }
            (Some(_), Some(both)) => {
                return both.not("slices", "nothing beside `models`: one of the two");
            }
            (None, None) => {
                return Err(Error::Missing {
                    key: "models".to_owned(),
                    remedy: "a list of models, or `slices` of their layers".to_owned(),
                });
            }
        };
        if slices.is_empty() || slices.iter().any(|s| s.sources.is_empty()) {
            return Err(Error::Missing {
                key: "models".to_owned(),
                remedy: "the list is empty; name at least one model".to_owned(),
            });
        }
        let text_of = |key: &str| find(pairs, key).map(|node| node.text(key)).transpose();
        let parameters = find(pairs, "parameters");
        Ok(Config {
            method: reader.method,
            base: find(pairs, "base_model")
                .map(|n| model(n, "base_model"))
                .transpose()?,
            slices,
            whole,
            parameters: reader.settings("parameters", parameters)?,
            dtype: find(pairs, "dtype")
                .map(|n| dtype(n, "dtype"))
                .transpose()?,
            out_dtype: find(pairs, "out_dtype")
                .map(|n| dtype(n, "out_dtype"))
                .transpose()?,
            tokenizer: tokenizer(pairs)?,
            chat_template: text_of("chat_template")?,
            ignored: reader.ignored,
        })
    }
}

struct Reader {
    method: &'static Method,
    ignored: Vec<String>,
}

impl Reader {
    fn slice(&mut self, key: &str, node: &Node) -> Result<Slice, Error> {
        let pairs = node.map(key, &["sources", "base_model", "parameters"])?;
        let sources = find(pairs, "sources").ok_or_else(|| Error::Missing {
            key: format!("{key}.sources"),
            remedy: "a list of models, each with a `layer_range`".to_owned(),
        })?;
        let list = sources.list(&format!("{key}.sources"))?.iter().enumerate();
        let parts = list.map(|(i, n)| self.source(&format!("{key}.sources[{i}]"), n, true));
        Ok(Slice {
            sources: parts.collect::<Result<_, _>>()?,
            base: find(pairs, "base_model")
                .map(|n| model(n, "base_model"))
                .transpose()?,
            parameters: self.settings(&format!("{key}.parameters"), find(pairs, "parameters"))?,
        })
    }

    fn source(&mut self, key: &str, node: &Node, ranged: bool) -> Result<Source, Error> {
        // A bare name is a model without numbers of its own.
        if let (Value::Text(_), false) = (&node.value, ranged) {
            return Ok(Source {
                model: model(node, key)?,
                layers: None,
                parameters: Settings::new(),
            });
        }
        let known: &[&str] = if ranged {
            &["model", "layer_range", "parameters"]
        } else {
            &["model", "parameters"]
        };
        let pairs = node.map(key, known)?;
        let missing = |name: &str, remedy: &str| Error::Missing {
            key: format!("{key}.{name}"),
            remedy: remedy.to_owned(),
        };
        let name = find(pairs, "model").ok_or_else(|| missing("model", "the folder of a model"))?;
        let layers = match (ranged, find(pairs, "layer_range")) {
            (false, _) => None,
            (true, None) => return Err(missing("layer_range", "[first, behind the last]")),
            (true, Some(node)) => {
                let place = format!("{key}.layer_range");
                match node.list(&place)? {
                    [first, end] => Some((first.count(&place)?, end.count(&place)?)),
                    _ => return node.not(&place, "[first, behind the last]"),
                }
            }
        };
        if layers.is_some_and(|(first, end)| first >= end) {
            return node.not(
                &format!("{key}.layer_range"),
                "a first layer below the second number",
            );
        }
        Ok(Source {
            model: model(name, &format!("{key}.model"))?,
            layers,
            parameters: self.settings(&format!("{key}.parameters"), find(pairs, "parameters"))?,
        })
    }

    fn settings(&mut self, key: &str, node: Option<&Node>) -> Result<Settings, Error> {
        let mut settings = Settings::new();
        let Some(node) = node else {
            return Ok(settings);
        };
        for (name, node) in node.any_map(key)? {
            let place = format!("{key}.{name}");
            if METHODS.iter().all(|m| m.parameter(name).is_none()) {
                let own = self.method.parameters.iter().map(|p| p.name);
                return Err(Error::unknown(
                    format!("parameter in {key} (line {})", node.line),
                    name,
                    own,
                ));
            }
            if self.method.parameter(name).is_none() {
                self.ignored.push(place);
            } else if !matches!(node.value, Value::Null) {
                settings.insert(name.clone(), self.setting(&place, name, node)?);
            }
        }
        Ok(settings)
    }

    fn setting(&self, key: &str, name: &str, node: &Node) -> Result<Setting, Error> {
        let condition = |node: &Node| -> Result<Condition, Error> {
            let pairs = node.map(key, &["filter", "value"])?;
            let value = find(pairs, "value").ok_or_else(|| Error::Missing {
                key: format!("{key}.value"),
                remedy: "the number for tensors that the filter fits".to_owned(),
            })?;
            Ok(Condition {
                filter: find(pairs, "filter").map(|n| n.text(key)).transpose()?,
                values: self.gradient(key, name, value)?,
            })
        };
        let conditions = match &node.value {
            Value::Map(_) => vec![condition(node)?],
            Value::List(items) if items.iter().any(|n| matches!(n.value, Value::Map(_))) => {
                items.iter().map(condition).collect::<Result<_, _>>()?
            }
            _ => vec![Condition {
                filter: None,
                values: self.gradient(key, name, node)?,
            }],
        };
        Ok(Setting(conditions))
    }

    fn gradient(&self, key: &str, name: &str, node: &Node) -> Result<Vec<f64>, Error> {
        let one = |node: &Node| -> Result<f64, Error> {
            let value = node.number(key)?;
            self.method.check_number(name, value).map_err(|e| match e {
                Error::Value { allowed, .. } => Error::Value {
                    key: key.to_owned(),
                    found: node.described(),
                    allowed,
                },
                other => other,
            })?;
            Ok(value)
        };
        match &node.value {
            Value::List(items) if items.is_empty() => {
                node.not(key, "a number, or a list of at least one")
            }
            Value::List(items) => items.iter().map(one).collect(),
            _ => Ok(vec![one(node)?]),
        }
    }
}

fn model(node: &Node, key: &str) -> Result<String, Error> {
    let name = match &node.value {
        // mergekit's long form.
        Value::Map(pairs) => match (find(pairs, "path"), find(pairs, "model")) {
            (Some(path), _) => path.text(key)?,
            (None, Some(inner)) => return model(inner, key),
            _ => return node.not(key, "a model's folder"),
        },
        _ => node.text(key)?,
    };
    if name.contains('+') && !std::path::Path::new(&name).exists() {
        return Err(Error::Value {
            key: key.to_owned(),
            found: format!("`{name}`, a model with an adapter"),
            allowed: "a model; merge the adapter into it first (peft's merge_and_unload)"
                .to_owned(),
        });
    }
    Ok(name)
}

fn dtype(node: &Node, key: &str) -> Result<Dtype, Error> {
    let name = node.text(key)?;
    Dtype::from_name(&name)
        .ok_or_else(|| Error::unknown(key, &name, ["float32", "float16", "bfloat16"].into_iter()))
}

fn tokenizer(pairs: &[(String, Node)]) -> Result<Option<Tokenizer>, Error> {
    let source = |node: &Node, key: &str| -> Result<TokenizerSource, Error> {
        Ok(match model(node, key)?.as_str() {
            "base" => TokenizerSource::Base,
            "union" => TokenizerSource::Union,
            name => TokenizerSource::Model(name.to_owned()),
        })
    };
    match (find(pairs, "tokenizer_source"), find(pairs, "tokenizer")) {
        (None, None) => Ok(None),
        (Some(_), Some(node)) => node.not("tokenizer", "nothing beside `tokenizer_source`"),
        (Some(node), None) => Ok(Some(Tokenizer {
            source: source(node, "tokenizer_source")?,
            tokens: Vec::new(),
            multiple_of: None,
        })),
        (None, Some(node)) => {
            let pairs = node.map("tokenizer", &["source", "tokens", "pad_to_multiple_of"])?;
            let tokens = match find(pairs, "tokens") {
                None => Vec::new(),
                Some(node) => node
                    .any_map("tokenizer.tokens")?
                    .iter()
                    .map(|(token, node)| Ok((token.clone(), token_config(token, node)?)))
                    .collect::<Result<_, Error>>()?,
            };
            let place = "tokenizer.pad_to_multiple_of";
            Ok(Some(Tokenizer {
                source: match find(pairs, "source") {
                    Some(node) => source(node, "tokenizer.source")?,
                    None => TokenizerSource::Union,
                },
                tokens,
                multiple_of: find(pairs, "pad_to_multiple_of")
                    .map(|n| n.count(place))
                    .transpose()?,
            }))
        }
    }
}

fn token_config(token: &str, node: &Node) -> Result<TokenConfig, Error> {
    let key = format!("tokenizer.tokens.{token}");
    let pairs = node.map(&key, &["source", "force"])?;
    let key = format!("{key}.source");
    let source = match find(pairs, "source") {
        None => None,
        Some(node) => Some(match &node.value {
            Value::Map(inner) => match find(inner, "kind")
                .map(|n| n.text(&key))
                .transpose()?
                .as_deref()
            {
                Some("zero") => TokenEmbedding::Zero,
                Some("model_token") => {
                    let named = find(inner, "model").map(|n| model(n, &key)).transpose()?;
                    match (named, find(inner, "token"), find(inner, "token_id")) {
                        (Some(model), Some(token), None) => {
                            TokenEmbedding::Token(model, token.text(&key)?)
                        }
                        (Some(model), None, Some(id)) => {
                            TokenEmbedding::TokenId(model, id.count(&key)?)
                        }
                        _ => return node.not(&key, "`model` with either `token` or `token_id`"),
                    }
                }
                _ => return node.not(&key, "a model, or `kind` zero or model_token"),
            },
            _ => TokenEmbedding::Model(model(node, &key)?),
        }),
    };
    let force = find(pairs, "force").map(|n| n.number(&key)).transpose()?;
    Ok(TokenConfig {
        source,
        force: force == Some(1.0),
    })
}
