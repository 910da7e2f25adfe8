//! YAML as a tree that knows its lines, for messages that name the key and where it stands.
//!
//! Scalars are read as PyYAML reads them where the two versions of YAML differ and it matters: `yes`, `on`, `no` and `off`
//! count as switches, `<<` takes over the keys of another mapping.

use crate::error::Error;
use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// A node and the line it begins on.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Switch(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Reads a document with one root.
pub(crate) fn parse(text: &str) -> Result<Node, Error> {
    let wrong = |found: String| Error::Value {
        key: "the merge configuration".to_owned(),
        found,
        allowed: "one YAML document".to_owned(),
    };
    let documents = MarkedYaml::load_from_str(text).map_err(|e| wrong(format!("no YAML: {e}")))?;
    match &documents[..] {
        [document] => node(document),
        found => Err(wrong(format!("{} documents", found.len()))),
    }
}

fn node(yaml: &MarkedYaml<'_>) -> Result<Node, Error> {
    let line = yaml.span.start.line();
    let value = match &yaml.data {
        YamlData::Value(scalar) => match scalar {
            Scalar::Null => Value::Null,
            Scalar::Boolean(b) => Value::Switch(*b),
            Scalar::Integer(i) => Value::Number(*i as f64),
            Scalar::FloatingPoint(x) => Value::Number(x.into_inner()),
            Scalar::String(s) => Value::Text(s.to_string()),
        },
        YamlData::Sequence(items) => Value::List(items.iter().map(node).collect::<Result<_, _>>()?),
        YamlData::Mapping(pairs) => {
            let mut map: Vec<(String, Node)> = Vec::new();
            let mut shared = Vec::new();
            for (key, value) in pairs {
                let name = match node(key)?.value {
                    Value::Text(name) => name,
                    // `tokens` may be named like numbers or switches.
                    Value::Number(x) => x.to_string(),
                    Value::Switch(b) => b.to_string(),
                    _ => return Err(unreadable(line, "a key that is no text")),
                };
                let value = node(value)?;
                match (name.as_str(), value.value) {
                    ("<<", Value::Map(pairs)) => shared.extend(pairs),
                    (_, value_) => map.push((
                        name,
                        Node {
                            line: value.line,
                            value: value_,
                        },
                    )),
                }
            }
            for (name, value) in shared {
                if !map.iter().any(|(known, _)| *known == name) {
                    map.push((name, value));
                }
            }
            Value::Map(map)
        }
        _ => return Err(unreadable(line, "a tag or an alias that is not understood")),
    };
    Ok(Node { line, value })
}

fn unreadable(line: usize, found: &str) -> Error {
    Error::Value {
        key: format!("line {line} of the merge configuration"),
        found: found.to_owned(),
        allowed: "texts, numbers, switches, lists and mappings".to_owned(),
    }
}

impl Node {
    /// What was found, for messages.
    pub(crate) fn described(&self) -> String {
        let what = match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Switch(b) => format!("`{b}`"),
            Value::Number(x) => format!("{x}"),
            Value::Text(s) => format!("`{s}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        };
        format!("{what} (line {})", self.line)
    }

    /// The error that this node is not `allowed` at `key`.
    pub(crate) fn not<T>(&self, key: &str, allowed: &str) -> Result<T, Error> {
        Err(Error::Value {
            key: key.to_owned(),
            found: self.described(),
            allowed: allowed.to_owned(),
        })
    }

    /// The pairs of a mapping whose keys are among `known`.
    pub(crate) fn map(&self, key: &str, known: &[&str]) -> Result<&[(String, Node)], Error> {
        let pairs = self.any_map(key)?;
        for (name, node) in pairs {
            if !known.contains(&name.as_str()) {
                let place = if key.is_empty() {
                    "key".to_owned()
                } else {
                    format!("key in {key}")
                };
                let place = format!("{place} (line {})", node.line);
                return Err(Error::unknown(place, name, known.iter().copied()));
            }
        }
        Ok(pairs)
    }

    /// The pairs of a mapping with any keys.
    pub(crate) fn any_map(&self, key: &str) -> Result<&[(String, Node)], Error> {
        match &self.value {
            Value::Map(pairs) => Ok(pairs),
            _ => self.not(
                if key.is_empty() {
                    "the configuration"
                } else {
                    key
                },
                "a mapping",
            ),
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self, key: &str) -> Result<&[Node], Error> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => self.not(key, "a list"),
        }
    }

    /// A text; a number stands for its digits.
    pub(crate) fn text(&self, key: &str) -> Result<String, Error> {
        match &self.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Number(x) => Ok(x.to_string()),
            _ => self.not(key, "a text"),
        }
    }

    /// A whole number from 0 on.
    pub(crate) fn count(&self, key: &str) -> Result<usize, Error> {
        match self.value {
            Value::Number(x) if x >= 0.0 && x.fract() == 0.0 && x < 1e15 => Ok(x as usize),
            _ => self.not(key, "a whole number from 0 on"),
        }
    }

    /// A number; a switch is 0 or 1.
    pub(crate) fn number(&self, key: &str) -> Result<f64, Error> {
        match &self.value {
            Value::Number(x) => Ok(*x),
            Value::Switch(b) => Ok(f64::from(u8::from(*b))),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "y" | "t" => Ok(1.0),
                "no" | "off" | "false" | "n" | "f" => Ok(0.0),
                number => number
                    .parse()
                    .or_else(|_| self.not(key, "a number, true or false")),
            },
            _ => self.not(key, "a number, true or false"),
        }
    }
}

/// The value of a key.
pub(crate) fn find<'a>(pairs: &'a [(String, Node)], name: &str) -> Option<&'a Node> {
    let found = pairs.iter().find(|(key, _)| key == name);
    found
        .map(|(_, node)| node)
        .filter(|node| !matches!(node.value, Value::Null))
}
