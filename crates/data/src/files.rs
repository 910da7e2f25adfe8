//! Reading data files whole: plain or gzip (by the name's `.gz`), as text, JSON lines, a JSON array, CSV, Parquet
//! ([`parquet`]) or the XML of ASDiv ([`xml`]).
//!
//! Every fault names the file, the line or record, and the field. A file that ends in the middle of a record is such a
//! fault: nothing is silently cut off.

pub(crate) mod parquet;
pub(crate) mod xml;

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Place};

/// The ending of a data file's name, `.gz` put aside: `parquet`, `jsonl`, `json` or `csv`; None for any other file.
pub(crate) fn ending(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let ending = plain.rsplit_once('.')?.1;
    ["parquet", "jsonl", "json", "csv"]
        .into_iter()
        .find(|known| *known == ending)
}

/// The records of a file by the ending of its name; a `.json` may hold an array or lines.
pub(crate) fn read_records(path: &Path) -> Result<Vec<Record>, Error> {
    match ending(path) {
        Some("parquet") => parquet::read_parquet(path),
        Some("jsonl") => read_jsonl(path),
        Some("csv") => read_csv(path),
        _ if read_text(path)?.trim_start().starts_with('{') => read_jsonl(path),
        _ => read_json(path),
    }
}

/// One record of a file, with where it stands.
pub(crate) struct Record {
    path: PathBuf,
    place: Place,
    value: Value,
}

/// The text of a file, unpacked when its name ends in `.gz`.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let raw = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bytes = match path.extension().is_some_and(|ext| ext == "gz") {
        false => raw,
        true => {
            let mut bytes = Vec::new();
            flate2::read::MultiGzDecoder::new(raw.as_slice())
                .read_to_end(&mut bytes)
                .map_err(|e| {
                    let problem = format!(
                        "not a whole gzip file ({e}); fetch it again or check it with `gzip -t`"
                    );
                    Error::content(path, None, problem)
                })?;
            bytes
        }
    };
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        Error::content(
            path,
            Some(Place::Line(line)),
            format!("not UTF-8 at byte {at}; convert the file to UTF-8"),
        )
    })
}

/// JSON lines: one object a line, empty lines ignored.
pub(crate) fn read_jsonl(path: &Path) -> Result<Vec<Record>, Error> {
    let text = read_text(path)?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let records = lines.map(|(i, line)| {
        let place = Place::Line(i + 1);
        let value = serde_json::from_str(line).map_err(|e| {
            let cut = if e.is_eof() {
                "; the file may be cut off, fetch it again"
            } else {
                ""
            };
            Error::content(path, Some(place), format!("not a JSON record ({e}){cut}"))
        })?;
        Ok(Record {
            path: path.to_path_buf(),
            place,
            value,
        })
    });
    nonempty(path, records.collect::<Result<_, _>>()?)
}

/// A JSON array of objects.
pub(crate) fn read_json(path: &Path) -> Result<Vec<Record>, Error> {
    let value: Value = serde_json::from_str(&read_text(path)?).map_err(|e| {
        let cut = if e.is_eof() {
            "; the file is cut off, fetch it again"
        } else {
            ""
        };
        Error::content(
            path,
            Some(Place::Line(e.line())),
            format!("not JSON ({e}){cut}"),
        )
    })?;
    let Value::Array(values) = value else {
        return Err(Error::content(
            path,
            None,
            format!("a JSON array of records is needed, found {}", kind(&value)),
        ));
    };
    let records = values.into_iter().enumerate();
    let records = records.map(|(i, value)| Record {
        path: path.to_path_buf(),
        place: Place::Record(i + 1),
        value,
    });
    nonempty(path, records.collect())
}

/// CSV with a header line, as records of strings; RFC 4180 quoting, so fields may hold line ends.
pub(crate) fn read_csv(path: &Path) -> Result<Vec<Record>, Error> {
    let text = read_text(path)?;
    let mut rows = csv_rows(path, text.strip_prefix('\u{feff}').unwrap_or(&text))?.into_iter();
    let (_, header) = rows
        .next()
        .ok_or_else(|| Error::content(path, None, "empty file; a header line is needed"))?;
    let records = rows.map(|(line, row)| {
        let place = Place::Line(line);
        if row.len() != header.len() {
            let problem = format!("{} fields where the header has {}", row.len(), header.len());
            return Err(Error::content(path, Some(place), problem));
        }
        let object = header
            .iter()
            .cloned()
            .zip(row.into_iter().map(Value::String))
            .collect();
        Ok(Record {
            path: path.to_path_buf(),
            place,
            value: Value::Object(object),
        })
    });
    nonempty(path, records.collect::<Result<_, _>>()?)
}

/// Rows with the line that each begins on.
fn csv_rows(path: &Path, text: &str) -> Result<Vec<(usize, Vec<String>)>, Error> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begun, mut quoted) = (1, 1, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            _ if quoted => field.push(c),
            ',' => row.push(std::mem::take(&mut field)),
            '\n' => {
                let blank = row.is_empty() && field.is_empty();
                row.push(std::mem::take(&mut field));
                let row = std::mem::take(&mut row);
                if !blank {
                    rows.push((begun, row));
                }
                begun = line;
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            _ => field.push(c),
        }
    }
    if quoted {
        return Err(Error::content(
            path,
            Some(Place::Line(begun)),
            "a quoted field never ends; the file may be cut off",
        ));
    }
    if !row.is_empty() || !field.is_empty() {
        row.push(field);
        rows.push((begun, row));
    }
    Ok(rows)
}

