//! The data of a run, frozen at its start: tokenizer, training shards, evaluation items and held-out texts
//! lie in the run's own folder, so that a resumed run sees the same data whatever became of the originals.

use crate::Error;
use crate::recipe::DataRecipe;
use data::{
    Document, Duplicates, Evaluation, Family, Item, LeftOut, Shard, ShardWriter, Split, Tokenizer,
    Worked, builtin,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Data of a run.
pub struct Source {
    /// Byte-level BPE.
    pub tokenizer: Tokenizer,
    /// Training shards, one a data set.
    pub shards: Vec<Arc<Shard>>,
    /// Evaluation items of all three splits.
    pub items: Vec<Item>,
    /// Held-out texts; [`Document::evaluation_split`] deals them.
    pub texts: Vec<Document>,
    /// Training questions with worked solutions.
    pub worked: Vec<Worked>,
    /// What was read, for the report.
    pub summary: Vec<Used>,
}

/// One data set as used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Used {
    /// Id of the data set.
    pub dataset: String,
    /// Its family.
    pub family: Family,
    /// Training documents kept.
    pub documents: usize,
    /// Training tokens.
    pub tokens: u64,
    /// Bytes of the training text; unknown for runs of older versions.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Evaluation items kept.
    pub items: usize,
    /// Training documents found and not kept.
    #[serde(default)]
    pub left_out: LeftOut,
    /// Whether it was not there, and the run goes on without it because it is optional.
    #[serde(default)]
    pub absent: bool,
    /// What a person should know.
    pub note: String,
}

/// Everything but the shards and the tokenizer, as one file.
#[derive(Serialize, Deserialize)]
struct Frozen {
    items: Vec<Item>,
    texts: Vec<Document>,
    worked: Vec<Worked>,
    summary: Vec<Used>,
}

/// Documents of a sample that are compared with earlier ones at a time.
const SKETCHED: usize = 512;

impl Source {
    /// Reads, samples, tokenizes and packs the data of a recipe into `dir` (`RUN/data`), or opens what an
    /// earlier start left there. `tell` gets a line for each step.
    pub fn prepare(
        dir: &Path,
        recipe: &DataRecipe,
        vocab: usize,
        tell: &dyn Fn(&str),
    ) -> Result<Self, Error> {
        if !dir.join("frozen.json").is_file() {
            Self::build(dir, recipe, vocab, tell)?;
        }
        Self::open(dir)
    }

