//! Parquet files as the hub has them: written here, read back, and refused when they are damaged.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use data::{Places, load_folder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A column of a table, one value a row.
pub(crate) enum Column<'a> {
    Text(&'a str, Vec<&'a str>),
    Number(&'a str, Vec<i64>),
    Truth(&'a str, Vec<bool>),
    /// A list of texts.
    Texts(&'a str, Vec<Vec<&'a str>>),
    /// A list of lists of texts inside a struct is not needed; a struct holds lists of texts, or lists of lists.
    Struct(&'a str, Vec<Inner<'a>>),
}

/// A list inside a struct.
pub(crate) enum Inner<'a> {
    Texts(&'a str, Vec<Vec<&'a str>>),
    /// A list of lists.
    Deep(&'a str, Vec<Vec<Vec<&'a str>>>),
}

const LIST: &str = "(LIST) { repeated group list { optional binary element (UTF8); } }";
const DEEP: &str = "(LIST) { repeated group list { optional group element (LIST) { repeated group list { optional binary \
                    element (UTF8); } } } }";

/// Writes a table, compressed as asked.
pub(crate) fn write_table(path: &Path, columns: &[Column], compression: Compression) {
    let inner = |inner: &Inner| match inner {
        Inner::Texts(name, _) => format!("optional group {name} {LIST}"),
        Inner::Deep(name, _) => format!("optional group {name} {DEEP}"),
    };
    let field = |column: &Column| match column {
        Column::Text(name, _) => format!("optional binary {name} (UTF8);"),
        Column::Number(name, _) => format!("optional int64 {name};"),
        Column::Truth(name, _) => format!("optional boolean {name};"),
        Column::Texts(name, _) => format!("optional group {name} {LIST}"),
        Column::Struct(name, fields) => {
            let fields: Vec<String> = fields.iter().map(inner).collect();
            format!("optional group {name} {{ {} }}", fields.join(" "))
        }
    };
    let fields: Vec<String> = columns.iter().map(field).collect();
    let schema = format!("message schema {{ {} }}", fields.join(" "));
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let bytes = |texts: &[&str]| {
        texts
            .iter()
            .map(|t| ByteArray::from(*t))
            .collect::<Vec<_>>()
    };
    let leaves: Vec<Leaf> = columns.iter().flat_map(leaves).collect();
    for leaf in leaves {
        let mut column = group.next_column().unwrap().unwrap();
        match leaf {
            Leaf::Number(values) => {
                let levels = vec![1; values.len()];
                let typed = column.typed::<Int64Type>();
                typed.write_batch(&values, Some(&levels), None).unwrap();
            }
            Leaf::Truth(values) => {
                let levels = vec![1; values.len()];
                let typed = column.typed::<BoolType>();
                typed.write_batch(&values, Some(&levels), None).unwrap();
            }
            Leaf::Text {
                values,
                definition,
                repetition,
            } => {
                let typed = column.typed::<ByteArrayType>();
                let repetition = (!repetition.is_empty()).then_some(repetition.as_slice());
                let written = typed.write_batch(&bytes(&values), Some(&definition), repetition);
                written.unwrap();
            }
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

/// A column as it is stored: values with their levels.
enum Leaf<'a> {
    Number(Vec<i64>),
    Truth(Vec<bool>),
    Text {
        values: Vec<&'a str>,
        definition: Vec<i16>,
        repetition: Vec<i16>,
    },
}

fn leaves<'a>(column: &Column<'a>) -> Vec<Leaf<'a>> {
    match column {
        Column::Number(_, values) => vec![Leaf::Number(values.clone())],
        Column::Truth(_, values) => vec![Leaf::Truth(values.clone())],
        Column::Text(_, values) => vec![Leaf::Text {
            values: values.clone(),
            definition: vec![1; values.len()],
            repetition: Vec::new(),
        }],
        Column::Texts(_, rows) => vec![list(rows, 0)],
        Column::Struct(_, fields) => fields
            .iter()
            .map(|field| match field {
                Inner::Texts(_, rows) => list(rows, 1),
                Inner::Deep(_, rows) => deep(rows),
            })
            .collect(),
    }
}

/// A list of texts below `above` optional groups; no list here is empty of rows, but one may have no elements.
fn list<'a>(rows: &[Vec<&'a str>], above: i16) -> Leaf<'a> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.is_empty() {
            definition.push(above + 1);
            repetition.push(0);
        }
        for (i, text) in row.iter().enumerate() {
            values.push(*text);
            definition.push(above + 3);
            repetition.push(i16::from(i > 0));
        }
    }
    Leaf::Text {
        values,
        definition,
        repetition,
    }
}

/// A list of lists of texts inside a struct.
fn deep<'a>(rows: &[Vec<Vec<&'a str>>]) -> Leaf<'a> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        for (i, inner) in row.iter().enumerate() {
            for (j, text) in inner.iter().enumerate() {
                values.push(*text);
                definition.push(6);
                repetition.push(match (i, j) {
                    (0, 0) => 0,
                    (_, 0) => 1,
                    _ => 2,
                });
            }
        }
    }
    Leaf::Text {
        values,
        definition,
        repetition,
    }
}

fn texts(dir: &Path) -> Vec<String> {
    let loaded = load_folder(dir).unwrap();
    let mut texts: Vec<String> = loaded
        .train
        .into_iter()
        .chain(loaded.texts)
        .map(|d| d.text)
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_folder_of_parquet_is_read_under_every_codec_that_is_promised() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let rows = Column::Text("text", vec!["one text", "two text", "three text"]);
        write_table(&dir.path().join("a.parquet"), &[rows], compression);
        assert_eq!(texts(dir.path()), ["one text", "three text", "two text"]);
    }
}

#[test]
fn a_damaged_parquet_file_is_named_and_never_a_shorter_data_set() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("openwebtext/train-00000-of-00001.parquet");
    let words: Vec<String> = (0..400).map(|i| format!("text number {i}")).collect();
    let rows = Column::Text("text", words.iter().map(String::as_str).collect());
    write_table(&path, &[rows], Compression::SNAPPY);
    let whole = fs::read(&path).unwrap();
    let load = || data::load("openwebtext", &Places::local(root.path()));
    assert_eq!(
        load().unwrap().train.len() + load().unwrap().texts.len(),
        400
    );
    for kept in [0, 3, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..kept]).unwrap();
        let said = load().expect_err("a cut file must be refused").to_string();
        assert!(said.contains("train-00000-of-00001.parquet"), "{said}");
    }
    // Whatever one wrong byte does to the pages, it is an error or other text, never a panic.
    for at in (4..whole.len() - 8).step_by(7) {
        let mut wrong = whole.clone();
        wrong[at] ^= 0x55;
        fs::write(&path, &wrong).unwrap();
        let _ = load();
    }
    let other = Column::Text("body", vec!["x"]);
    write_table(&path, &[other], Compression::SNAPPY);
    let said = load().expect_err("a file without text").to_string();
    for part in ["train-00000-of-00001.parquet", "`text`", "body"] {
        assert!(said.contains(part), "{said}");
    }
}
