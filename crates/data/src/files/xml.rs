//! The XML of ASDiv: a flat list of elements `<Problem ID="..">` with plain text elements inside.
//!
//! Attributes and inner elements become the fields of one record. That is all that is read: no name spaces, no nesting
//! below a problem, and the five predefined entities only. A problem that never ends is an error, not a shorter list.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Record, nonempty, read_text};
use crate::error::{Error, Place};

/// Every element `name` of a file as a record of texts.
pub(crate) fn read_elements(path: &Path, name: &str) -> Result<Vec<Record>, Error> {
    let text = read_text(path)?;
    let (open, close) = (format!("<{name} "), format!("</{name}>"));
    let mut records = Vec::new();
    let (mut rest, mut line) = (text.as_str(), 1);
    while let Some(at) = rest.find(&open) {
        line += rest[..at].matches('\n').count();
        let place = Place::Line(line);
        let fault = |problem: &str| Error::content(path, Some(place), problem.to_string());
        let cut = "never ends; the file is cut off, fetch it again";
        let inside = &rest[at + open.len()..];
        let end = inside
            .find(&close)
            .ok_or_else(|| fault(&format!("element `{name}` {cut}")))?;
        let (attributes, body) = inside[..end]
            .split_once('>')
            .ok_or_else(|| fault(&format!("tag `{name}` {cut}")))?;
        let mut fields = Map::new();
        add_attributes(&mut fields, attributes);
        add_elements(&mut fields, body)
            .map_err(|tag| fault(&format!("element `{tag}` of `{name}` {cut}")))?;
        records.push(Record::new(path, place, Value::Object(fields)));
        line += inside[..end].matches('\n').count();
        rest = &inside[end + close.len()..];
    }
    nonempty(path, records)
}

/// `ID="nluds-0001" Grade="1"`
fn add_attributes(fields: &mut Map<String, Value>, attributes: &str) {
    let mut rest = attributes;
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, next)) = after.split_once('"') else {
            break;
        };
        fields.insert(name.trim().to_string(), plain(value).into());
        rest = next;
    }
}

/// `<Body>..</Body><Question>..</Question>`; the Err names an element that has no end.
fn add_elements(fields: &mut Map<String, Value>, body: &str) -> Result<(), String> {
    let mut rest = body;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, inside) = after.split_once('>').ok_or_else(|| after.to_string())?;
        let name = tag.split_whitespace().next().unwrap_or_default();
        let (text, next) = inside
            .split_once(&format!("</{name}>"))
            .ok_or_else(|| name.to_string())?;
        fields.insert(name.to_string(), plain(text).into());
        rest = next;
    }
    Ok(())
}

/// Text with its entities resolved.
fn plain(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    let all = entities
        .iter()
        .fold(text.to_string(), |text, (from, to)| text.replace(from, to));
    all.trim().to_string()
}
