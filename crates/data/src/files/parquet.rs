//! Parquet, the form in which the Hugging Face hub publishes most data sets: rows as records.
//!
//! Rows are read one after the other through the `parquet` crate's record interface, without Arrow, and only the columns
//! asked for are decoded. Snappy, Zstandard and no compression are read; another codec is an error that names the file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Number, Value};

use super::{Record, Take};
use crate::error::{Error, Place};

/// Hands the rows of a file to `take` until it says false, in their order and counted from 1. `columns` names the top columns to read; empty = all.
pub(crate) fn for_each_row(path: &Path, columns: &[&str], take: Take) -> Result<(), Error> {
    let fault = |e: parquet::errors::ParquetError| unreadable(path, e);
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let reader = guarded(path, || SerializedFileReader::new(file))?.map_err(fault)?;
    let schema = reader.metadata().file_metadata().schema();
    let wanted = match columns.is_empty() {
        true => None,
        false => Some(projection(path, schema, columns)?),
    };
    let mut rows = guarded(path, || reader.get_row_iter(wanted))?.map_err(fault)?;
    for i in 1.. {
        let Some(row) = guarded(path, || rows.next())? else {
            break;
        };
        let value = object(row.map_err(fault)?);
        if !take(Record::new(path, Place::Record(i), value))? {
            break;
        }
    }
    Ok(())
}

/// Calls the reader, which panics at some damaged files; nothing of it is used after that.
fn guarded<T>(path: &Path, read: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(read)).or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        match said {
            Some(said) => Err(unreadable(path, said)),
            None => resume_unwind(panic),
        }
    })
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Error {
    let problem = format!("not a whole Parquet file that can be read ({why}); fetch it again");
    Error::content(path, None, problem)
}

/// The schema with the columns named only.
fn projection(path: &Path, schema: &Type, columns: &[&str]) -> Result<Type, Error> {
    let all = schema.get_fields();
    let kept: Vec<Arc<Type>> = all
        .iter()
        .filter(|field| columns.contains(&field.name()))
        .cloned()
        .collect();
    if kept.is_empty() {
        let has: Vec<&str> = all.iter().map(|field| field.name()).collect();
        let problem = format!(
            "no column `{}` (it has {})",
            columns.join("`, `"),
            has.join(", ")
        );
        return Err(Error::content(path, None, problem));
    }
    Type::group_type_builder(schema.name())
        .with_fields(kept)
        .build()
        .map_err(|e| Error::content(path, None, format!("its columns cannot be chosen ({e})")))
}

fn object(row: Row) -> Value {
    let fields = row.into_columns().into_iter();
    Value::Object(fields.map(|(name, field)| (name, value(&field))).collect())
}

/// A field as JSON. Times, dates and decimals, which no data set here needs, become their text; bytes become text where
/// they are UTF-8 (files written without the mark for strings), else null.
fn value(field: &Field) -> Value {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::Bool(*x),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data())
            .map_or(Value::Null, |text| Value::String(text.to_string())),
        Field::Group(row) => {
            let fields = row.get_column_iter();
            Value::Object(
                fields
                    .map(|(name, field)| (name.clone(), value(field)))
                    .collect(),
            )
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => Value::String(other.to_string()),
    }
}