fn nonempty(path: &Path, records: Vec<Record>) -> Result<Vec<Record>, Error> {
    match records.is_empty() {
        true => Err(Error::content(
            path,
            None,
            "no records; the file may be cut off, fetch it again",
        )),
        false => Ok(records),
    }
}

impl Record {
    /// A record of `value` that stands at `place` of a file.
    pub(crate) fn new(path: &Path, place: Place, value: Value) -> Self {
        Self {
            path: path.to_path_buf(),
            place,
            value,
        }
    }

    /// Adds a field that the publisher keeps in another file.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        if let Value::Object(fields) = &mut self.value {
            fields.insert(name.to_string(), value);
        }
    }

    /// Whether a dotted path of fields is there and not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.field(name).is_ok_and(|value| !value.is_null())
    }

    /// The value at a dotted path of fields.
    pub(crate) fn field(&self, name: &str) -> Result<&Value, Error> {
        let found = name
            .split('.')
            .try_fold(&self.value, |value, part| value.get(part));
        found.ok_or_else(|| {
            let has = match &self.value {
                Value::Object(map) => format!(
                    "it has {}",
                    map.keys().cloned().collect::<Vec<_>>().join(", ")
                ),
                other => format!("it is {}", kind(other)),
            };
            self.fault(format!("no field `{name}` ({has})"))
        })
    }

    /// A field that holds text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Error> {
        let value = self.field(name)?;
        value.as_str().ok_or_else(|| {
            self.fault(format!(
                "field `{name}` must be text, found {}",
                kind(value)
            ))
        })
    }

    /// A field that holds text or is absent.
    pub(crate) fn text_or<'a>(&'a self, name: &str, absent: &'a str) -> &'a str {
        self.value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or(absent)
    }

    /// A field that holds a number.
    pub(crate) fn number(&self, name: &str) -> Result<f64, Error> {
        let value = self.field(name)?;
        value.as_f64().ok_or_else(|| {
            self.fault(format!(
                "field `{name}` must be a number, found {}",
                kind(value)
            ))
        })
    }

    /// A field that holds a number, as a number or as its text (`"145.0"`).
    pub(crate) fn number_or_text(&self, name: &str) -> Result<f64, Error> {
        match self.field(name)?.as_str() {
            None => self.number(name),
            Some(text) => text.trim().parse().map_err(|_| {
                self.fault(format!("field `{name}` must be a number, found `{text}`"))
            }),
        }
    }

    /// A field that says which of `count` is right: 0 to count - 1, as a number or as its text.
    pub(crate) fn index(&self, name: &str, count: usize) -> Result<usize, Error> {
        let index = self.number_or_text(name)?;
        let known = index >= 0.0 && index.fract() == 0.0 && (index as usize) < count;
        known.then_some(index as usize).ok_or_else(|| {
            self.fault(match count {
                0 => format!("field `{name}` is {index}, and there is nothing to choose from"),
                _ => format!("field `{name}` is {index}, allowed are 0 to {}", count - 1),
            })
        })
    }

    /// A field that holds true or false.
    pub(crate) fn truth(&self, name: &str) -> Result<bool, Error> {
        let value = self.field(name)?;
        value.as_bool().ok_or_else(|| {
            self.fault(format!(
                "field `{name}` must be true or false, found {}",
                kind(value)
            ))
        })
    }

    /// A field that holds a list, each element read by `read` as a record of its own.
    pub(crate) fn list<T>(
        &self,
        name: &str,
        read: impl Fn(&Record) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let value = self.field(name)?;
        let Value::Array(values) = value else {
            return Err(self.fault(format!(
                "field `{name}` must be a list, found {}",
                kind(value)
            )));
        };
        let element = |value: &Value| Record {
            path: self.path.clone(),
            place: self.place,
            value: value.clone(),
        };
        values.iter().map(|value| read(&element(value))).collect()
    }

    /// A field that holds a list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        self.list(name, |element| match &element.value {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.fault(format!(
                "field `{name}` must hold texts, found {}",
                kind(other)
            ))),
        })
    }

    /// A field that holds a list of texts or one text; absent or null is none.
    pub(crate) fn texts_or_text(&self, name: &str) -> Result<Vec<String>, Error> {
        match self.field(name) {
            Ok(Value::String(text)) => Ok(vec![text.clone()]),
            Err(_) | Ok(Value::Null) => Ok(Vec::new()),
            Ok(_) => self.texts(name),
        }
    }

    /// Where the record stands, for an id where the record has none.
    pub(crate) fn position(&self) -> usize {
        match self.place {
            Place::Line(n) | Place::Record(n) => n,
        }
    }

    /// An error about this record.
    pub(crate) fn fault(&self, problem: String) -> Error {
        Error::content(&self.path, Some(self.place), problem)
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