    fn build(
        dir: &Path,
        recipe: &DataRecipe,
        vocab: usize,
        tell: &dyn Fn(&str),
    ) -> Result<(), Error> {
        let failed = |e: std::io::Error| Error::File {
            path: dir.into(),
            fault: format!("cannot be made: {e}; free some space or choose another --root"),
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut frozen = Frozen {
            items: Vec::new(),
            texts: Vec::new(),
            worked: Vec::new(),
            summary: Vec::new(),
        };
        let mut sets: Vec<(String, Vec<Document>)> = Vec::new();
        let mut duplicates = (recipe.dedup > 0.0).then(|| Duplicates::new(recipe.dedup));
        let mut evaluation = Evaluation::default();
        let ids = data::expand(&recipe.sets.iter().map(String::as_str).collect::<Vec<_>>());
        data::check_present(&ids, &recipe.places())?;
        for id in ids {
            tell(&format!("reading {id}"));
            let mut absent = false;
            let loaded = match Family::ALL.into_iter().find(|f| builtin::dataset(*f) == id) {
                Some(family) => data::Loaded {
                    train: builtin::documents(family, recipe.seed, recipe.builtin_documents),
                    items: builtin::items(family, recipe.seed, recipe.items_per_set * 3),
                    texts: builtin::texts(recipe.seed, recipe.texts_per_set * 15)
                        .into_iter()
                        .filter(|t| t.family == family)
                        .collect(),
                    ..Default::default()
                },
                None => match data::load(&id, &recipe.places()) {
                    Err(fault @ data::Error::Missing { .. }) if is_optional(&id) => {
                        absent = true;
                        tell(&format!(
                            "going on without {id}, which is optional: {fault}"
                        ));
                        data::Loaded {
                            note: "not there, and optional".into(),
                            ..Default::default()
                        }
                    }
                    loaded => loaded?,
                },
            };
            if loaded.train.is_empty() {
                tell(&format!("no training text in {id}: {}", loaded.remark()));
            }
            evaluation.add(&id, &loaded.items, &loaded.texts);
            let duplicates = duplicates.as_mut().filter(|_| !is_built_in(&id));
            Self::take((id, loaded), recipe, duplicates, &mut frozen, &mut sets);
            if let Some(used) = frozen.summary.last_mut() {
                used.absent = absent;
            }
        }
        if let Some(folder) = &recipe.folder {
            tell(&format!("reading {}", folder.display()));
            let loaded = data::load_folder(folder)?;
            let id = loaded
                .train
                .first()
                .map_or("folder", |d| &d.dataset)
                .to_string();
            evaluation.add(&id, &loaded.items, &loaded.texts);
            let duplicates = duplicates.as_mut();
            Self::take((id, loaded), recipe, duplicates, &mut frozen, &mut sets);
        }
        if recipe.decontaminate {
            tell("comparing training text with the evaluation");
            decontaminate(evaluation, &mut sets, &mut frozen);
        }
        for used in &frozen.summary {
            let left_out = used.left_out.describe();
            if !left_out.is_empty() {
                tell(&format!("left out of {}: {left_out}", used.dataset));
            }
        }
        let sets: Vec<_> = sets.into_iter().filter(|(_, d)| !d.is_empty()).collect();
        if sets.is_empty() {
            return Err(Error::Recipe {
                key: "data.sets".into(),
                found: "no training text at all".into(),
                allowed: "name at least one data set that has some; `forge data check` shows them"
                    .into(),
            });
        }
        tell("training the tokenizer");
        // Every data set gives the same share of the sample, so that none is spelled out byte by byte.
        let share = recipe.tokenizer_bytes / sets.len();
        let sample = sets.iter().flat_map(|(_, docs)| {
            let mut left = share as i64;
            docs.iter().map(|d| &*d.text).take_while(move |t| {
                left -= t.len() as i64;
                left > 0
            })
        });
        let tokenizer = Tokenizer::train(sample, vocab)?;
        for (id, docs) in &sets {
            tell(&format!("packing {id}"));
            let Some(used) = frozen.summary.iter_mut().find(|u| u.dataset == *id) else {
                continue;
            };
            let kind = (id.as_str(), used.family, Split::Train);
            let (hash, vocab) = (tokenizer.hash(), tokenizer.vocab_size());
            let mut writer = ShardWriter::create(dir, id, kind, &hash, vocab)?;
            writer.add(docs, &tokenizer)?;
            writer.left_out(used.left_out);
            used.bytes = Some(docs.iter().map(|d| d.text.len() as u64).sum());
            used.tokens = writer.finish()?.tokens_total();
        }
        store::write_file(
            &dir.join("tokenizer.json"),
            "the tokenizer",
            &tokenizer.to_bytes(),
        )?;
        // Written last: its presence says that all is there.
        store::write_file(
            &dir.join("frozen.json"),
            "the evaluation data",
            &serde_json::to_vec(&frozen).expect("plain data"),
        )?;
        Ok(())
    }

    /// Takes a share of a data set into the run, without what repeats an earlier document.
    fn take(
        (id, loaded): (String, data::Loaded),
        recipe: &DataRecipe,
        duplicates: Option<&mut Duplicates>,
        frozen: &mut Frozen,
        sets: &mut Vec<(String, Vec<Document>)>,
    ) {
        let family = loaded
            .train
            .first()
            .map(|d| d.family)
            .or(loaded.items.first().map(|i| i.family))
            .unwrap_or(Family::Language);
        let note = loaded.remark();
        let (keep, left_out) = sample(&id, &loaded.train, recipe, duplicates);
        let mut train: Vec<Option<Document>> = loaded.train.into_iter().map(Some).collect();
        let train: Vec<Document> = keep
            .into_iter()
            .filter_map(|i| train[i as usize].take())
            .collect();
        let mut items = Vec::new();
        let mut texts = Vec::new();
        for split in [Split::Fitness, Split::Selection, Split::HeldOut] {
            items.extend(
                loaded
                    .items
                    .iter()
                    .filter(|i| i.split == split && !i.answer.needs_sandbox())
                    .take(recipe.items_per_set)
                    .cloned(),
            );
            texts.extend(
                loaded
                    .texts
                    .iter()
                    .filter(|t| t.evaluation_split() == split)
                    .take(recipe.texts_per_set)
                    .map(|t| beginning(t, recipe.text_bytes)),
            );
        }
        frozen.summary.push(Used {
            dataset: id.clone(),
            family,
            documents: train.len(),
            tokens: 0,
            bytes: None,
            items: items.len(),
            left_out,
            absent: false,
            note,
        });
        frozen.items.extend(items);
        frozen.texts.extend(texts);
        frozen
            .worked
            .extend(loaded.worked.into_iter().take(recipe.worked_per_set));
        sets.push((id, train));
    }

    /// Opens what [`Source::prepare`] left in `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let frozen: Frozen = read_json(&dir.join("frozen.json"))?;
        let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"))?;
        let mut shards = Vec::new();
        for used in frozen.summary.iter().filter(|u| u.documents > 0) {
            let shard = Shard::open(&dir.join(format!("{}.bin", used.dataset)))?;
            shard.verify()?;
            shards.push(Arc::new(shard));
        }
        Ok(Self {
            tokenizer,
            shards,
            items: frozen.items,
            texts: frozen.texts,
            worked: frozen.worked,
            summary: frozen.summary,
        })
    }

