//! From a configuration to the list of tensors to be made: which tensors of which models, with which numbers.
//!
//! Everything that can be wrong with a merge is found here, before a byte is written: unknown models, layers that are not
//! there, tensors that differ in name or shape, missing numbers.

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Setting, Settings, Slice, Tokenizer};
use crate::error::Error;
use crate::layout::{self, LAYER_KEYS, Layout};
use crate::rounding::Dtype;
use crate::table::{Base, Method, Numbers, Parameter, Parameters, Scope};
use crate::vocabulary::Vocabulary;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What a merge is planned with besides its configuration.
pub struct Options<'a> {
    /// The folder of a model by its name; `None` where there is none.
    pub resolve: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// Seed of the random masks.
    pub seed: u64,
    /// Whether models of different architectures may be merged, as long as their tensors agree.
    pub allow_crimes: bool,
}

/// A merge, ready to be written.
pub struct Plan {
    /// The method.
    pub method: &'static Method,
    /// The tensors of the result, in the order of the file.
    pub tensors: Vec<Planned>,
    pub(crate) models: Vec<Checkpoint>,
    pub(crate) vocabulary: Option<Vocabulary>,
    /// `config.json` of the result.
    pub(crate) config: Map<String, Value>,
    /// The model whose tokenizer and generation settings are taken over.
    pub(crate) donor: usize,
    pub(crate) chat_template: Option<String>,
}

/// One tensor of the result.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type it is written in, as safetensors names it.
    pub kind: String,
    /// The type it is merged in; `None` where it is copied because its type is not one of weights.
    pub dtype: Option<Dtype>,
    /// The type that merged values are written in.
    pub(crate) out: Option<Dtype>,
    /// What it is made of, in the order of the configuration.
    pub parts: Vec<Part>,
    /// The numbers; those of models in the order of the parts that are not the base.
    pub parameters: Parameters,
}

/// One model's tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The model, as the configuration names it.
    pub model: String,
    /// Its place among the opened models.
    pub(crate) index: usize,
    /// The tensor's name there.
    pub tensor: String,
    /// Whether it is what differences are taken from.
    pub base: bool,
}

impl Planned {
    /// Bytes of the tensor in the result.
    pub fn bytes(&self) -> u64 {
        let each = self
            .out
            .map_or_else(|| bits(&self.kind), |dtype| 8 * dtype.size());
        (self.shape.iter().product::<usize>() * each / 8) as u64
    }

    /// Whether its rows are tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        layout::has_tokens(&self.name)
    }
}

/// Bits of an element of a type that is only copied.
fn bits(kind: &str) -> usize {
    match kind {
        "BOOL" => 8,
        kind => kind
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap_or(8),
    }
}

/// A source of a slice with its model opened.
struct Opened<'a> {
    index: usize,
    layers: (usize, usize),
    parameters: &'a Settings,
}

struct Planner<'a> {
    config: &'a Config,
    models: Vec<Checkpoint>,
    layouts: Vec<Layout>,
    vocabulary: Option<Vocabulary>,
    seed: u64,
    tensors: Vec<Planned>,
}

impl Plan {
    /// Opens the models and plans every tensor.
    ///
    /// # Errors
    /// Names the key, the model or the first tensor that does not fit.
    pub fn new(config: &Config, options: &Options) -> Result<Plan, Error> {
        let mut names: Vec<&str> = Vec::new();
        let sources = config
            .slices
            .iter()
            .flat_map(|s| s.sources.iter().map(|s| s.model.as_str()));
        let bases = config.slices.iter().filter_map(|s| s.base.as_deref());
        for name in config
            .base
            .as_deref()
            .into_iter()
            .chain(sources)
            .chain(bases)
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let open = |name: &&str| Checkpoint::open(name, &folder(name, options)?);
        let models = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let layouts: Vec<Layout> = models.iter().map(Layout::of).collect();
        let vocabulary = match &config.tokenizer {
            None => None,
            Some(tokenizer) => Some(vocabulary(tokenizer, &models, config, options)?),
        };
        let mut planner = Planner {
            config,
            models,
            layouts,
            vocabulary,
            seed: options.seed,
            tensors: Vec::new(),
        };
        planner.plan()?;
        if !options.allow_crimes {
            planner.check_architectures()?;
        }
        let config_out = planner.config_out();
        Ok(Plan {
            method: config.method,
            tensors: planner.tensors,
            models: planner.models,
            vocabulary: planner.vocabulary,
            config: config_out,
            donor: 0,
            chat_template: config.chat_template.clone(),
        })
    }

