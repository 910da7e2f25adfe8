//! Plain text: WikiText, FineWeb-Edu, OpenWebText, the prose sets, and any folder of the user's own.
//!
//! A long text is cut at paragraph ends into parts of about [`PART`] bytes, `id#0`, `id#1`, ..; the whole text decides
//! whether its parts are trained on or held out, so nothing of a held-out book is ever seen. One text in twenty is held
//! out, by a stable hash of its id.

use std::collections::BTreeMap;
use std::path::Path;

use super::{
    DEV, From, Part, Place, TEST, TRAIN, document, files_below, nothing, of_snapshot, part, size,
};
use crate::catalogue::{Dataset, Places, dataset};
use crate::error::Error;
use crate::files::parquet::for_each_row;
use crate::files::{Record, ending, for_each_record, read_records, read_text};
use crate::record::{Document, Family, Loaded, id_hash};

/// About how long a part of a long text is, in bytes: some 4,000 tokens.
const PART: usize = 16 << 10;

/// The name that a folder of the user's own has as a data set.
const OWN: &str = "own_text";

/// Whether a text of a set without official splits is held out.
fn is_held_out(id: &str) -> bool {
    id_hash(id).is_multiple_of(20)
}

const WIKITEXT: [Part; 3] = [
    part("train", &["wiki.train.tokens"], TRAIN),
    part("valid", &["wiki.valid.tokens"], DEV),
    part("test", &["wiki.test.tokens"], TEST),
];

/// WikiText: `wiki.{train,valid,test}.tokens`, or the hub's Parquet of one line a row; one document an article, the text
/// as published (words apart, `<unk>`).
pub(crate) fn wikitext(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let mut missing = Vec::new();
    for part in &WIKITEXT {
        let Some((files, from)) = part.find(places)? else {
            missing.push(part.names[0]);
            continue;
        };
        loaded.came_from(part.official, from);
        let mut text = String::new();
        for path in &files {
            loaded.bytes += size(path)?;
            text += &match ending(path) {
                Some(_) => lines_of(path)?,
                None => read_text(path)?,
            };
        }
        let articles = articles(&text);
        if articles.is_empty() {
            let problem =
                "no article: no line ` = Title = `; the file may be cut off, fetch it again";
            return Err(Error::content(&files[0], None, problem));
        }
        let into = match part.official {
            "train" => &mut loaded.train,
            _ => &mut loaded.texts,
        };
        for (i, article) in articles.iter().enumerate() {
            let id = format!("{}/{i}", part.official);
            into.extend(
                parts(article).map(|(part, text)| document(row, format!("{id}{part}"), text)),
            );
        }
    }
    if missing.len() == WIKITEXT.len() {
        return Err(nothing(
            row,
            &places.iter().collect::<Vec<_>>(),
            &missing.join(" or "),
        ));
    }
    if !missing.is_empty() {
        loaded.note = format!("not there: {}", missing.join(", "));
    }
    Ok(loaded)
}

/// The lines of a file of records, each with its line end.
fn lines_of(path: &Path) -> Result<String, Error> {
    let records = read_records(path)?;
    let lines = records.iter().map(|record| record.text("text"));
    let mut text = String::new();
    for line in lines {
        text += line?.trim_end_matches('\n');
        text.push('\n');
    }
    Ok(text)
}

/// A page of WikiText as the field scores it: word and byte counts are those of the published text, the likelihood is
/// that of a text a person could have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What is scored: the page with the marks of its tokenization undone.
    pub text: String,
    /// Words of the published page.
    pub words: u64,
    /// Bytes of the published page.
    pub bytes: u64,
}

/// The pages of WikiText's test split, in the order of the file, as lm-evaluation-harness scores them.
///
/// # Errors
/// The set or its test split is nowhere, or the file is wrong.
pub fn wikitext_pages(places: &Places) -> Result<Vec<Page>, Error> {
    let row = dataset("wikitext").expect("a row of the table");
    let found = places.of(row);
    let test = &WIKITEXT[2];
    let Some((files, _)) = test.find(&found)? else {
        let places: Vec<&Place> = found.iter().collect();
        return Err(nothing(row, &places, test.names[0]));
    };
    let mut text = String::new();
    for path in &files {
        text += &match ending(path) {
            Some(_) => lines_of(path)?,
            None => read_text(path)?,
        };
    }
    let lines: Vec<&str> = text.split('\n').collect();
    let trimmed: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    let starts = titles(&trimmed);
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    let page = |(start, end): (&usize, usize)| {
        let page = lines[*start..end].join("\n");
        Page {
            words: words(&page),
            bytes: page.len() as u64,
            text: detokenized(&page),
        }
    };
    Ok(starts.iter().zip(ends).map(page).collect())
}