    /// Evaluation items of a split.
    pub fn items_of(&self, split: Split) -> Vec<&Item> {
        self.items.iter().filter(|i| i.split == split).collect()
    }

    /// Held-out texts of a split, of one family or of all.
    pub fn texts_of(&self, split: Split, family: Option<Family>) -> Vec<&Document> {
        self.texts
            .iter()
            .filter(|t| t.evaluation_split() == split && family.is_none_or(|f| t.family == f))
            .collect()
    }

    /// The families that have held-out text.
    pub fn families(&self) -> Vec<Family> {
        Family::ALL
            .into_iter()
            .filter(|f| self.texts.iter().any(|t| t.family == *f))
            .collect()
    }

    /// Data sets with family and tokens, as the mixes want them.
    pub fn available(&self) -> Vec<(&str, Family, u64)> {
        self.shards
            .iter()
            .map(|s| (s.dataset(), s.family(), s.tokens_total()))
            .collect()
    }
}

/// A text's beginning, of `most` bytes at most.
fn beginning(text: &Document, most: usize) -> Document {
    let end = text.text.floor_char_boundary(most);
    Document {
        text: text.text[..end].to_owned(),
        ..text.clone()
    }
}

/// The share of a data set that a run takes, as ascending indices: the first documents of a counted permutation until
/// the limit of bytes, without those that repeat one taken before.
fn sample(
    id: &str,
    train: &[Document],
    recipe: &DataRecipe,
    mut duplicates: Option<&mut Duplicates>,
) -> (Vec<u32>, LeftOut) {
    let order = tensor::random::Counted::new(recipe.seed, &format!("sample/{id}"), 0)
        .permutation(train.len());
    let mut left_out = match duplicates {
        Some(_) => LeftOut::no_repeats(),
        None => LeftOut::default(),
    };
    let (mut bytes, mut keep) = (0, Vec::new());
    'sample: for some in order.chunks(SKETCHED) {
        let texts: Vec<&str> = some.iter().map(|&i| &*train[i as usize].text).collect();
        let mut sketches = match duplicates {
            Some(_) => data::sketches(&texts).into_iter(),
            None => Vec::new().into_iter(),
        };
        for (&i, text) in some.iter().zip(texts) {
            if bytes + text.len() > recipe.bytes_per_set {
                break 'sample;
            }
            let known = duplicates.as_mut().zip(sketches.next());
            match known.and_then(|(duplicates, sketch)| duplicates.take(sketch)) {
                Some(repeat) => left_out.count(repeat),
                None => {
                    bytes += text.len();
                    keep.push(i);
                }
            }
        }
    }
    keep.sort_unstable();
    (keep, left_out)
}

/// Takes out the training documents and worked solutions that hold what is evaluated on, but for built-in ones.
fn decontaminate(
    evaluation: Evaluation,
    sets: &mut [(String, Vec<Document>)],
    frozen: &mut Frozen,
) {
    let mut screen = evaluation.close();
    for (id, documents) in &*sets {
        screen.read(id, documents);
    }
    let overlap = screen.overlap();
    for ((id, documents), out) in sets.iter_mut().zip(overlap.documents) {
        if is_built_in(id) {
            continue;
        }
        let mut out_next = out.iter().copied().peekable();
        let mut at = 0..;
        documents.retain(|_| out_next.next_if_eq(&at.next().unwrap_or(0)).is_none());
        if let Some(used) = frozen.summary.iter_mut().find(|u| u.dataset == *id) {
            used.documents = documents.len();
            used.left_out.contaminated = Some(out.len());
        }
    }
    let clean = |worked: &Worked| !screen.is_contaminated(&worked.question);
    frozen.worked.retain(clean);
}

/// Whether a data set is made here.
fn is_built_in(id: &str) -> bool {
    data::dataset(id).is_some_and(data::Dataset::is_built_in)
}

/// Whether a recipe that names a data set goes on without it.
fn is_optional(id: &str) -> bool {
    data::dataset(id).is_some_and(|row| row.optional)
}

fn read_json<T: DeserializeOwned>(path: &PathBuf) -> Result<T, Error> {
    let fault = |fault: String| Error::File {
        path: path.clone(),
        fault: format!("{fault}; the run's data are damaged, start a new run"),
    };
    let bytes = std::fs::read(path).map_err(|e| fault(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))
}
