//! Reading data files: plain or gzip (by the name's `.gz`), as text, JSON lines, a JSON array, CSV, Parquet ([`parquet`])
//! or the XML of ASDiv ([`xml`]). JSON lines, JSON arrays and Parquet are read record by record, so that a file may be
//! larger than the memory; the others whole.
//!
//! Every fault names the file, the line or record, and the field. A file that ends in the middle of a record is such a
//! fault: nothing is silently cut off.

pub(crate) mod parquet;
pub(crate) mod xml;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserializer;
use serde::de::{Error as _, SeqAccess, Visitor};
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

/// Hears records one after the other, and says whether it wants the next.
pub(crate) type Take<'a> = &'a mut dyn FnMut(Record) -> Result<bool, Error>;

/// Hands the records of a file to `take` until it says false, by the ending of the file's name; a `.json` may hold an
/// array or lines.
pub(crate) fn for_each_record(path: &Path, take: Take) -> Result<(), Error> {
    let mut none = true;
    let take: Take = &mut |record| {
        none = false;
        take(record)
    };
    match ending(path) {
        Some("parquet") => parquet::for_each_row(path, &[], take)?,
        Some("jsonl") => for_each_line(path, take)?,
        Some("csv") => {
            for record in read_csv(path)? {
                if !take(record)? {
                    break;
                }
            }
        }
        _ => match first(path)? {
            Some(b'{') => for_each_line(path, take)?,
            _ => for_each_element(path, take)?,
        },
    }
    match none {
        true => Err(empty(path)),
        false => Ok(()),
    }
}

/// The records of a file, all at once.
pub(crate) fn read_records(path: &Path) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    for_each_record(path, &mut |record| {
        records.push(record);
        Ok(true)
    })?;
    Ok(records)
}

/// One record of a file, with where it stands.
pub(crate) struct Record {
    path: PathBuf,
    place: Place,
    /// Records of the same split in the files before this one.
    before: usize,
    value: Value,
}

/// A file for reading, unpacked when its name ends in `.gz`.
fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    const BUFFER: usize = 1 << 18;
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok(match is_packed(path) {
        false => Box::new(BufReader::with_capacity(BUFFER, file)),
        true => {
            let unpacked = flate2::read::MultiGzDecoder::new(file);
            Box::new(BufReader::with_capacity(BUFFER, unpacked))
        }
    })
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "gz")
}

/// What is wrong where reading a file failed: the file system, or what was to be unpacked.
fn unreadable(path: &Path, e: std::io::Error) -> Error {
    let unpacking = [
        ErrorKind::InvalidInput,
        ErrorKind::InvalidData,
        ErrorKind::UnexpectedEof,
    ];
    match is_packed(path) && unpacking.contains(&e.kind()) {
        false => Error::io(path, e),
        true => {
            let problem =
                format!("not a whole gzip file ({e}); fetch it again or check it with `gzip -t`");
            Error::content(path, None, problem)
        }
    }
}

/// The first byte of a file that is not white space.
fn first(path: &Path) -> Result<Option<u8>, Error> {
    for byte in open(path)?.bytes() {
        let byte = byte.map_err(|e| unreadable(path, e))?;
        if !byte.is_ascii_whitespace() {
            return Ok(Some(byte));
        }
    }
    Ok(None)
}

/// The text of a file, unpacked when its name ends in `.gz`.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let read = open(path)?.read_to_end(&mut bytes);
    read.map_err(|e| unreadable(path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        not_utf8(path, line, at)
    })
}

fn not_utf8(path: &Path, line: usize, at: usize) -> Error {
    let problem = format!("not UTF-8 at byte {at}; convert the file to UTF-8");
    Error::content(path, Some(Place::Line(line)), problem)
}

/// JSON lines: one object a line, empty lines ignored.
fn for_each_line(path: &Path, take: Take) -> Result<(), Error> {
    let mut file = open(path)?;
    let (mut line, mut before) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let read = file.read_until(b'\n', &mut line);
        if read.map_err(|e| unreadable(path, e))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line)
            .map_err(|e| not_utf8(path, number, before + e.valid_up_to()))?;
        before += line.len();
        if text.trim().is_empty() {
            continue;
        }
        let place = Place::Line(number);
        let value = serde_json::from_str(text).map_err(|e| {
            let cut = if e.is_eof() {
                "; the file may be cut off, fetch it again"
            } else {
                ""
            };
            Error::content(path, Some(place), format!("not a JSON record ({e}){cut}"))
        })?;
        if !take(Record::new(path, place, value))? {
            break;
        }
    }
    Ok(())
}

/// A JSON array of objects.
fn for_each_element(path: &Path, take: Take) -> Result<(), Error> {
    let mut elements = Elements {
        path,
        take,
        end: None,
    };
    let mut file = serde_json::Deserializer::from_reader(open(path)?);
    let read = file
        .deserialize_any(&mut elements)
        .and_then(|()| file.end());
    match (elements.end, read) {
        (Some(end), _) => end,
        (None, Ok(())) => Ok(()),
        (None, Err(e)) if e.is_io() => Err(unreadable(path, e.into())),
        (None, Err(e)) if e.is_data() => {
            let problem = format!("a JSON array of records is needed ({e})");
            Err(Error::content(path, None, problem))
        }
        (None, Err(e)) => {
            let cut = if e.is_eof() {
                "; the file is cut off, fetch it again"
            } else {
                ""
            };
            let problem = format!("not JSON ({e}){cut}");
            Err(Error::content(path, Some(Place::Line(e.line())), problem))
        }
    }
}

/// The elements of an array on their way from serde to `take`.
struct Elements<'a> {
    path: &'a Path,
    take: Take<'a>,
    /// What `take` answered where it was not that it wants more.
    end: Option<Result<(), Error>>,
}

impl<'de> Visitor<'de> for &mut Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        for i in 1.. {
            let Some(value) = array.next_element()? else {
                break;
            };
            self.end = match (self.take)(Record::new(self.path, Place::Record(i), value)) {
                Ok(true) => continue,
                Ok(false) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            return Err(A::Error::custom("no more are wanted"));
        }
        Ok(())
    }
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
        Ok(Record::new(path, place, Value::Object(object)))
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

fn empty(path: &Path) -> Error {
    let problem = "no records; the file may be cut off, fetch it again";
    Error::content(path, None, problem)
}

fn nonempty(path: &Path, records: Vec<Record>) -> Result<Vec<Record>, Error> {
    match records.is_empty() {
        true => Err(empty(path)),
        false => Ok(records),
    }
}

impl Record {
    /// A record of `value` that stands at `place` of a file.
    pub(crate) fn new(path: &Path, place: Place, value: Value) -> Self {
        Self {
            path: path.to_path_buf(),
            place,
            before: 0,
            value,
        }
    }

    /// Counts on from the records of the files before.
    pub(crate) fn after(self, before: usize) -> Self {
        Self { before, ..self }
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
            before: self.before,
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

    /// Where the record stands in its split, for an id where the record has none.
    pub(crate) fn position(&self) -> usize {
        match self.place {
            Place::Line(n) | Place::Record(n) => self.before + n,
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