/// The pieces between runs of white space, empty ones at the ends included, as Python's `re.split` counts them.
fn words(page: &str) -> u64 {
    let ends = [page.chars().next(), page.chars().next_back()];
    let open = ends
        .iter()
        .filter(|end| end.is_some_and(char::is_whitespace));
    (page.split_whitespace().count() + open.count()) as u64
}

/// The published page with the marks of its tokenization undone, replacement by replacement as in the harness
/// (`preprocess_wikitext.py`), whose order matters.
fn detokenized(page: &str) -> String {
    let replace = |text: String, pairs: &[(&str, &str)]| {
        let mut all = text;
        for (from, to) in pairs {
            all = all.replace(from, to);
        }
        all
    };
    let mut text = replace(
        page.to_string(),
        &[
            ("s '", "s'"),
            (" @-@ ", "-"),
            (" @,@ ", ","),
            (" @.@ ", "."),
            (" : ", ": "),
            (" ; ", "; "),
            (" . ", ". "),
            (" ! ", "! "),
            (" ? ", "? "),
            (" , ", ", "),
        ],
    );
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        text = tight(&text, open, close);
    }
    replace(
        text,
        &[
            ("= = = =", "===="),
            ("= = =", "==="),
            ("= =", "=="),
            (" \u{b0} ", "\u{b0}"),
            (" \n", "\n"),
            ("\n ", "\n"),
            (" N ", " 1 "),
            (" 's", "'s"),
        ],
    )
}

/// Takes out the white space just inside of each pair of marks, pairs found from the left.
fn tight(text: &str, open: char, close: char) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(open) {
        let Some((inside, behind)) = after.split_once(close) else {
            break;
        };
        out += before;
        out.push(open);
        out += inside.trim();
        out.push(close);
        rest = behind;
    }
    out + rest
}

/// The lines (without white space around) that open an article: ` = Title = ` between empty lines; deeper headings have
/// more `=`.
fn titles(lines: &[&str]) -> Vec<usize> {
    let empty = |i: Option<usize>| {
        i.and_then(|i| lines.get(i))
            .is_none_or(|line| line.is_empty())
    };
    let title = |i: usize| {
        let line = lines[i];
        line.starts_with("= ")
            && line.ends_with(" =")
            && !line.starts_with("= =")
            && empty(i.checked_sub(1))
            && empty(Some(i + 1))
    };
    (0..lines.len()).filter(|&i| title(i)).collect()
}

/// The articles of a file, without empty lines.
fn articles(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let starts = titles(&lines);
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    let article = |(start, end): (&usize, usize)| {
        let kept: Vec<&str> = lines[*start..end]
            .iter()
            .copied()
            .filter(|line| !line.is_empty())
            .collect();
        kept.join("\n")
    };
    starts.iter().zip(ends).map(article).collect()
}

/// The most text of one web set that is read into memory, in bytes: some 60 million tokens, more than any recipe takes.
const WEB: usize = 256 << 20;

/// FineWeb-Edu and OpenWebText: any Parquet, JSON lines, JSON or CSV of their folders or of the cached snapshot, with a
/// field `text`; at most [`WEB`] bytes, in the order of the files.
pub(crate) fn web(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let mut read = 0;
    // Any folder but the set's own holds a sample.
    let from = |place: &Place| match place.hub {
        Some(_) => From::Cache,
        None if place.path.ends_with(row.folders[0]) => From::Root,
        None => From::StandIn,
    };
    let mut places: Vec<&Place> = places.iter().collect();
    places.sort_by_key(|place| from(place) == From::StandIn);
    for place in &places {
        let files = match place.hub {
            Some(hub) => of_snapshot(hub, &place.path, &[])?,
            None => files_below(&place.path)?
                .into_iter()
                .filter(|path| ending(path).is_some())
                .collect(),
        };
        for path in &files {
            let name = path.strip_prefix(&place.path).unwrap_or(path);
            let name = name.display().to_string();
            loaded.bytes += size(path)?;
            each_text(path, |record| {
                let text = record.text("text")?;
                read += text.len();
                let id = format!("{name}/{}", record.position());
                deal(&mut loaded, &id, text, |id, text| document(row, id, text));
                Ok(read < WEB)
            })?;
            if read >= WEB {
                break;
            }
        }
        if !files.is_empty() {
            loaded.came_from("all", from(place));
            break;
        }
    }
    if loaded.bytes == 0 {
        return Err(nothing(row, &places, "data file with a field `text`"));
    }
    if read >= WEB {
        loaded.note = format!("the first {} MB of text are read", WEB / 1_000_000);
    }
    Ok(loaded)
}