    /// Bytes of all tensors of the result.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(Planned::bytes).sum()
    }

    /// The number of layers of the result, as `config.json` says it.
    pub fn layers(&self) -> Option<u64> {
        let text = self.config.get("text_config").and_then(Value::as_object);
        let maps = [Some(&self.config), text];
        let mut found = LAYER_KEYS
            .iter()
            .flat_map(|key| maps.iter().flatten().filter_map(|m| m.get(*key)));
        found.find_map(Value::as_u64)
    }
}

fn folder(name: &str, options: &Options) -> Result<PathBuf, Error> {
    (options.resolve)(name).ok_or_else(|| Error::Value {
        key: format!("model `{name}`"),
        found: "no folder, and not in the hub's cache".to_owned(),
        allowed:
            "a folder with config.json and safetensors files (paths are from the current folder)"
                .to_owned(),
    })
}

fn vocabulary(
    tokenizer: &Tokenizer,
    models: &[Checkpoint],
    config: &Config,
    options: &Options,
) -> Result<Vocabulary, Error> {
    let find = |name: &str| models.iter().position(|m| m.name == name);
    let base = config.base.as_deref().and_then(find);
    Vocabulary::new(tokenizer, models, base, &|name| folder(name, options))
}

impl Planner<'_> {
    fn plan(&mut self) -> Result<(), Error> {
        let config = self.config;
        let mut opened = Vec::new();
        for (i, slice) in config.slices.iter().enumerate() {
            opened.push(self.open_slice(i, slice)?);
        }
        let (first, last) = (0, config.slices.len() - 1);
        self.plan_outside(&config.slices[first], &opened[first], true)?;
        let mut layer = 0;
        for (slice, sources) in config.slices.iter().zip(&opened) {
            let length = sources[0].layers.1 - sources[0].layers.0;
            for offset in 0..length {
                // As mergekit has it: the only layer of a slice counts as its last.
                let t = if length > 1 {
                    offset as f64 / (length - 1) as f64
                } else {
                    1.0
                };
                self.plan_layer(slice, sources, (layer, offset), t)?;
                layer += 1;
            }
        }
        self.plan_outside(&config.slices[last], &opened[last], false)
    }

    /// The sources of a slice, the base among them, checked against the method.
    fn open_slice<'a>(&self, at: usize, slice: &'a Slice) -> Result<Vec<Opened<'a>>, Error>
    where
        Self: 'a,
    {
        static NONE: Settings = Settings::new();
        let method = self.config.method;
        let key = if self.config.whole {
            "models".to_owned()
        } else {
            format!("slices[{at}].sources")
        };
        let index = |name: &str| self.models.iter().position(|m| m.name == name);
        let index = |name: &str| index(name).expect("every model that is named was opened");
        let mut sources: Vec<Opened> = Vec::new();
        for source in &slice.sources {
            let index = index(&source.model);
            if sources.iter().any(|s| s.index == index) {
                return Err(Error::Value {
                    key,
                    found: format!("`{}` twice", source.model),
                    allowed: "each model once".to_owned(),
                });
            }
            let all = self.layouts[index].layers;
            let layers = source.layers.unwrap_or((0, all));
            if layers.1 > all {
                return Err(Error::Value {
                    key: format!("{key}: layer_range of `{}`", source.model),
                    found: format!("[{}, {}]", layers.0, layers.1),
                    allowed: format!("up to its {all} layers"),
                });
            }
            sources.push(Opened {
                index,
                layers,
                parameters: &source.parameters,
            });
        }
        let base = slice.base.as_ref().or(self.config.base.as_ref());
        let base = base.map(|name| (name, index(name)));
        let mut has_base = false;
        if let Some((name, index)) = base {
            has_base = sources.iter().any(|s| s.index == index);
            if !has_base && self.config.whole {
                has_base = true;
                sources.push(Opened {
                    index,
                    layers: (0, self.layouts[index].layers),
                    parameters: &NONE,
                });
            } else if !has_base && method.base != Base::Unknown {
                return Err(Error::Missing {
                    key: format!("{key}: base_model `{name}`"),
                    remedy:
                        "name it among the sources, with the layers that differences are taken from"
                            .to_owned(),
                });
            }
        }
        let known = has_base && method.base != Base::Unknown;
        method.check_models(sources.len() - usize::from(known), has_base)?;
        let length = |s: &Opened| s.layers.1 - s.layers.0;
        if let Some(other) = sources.iter().find(|s| length(s) != length(&sources[0])) {
            return Err(Error::Mismatch(format!(
                "{key}: `{}` gives {} layers, `{}` {}; give each the same number by `slices` with `layer_range`",
                self.models[sources[0].index].name,
                length(&sources[0]),
                self.models[other.index].name,
                length(other),
            )));
        }
        Ok(sources)
    }

    fn plan_outside(
        &mut self,
        slice: &Slice,
        sources: &[Opened],
        first: bool,
    ) -> Result<(), Error> {
        let names: BTreeSet<String> = sources
            .iter()
            .flat_map(|s| self.layouts[s.index].outside.iter())
            .filter(|name| layout::comes_first(name) == first)
            .cloned()
            .collect();
        for name in names {
            let tensors = sources.iter().map(|s| self.outside(s.index, &name));
            let tensors: Vec<(usize, String)> = tensors.collect();
            self.plan_tensor(&name, slice, sources, tensors, 0.0)?;
        }
        Ok(())
    }

    /// A model's tensor of that name; for a head that is not there, the embedding that it is tied to.
    fn outside(&self, index: usize, name: &str) -> (usize, String) {
        let has = self.models[index].tensors.contains_key(name);
        let tied = || {
            let mut names = self.layouts[index].outside.iter();
            names.find(|n| layout::is_embedding(n)).cloned()
        };
        let found = if !has && layout::is_head(name) {
            tied()
        } else {
            None
        };
        (index, found.unwrap_or_else(|| name.to_owned()))
    }

    fn plan_layer(
        &mut self,
        slice: &Slice,
        sources: &[Opened],
        (layer, offset): (usize, usize),
        t: f64,
    ) -> Result<(), Error> {
        let inside = |s: &Opened| self.layouts[s.index].inside.iter();
        let names: BTreeSet<String> = sources.iter().flat_map(inside).cloned().collect();
        for rest in names {
            let of = |s: &Opened| {
                (
                    s.index,
                    self.layouts[s.index].name(s.layers.0 + offset, &rest),
                )
            };
            let tensors: Vec<(usize, String)> = sources.iter().map(of).collect();
            // What only some layers have (biases, other kinds of attention) is not missing in the others.
            if tensors
                .iter()
                .all(|(index, name)| !self.models[*index].tensors.contains_key(name))
            {
                continue;
            }
            let name = self.layouts[0].name(layer, &rest);
            self.plan_tensor(&name, slice, sources, tensors, t)?;
        }
        Ok(())
    }

    fn plan_tensor(
        &mut self,
        name: &str,
        slice: &Slice,
        sources: &[Opened],
        tensors: Vec<(usize, String)>,
        t: f64,
    ) -> Result<(), Error> {
        let method = self.config.method;
        let shape = self.check_shapes(name, &tensors)?;
        let base = slice.base.as_ref().or(self.config.base.as_ref());
        let is_base = |index: usize| {
            method.base != Base::Unknown && base.is_some_and(|b| *b == self.models[index].name)
        };
        let parts: Vec<Part> = tensors
            .into_iter()
            .map(|(index, tensor)| Part {
                model: self.models[index].name.clone(),
                index,
                tensor,
                base: is_base(index),
            })
            .collect();
        let stored: Vec<_> = parts
            .iter()
            .map(|p| &self.models[p.index].tensors[&p.tensor])
            .collect();
        let (dtype, out, kind) = if stored.iter().all(|s| s.dtype.is_some()) {
            let kinds = stored.iter().filter_map(|s| s.dtype);
            let common = kinds.reduce(Dtype::promoted).unwrap_or(Dtype::F32);
            let dtype = self.config.dtype.unwrap_or(common);
            let out = self.config.out_dtype.unwrap_or(dtype);
            let kind = match out {
                Dtype::F32 => "F32",
                Dtype::F16 => "F16",
                Dtype::Bf16 => "BF16",
            };
            (Some(dtype), Some(out), kind.to_owned())
        } else {
            self.check_copy(&parts)?;
            (None, None, stored[0].kind.clone())
        };
        let outer = [&slice.parameters, &self.config.parameters];
        let mut parameters = Parameters {
            seed: self.seed,
            ..Parameters::default()
        };
        if dtype.is_some() {
            let of = |scope| method.parameters.iter().filter(move |p| p.scope == scope);
            for p in of(Scope::Tensor) {
                parameters.tensor.push(resolve(p, &outer, (name, t), None)?);
            }
            for (part, source) in parts.iter().zip(sources).filter(|(part, _)| !part.base) {
                let scopes = [source.parameters, outer[0], outer[1]];
                let numbers = of(Scope::Model)
                    .map(|p| resolve(p, &scopes, (&part.tensor, t), Some(&part.model)));
                parameters
                    .models
                    .push(numbers.collect::<Result<Numbers, _>>()?);
            }
        }
        self.tensors.push(Planned {
            name: name.to_owned(),
            shape,
            kind,
            dtype,
            out,
            parts,
            parameters,
        });
        Ok(())
    }

    /// The shape of the result; refuses models whose tensors differ.
    fn check_shapes(&self, name: &str, tensors: &[(usize, String)]) -> Result<Vec<usize>, Error> {
        let shape = |(index, tensor): &(usize, String)| {
            self.models[*index].tensors.get(tensor).map(|s| &s.shape)
        };
        let shown = |t: &(usize, String)| {
            let found = shape(t).map_or("no such tensor".to_owned(), |s| format!("{s:?}"));
            let renamed = if t.1 == name {
                String::new()
            } else {
                format!(" ({})", t.1)
            };
            format!("{found} in `{}`{renamed}", self.models[t.0].name)
        };
        let adapted = self
            .vocabulary
            .as_ref()
            .filter(|_| layout::has_tokens(name));
        let compared = |t: &(usize, String)| {
            let shape = shape(t)?;
            Some(if adapted.is_some() {
                &shape[1.min(shape.len())..]
            } else {
                &shape[..]
            })
        };
        if let Some(other) = tensors
            .iter()
            .find(|t| compared(t).is_none() || compared(t) != compared(&tensors[0]))
        {
            let first = if compared(other).is_none() {
                tensors
                    .iter()
                    .find(|t| compared(t).is_some())
                    .unwrap_or(&tensors[0])
            } else {
                &tensors[0]
            };
            let remedy = if layout::has_tokens(name) {
                "vocabularies of different size are merged with `tokenizer_source: base` or `union`"
            } else {
                "only models of one architecture and size can be merged; choose layers with `slices` where their number differs"
            };
            return Err(Error::Mismatch(format!(
                "the models differ in tensor `{name}`: {}, {}; {remedy}",
                shown(first),
                shown(other)
            )));
        }
        let mut shape = shape(&tensors[0]).cloned().unwrap_or_default();
        if let (Some(vocabulary), Some(rows)) = (adapted, shape.first_mut()) {
            *rows = vocabulary.rows();
        }
        Ok(shape)
    }

    fn check_copy(&self, parts: &[Part]) -> Result<(), Error> {
        let of = |part: &Part| {
            let model = &self.models[part.index];
            let stored = &model.tensors[&part.tensor];
            (stored.kind.clone(), model.bytes(stored))
        };
        match parts.iter().find(|part| of(part) != of(&parts[0])) {
            None => Ok(()),
            Some(other) => Err(Error::Mismatch(format!(
                "tensor `{}` is of type {} in `{}` and differs in `{}`; only float32, float16 and bfloat16 are merged, others must be equal",
                other.tensor,
                of(&parts[0]).0,
                parts[0].model,
                other.model
            ))),
        }
    }

    fn check_architectures(&self) -> Result<(), Error> {
        let of = |m: &Checkpoint| {
            m.config
                .get("architectures")
                .or(m.config.get("model_type"))
                .cloned()
        };
        let first = of(&self.models[0]);
        let differs = self.models.iter().find(|m| of(m) != first);
        let Some(other) = differs else {
            return Ok(());
        };
        let shown = |a: Option<Value>| a.map_or("nothing".to_owned(), |a| a.to_string());
        Err(Error::Mismatch(format!(
            "`{}` is {}, `{}` is {}; models whose tensors agree all the same are merged with --allow-crimes",
            self.models[0].name,
            shown(first),
            other.name,
            shown(of(other))
        )))
    }

    /// `config.json` of the result: the base's or the first model's, with what the merge changed.
    fn config_out(&self) -> Map<String, Value> {
        let mut config = self.models[0].config.clone();
        let config_of_text = config.get("text_config").and_then(Value::as_object);
        let nested =
            config_of_text.is_some_and(|text| LAYER_KEYS.iter().any(|k| text.contains_key(*k)));
        let layers: usize = self.config.slices.iter().map(|s| self.length(s)).sum();
        let kinds = self.layer_types(nested);
        let vocabulary = self.vocabulary.as_ref().map(Vocabulary::rows);
        let set = |map: &mut Map<String, Value>| {
            for key in LAYER_KEYS.iter().filter(|_| !self.config.whole) {
                if let Some(value) = map.get_mut(*key) {
                    *value = json!(layers);
                }
            }
            if let Some(kinds) = kinds.clone().filter(|_| !self.config.whole) {
                map.insert("layer_types".to_owned(), kinds);
            }
            if let (Some(rows), Some(value)) = (vocabulary, map.get_mut("vocab_size")) {
                *value = json!(rows);
            }
        };
        match config
            .get_mut("text_config")
            .and_then(Value::as_object_mut)
            .filter(|_| nested)
        {
            Some(text) => set(text),
            None => set(&mut config),
        }
        if let Some(dtype) = self
            .config
            .out_dtype
            .or(self.config.dtype)
            .or(self.common_dtype())
        {
            let key = if config.contains_key("dtype") {
                "dtype"
            } else {
                "torch_dtype"
            };
            config.insert(key.to_owned(), json!(dtype.name()));
        }
        let has_head = self.tensors.iter().any(|t| layout::is_head(&t.name));
        let untied =
            |m: &Checkpoint| m.config.get("tie_word_embeddings") != Some(&Value::Bool(true));
        if has_head
            && self.models.iter().any(untied)
            && let Some(tied) = config.get_mut("tie_word_embeddings")
        {
            *tied = json!(false);
        }
        config
    }

    /// The type of all written weights, if it is one.
    fn common_dtype(&self) -> Option<Dtype> {
        self.tensors
            .iter()
            .filter_map(|t| t.out)
            .reduce(Dtype::promoted)
    }

    fn length(&self, slice: &Slice) -> usize {
        let source = &slice.sources[0];
        let all = || {
            self.models
                .iter()
                .position(|m| m.name == source.model)
                .map_or(0, |i| self.layouts[i].layers)
        };
        source.layers.map_or_else(all, |(first, end)| end - first)
    }

    /// The kinds of the result's layers, where the models list them: those of each slice's first source.
    fn layer_types(&self, nested: bool) -> Option<Value> {
        let mut kinds = Vec::new();
        for slice in &self.config.slices {
            let source = &slice.sources[0];
            let model = self.models.iter().find(|m| m.name == source.model)?;
            let place = if nested {
                model.config.get("text_config")?.as_object()?
            } else {
                &model.config
            };
            let list = place.get("layer_types")?.as_array()?;
            let (first, end) = source.layers.unwrap_or((0, list.len()));
            kinds.extend_from_slice(list.get(first..end)?);
        }
        Some(Value::Array(kinds))
    }
}

/// A number from the innermost settings that have one for this tensor.
fn resolve(
    parameter: &Parameter,
    scopes: &[&Settings],
    (tensor, t): (&str, f64),
    model: Option<&str>,
) -> Result<(&'static str, f64), Error> {
    let at = |setting: &Setting| setting.at(tensor, t, parameter.switch);
    let found = scopes
        .iter()
        .find_map(|s| s.get(parameter.name).and_then(at));
    let value = found.or(parameter.default).ok_or_else(|| Error::Missing {
        key: format!(
            "parameter `{}` for {}tensor `{tensor}`",
            parameter.name,
            model.map_or(String::new(), |m| format!("model `{m}`, "))
        ),
        remedy: "write it under the model's `parameters`, or under `parameters` for all".to_owned(),
    })?;
    Ok((parameter.name, value))
}