/// Hands the records of a file to `take` until it says false; of a Parquet file only the text is decoded.
fn each_text(
    path: &Path,
    mut take: impl FnMut(&Record) -> Result<bool, Error>,
) -> Result<(), Error> {
    let take = &mut |record| take(&record);
    match ending(path) {
        Some("parquet") => for_each_row(path, &["text"], take),
        _ => for_each_record(path, take),
    }
}

/// The prose sets: every `.jsonl` or `.jsonl.gz` of their folders, with `id`, `title` and `text`.
pub(crate) fn prose(row: &Dataset, places: &[Place]) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let mut names = Vec::new();
    for place in places {
        names.push(
            place
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        );
        for path in files_below(&place.path)?
            .into_iter()
            .filter(|path| ending(path) == Some("jsonl"))
        {
            loaded.bytes += size(&path)?;
            for_each_record(&path, &mut |record| {
                let (id, text) = (record.text("id")?, record.text("text")?);
                let text = match record.text_or("title", "") {
                    "" => text.to_string(),
                    title => format!("{title}\n\n{text}"),
                };
                deal(&mut loaded, id, &text, |id, text| document(row, id, text));
                Ok(true)
            })?;
        }
    }
    if loaded.bytes == 0 {
        return Err(nothing(
            row,
            &places.iter().collect::<Vec<_>>(),
            "*.jsonl file",
        ));
    }
    loaded.note = format!("from {}", names.join(", "));
    Ok(loaded)
}

/// Reads a folder (or one file) of the user's own text as the data set `own_text`, of the language family, as
/// [`each_document`] does; of a folder of so few texts that none was held out, parts of them are.
///
/// # Errors
/// Nothing readable is there, or a file is wrong: the file, the line and the field are named.
pub fn load_folder(dir: &Path) -> Result<Loaded, Error> {
    let mut loaded = Loaded::default();
    let (bytes, note) = each_document(dir, OWN, &mut |document, is_held_out| {
        match is_held_out {
            true => loaded.texts.push(document),
            false => loaded.train.push(document),
        }
        Ok(true)
    })?;
    (loaded.bytes, loaded.note) = (bytes, note);
    if loaded.texts.is_empty() {
        hold_out_parts(&mut loaded);
    }
    Ok(loaded.counted())
}

/// Hands the documents of a folder (or of one file) of the user's own text to `take`, each with whether it is held out,
/// until it says false; gives the bytes of the files read and a note of what was left out. `.txt` and `.md` are taken
/// whole, `.jsonl`, `.json` (an array, or lines) and `.csv` by their field `text`, each also as `.gz`, and `.parquet` by
/// its column `text`. Files are taken in the order of their paths; others are left out. No more than a record is held
/// in memory, but for `.txt`, `.md` and `.csv`, which are read whole.
///
/// # Errors
/// Nothing readable is there, a file is wrong (the file, the line and the field are named), or `take` failed.
pub fn each_document(
    dir: &Path,
    dataset: &str,
    take: &mut dyn FnMut(Document, bool) -> Result<bool, Error>,
) -> Result<(u64, String), Error> {
    let (mut bytes, mut none, mut more) = (0, true, true);
    let mut hand = |id: &str, text: &str| {
        let is_held_out = is_held_out(id);
        for (part, text) in parts(text.trim()) {
            none = false;
            let document = Document {
                dataset: dataset.to_string(),
                family: Family::Language,
                id: format!("{id}{part}"),
                text,
                loss: Vec::new(),
            };
            more = take(document, is_held_out)?;
            if !more {
                break;
            }
        }
        Ok::<bool, Error>(more)
    };
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    let files = if dir.is_file() {
        vec![dir.to_path_buf()]
    } else {
        files_below(dir)?
    };
    for path in files {
        let Some((kind, name)) = kind(&path) else {
            let ending = path
                .extension()
                .map_or("(none)".into(), |ext| ext.to_string_lossy().into_owned());
            *left_out.entry(ending).or_default() += 1;
            continue;
        };
        bytes += size(&path)?;
        let name = path
            .strip_prefix(dir)
            .ok()
            .and_then(Path::to_str)
            .filter(|n| !n.is_empty())
            .unwrap_or(&name)
            .to_string();
        let mut go_on = true;
        if matches!(kind, "txt" | "md") {
            go_on = hand(&name, &read_text(&path)?)?;
        } else {
            each_text(&path, |record| {
                go_on = hand(
                    &format!("{name}/{}", record.position()),
                    record.text("text")?,
                )?;
                Ok(go_on)
            })?;
        }
        if !go_on {
            break;
        }
    }
    if none {
        let problem = "no text found; wanted are .txt, .md, .jsonl, .json, .csv (also .gz) or .parquet files, those with \
                       records having a field `text`";
        return Err(Error::content(dir, None, problem));
    }
    let left_out: Vec<String> = left_out
        .iter()
        .map(|(ending, count)| format!("{count} .{ending}"))
        .collect();
    let note = match left_out.is_empty() {
        true => String::new(),
        false => format!("files left out: {}", left_out.join(", ")),
    };
    Ok((bytes, note))
}

/// Adds a text, in parts where it is long, to training or to the held-out texts; an empty one is nothing.
fn deal(loaded: &mut Loaded, id: &str, text: &str, document: impl Fn(String, String) -> Document) {
    let into = if is_held_out(id) {
        &mut loaded.texts
    } else {
        &mut loaded.train
    };
    into.extend(parts(text.trim()).map(|(part, text)| document(format!("{id}{part}"), text)));
}

/// For a folder of so few texts that none was held out: parts of them are, one in twenty and at least one of two.
fn hold_out_parts(loaded: &mut Loaded) {
    let lowest = loaded.train.iter().map(|text| id_hash(&text.id)).min();
    let alone = loaded.train.len() < 2;
    let (out, kept) = std::mem::take(&mut loaded.train)
        .into_iter()
        .partition(|text| !alone && (is_held_out(&text.id) || Some(id_hash(&text.id)) == lowest));
    (loaded.texts, loaded.train) = (out, kept);
    let glue = if loaded.note.is_empty() { "" } else { "; " };
    let held_out = match alone {
        true => "nothing is held out: there is only one short text",
        false => "few texts: parts of them are held out",
    };
    loaded.note += &format!("{glue}{held_out}");
}

/// A text in parts of about [`PART`] bytes, each with the suffix of its id; one part has none.
fn parts(text: &str) -> impl Iterator<Item = (String, String)> {
    let mut cuts = Vec::new();
    let mut rest = text;
    while rest.len() > PART + PART / 2 {
        let at = cut_near(rest, PART);
        cuts.push(rest[..at].trim_end());
        rest = rest[at..].trim_start();
    }
    cuts.push(rest);
    cuts.retain(|part| !part.is_empty());
    let many = cuts.len() > 1;
    let named = cuts.into_iter().enumerate().map(move |(i, part)| {
        (
            if many { format!("#{i}") } else { String::new() },
            part.to_string(),
        )
    });
    named.collect::<Vec<_>>().into_iter()
}

/// Where to cut at or before `near` bytes: after a paragraph, else a line, else a sentence, else a word, else anywhere.
fn cut_near(text: &str, near: usize) -> usize {
    let head = &text[..text.floor_char_boundary(near)];
    let marks = ["\n\n", "\n", ". ", " "].into_iter();
    let found = marks.filter_map(|mark| head.rfind(mark).map(|at| at + mark.len()));
    found
        .into_iter()
        .find(|&at| at >= near / 2)
        .unwrap_or(head.len())
}

/// The format of a file by its name, `.gz` put aside, with its name.
fn kind(path: &Path) -> Option<(&'static str, String)> {
    let name = path.file_name()?.to_str()?.to_string();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let ending = plain.rsplit_once('.')?.1.to_lowercase();
    let kind = ["txt", "md", "jsonl", "json", "csv", "parquet"]
        .into_iter()
        .find(|kind| *kind == ending)?;
    Some((kind, name))
}
