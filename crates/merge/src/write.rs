//! A planned merge, written as a Hugging Face folder.
//!
//! Shards are laid out before anything is computed: headers first, then every tensor at its offset, by whichever thread
//! comes to it. A thread holds blocks of its tensor and one buffer of output. The folder is written beside its
//! place and renamed into it when everything is on the disk, so it is there whole or not at all.

use crate::checkpoint::{Checkpoint, json};
use crate::error::Error;
use crate::operand::Operand;
use crate::plan::{Plan, Planned};
use crate::rounding::{Dtype, encode};
use crate::table::Inputs;
use crate::vocabulary::Vocabulary;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Output that is gathered before it is written.
const BUFFER: usize = 1 << 20;

/// Files of a tokenizer.
const TOKENIZER: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Files of a tokenizer that say again which tokens there are.
const TOKENS: &[&str] = &[
    "tokenizer.model",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
];
const TEMPLATE: &str = "chat_template.jinja";

/// ChatML, by its name.
const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// One file of weights.
struct Shard {
    name: String,
    header: Vec<u8>,
    /// Tensors of the plan, by their place in it, and where each begins in the file.
    tensors: Vec<(usize, u64)>,
    length: u64,
}

/// How a merge is written.
pub struct Target<'a> {
    /// The folder to be made.
    pub folder: &'a Path,
    /// Most bytes of weights in a file; a tensor that is larger has one alone.
    pub shard_bytes: u64,
    /// The configuration as it was written, kept beside the model.
    pub source: &'a str,
}

impl Plan {
    /// Writes the merged model; `progress` is told the bytes of weights as they are finished.
    ///
    /// # Errors
    /// The folder is there already, a file cannot be read or written, or a method has no result for a tensor.
    pub fn write(&self, target: &Target, progress: &(dyn Fn(u64) + Sync)) -> Result<(), Error> {
        let folder = target.folder;
        let occupied =
            fs::read_dir(folder).map_or(folder.exists(), |mut entries| entries.next().is_some());
        if occupied {
            return Err(Error::file(
                folder,
                "it is there already",
                "remove it, or name another folder",
            ));
        }
        let parent = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let template = self.template()?;
        fs::create_dir_all(parent).map_err(|e| Error::write(parent, e))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".merging-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let temporary = builder
            .tempdir_in(parent)
            .map_err(|e| Error::write(parent, e))?;
        self.write_texts(temporary.path(), target, template)?;
        self.write_weights(temporary.path(), target.shard_bytes, progress)?;
        // An empty folder may be in the place; a rename takes it over on some systems only.
        let _ = fs::remove_dir(folder);
        sync_folder(temporary.path())?;
        fs::rename(temporary.path(), folder).map_err(|e| Error::write(folder, e))?;
        let _ = temporary.keep();
        sync_folder(parent)
    }

    fn write_weights(
        &self,
        folder: &Path,
        shard_bytes: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Error> {
        let shards = self.shards(shard_bytes);
        let files = shards
            .iter()
            .map(|shard| {
                let path = folder.join(&shard.name);
                let make = || -> std::io::Result<File> {
                    let file = File::create(&path)?;
                    file.set_len(shard.length)?;
                    write_at(&file, &shard.header, 0)?;
                    Ok(file)
                };
                make()
                    .map(|file| (file, path.clone()))
                    .map_err(|e| Error::write(&path, e))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let mut jobs: Vec<(usize, usize, u64)> = shards
            .iter()
            .enumerate()
            .flat_map(|(file, shard)| {
                shard
                    .tensors
                    .iter()
                    .map(move |(tensor, at)| (file, *tensor, *at))
            })
            .collect();
        // Large ones first, so that no thread is left with the last one alone.
        jobs.sort_by_key(|(_, tensor, _)| std::cmp::Reverse(self.tensors[*tensor].bytes()));
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        rayon::broadcast(|_| {
            while !stop.load(Ordering::Relaxed) {
                let Some(&(file, tensor, at)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                else {
                    return;
                };
                let (file, path) = &files[file];
                let planned = &self.tensors[tensor];
                match self.write_tensor(planned, file, path, at) {
                    Ok(()) => progress(planned.bytes()),
                    Err(why) => {
                        stop.store(true, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(why);
                    }
                }
            }
        });
        if let Some(why) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(why);
        }
        for (file, path) in &files {
            file.sync_all().map_err(|e| Error::write(path, e))?;
        }
        if shards.len() > 1 {
            let map = shards.iter().flat_map(|shard| {
                let of = |(tensor, _): &(usize, u64)| {
                    (self.tensors[*tensor].name.clone(), json!(shard.name))
                };
                shard.tensors.iter().map(of)
            });
            let index = json!({
                "metadata": { "total_size": self.bytes() },
                "weight_map": map.collect::<Map<String, Value>>(),
            });
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        Ok(())
    }

    /// Which tensor lies where.
    fn shards(&self, most: u64) -> Vec<Shard> {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new()];
        let mut size = 0;
        for (i, tensor) in self.tensors.iter().enumerate() {
            if size > 0 && size + tensor.bytes() > most {
                groups.push(Vec::new());
                size = 0;
            }
            size += tensor.bytes();
            if let Some(group) = groups.last_mut() {
                group.push(i);
            }
        }
        let count = groups.len();
        let named = |i: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        groups
            .iter()
            .enumerate()
            .map(|(i, group)| self.shard(named(i), group))
            .collect()
    }

    fn shard(&self, name: String, tensors: &[usize]) -> Shard {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0;
        let mut placed = Vec::with_capacity(tensors.len());
        for &i in tensors {
            let tensor = &self.tensors[i];
            let end = offset + tensor.bytes();
            let entry = json!({ "dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [offset, end] });
            header.insert(tensor.name.clone(), entry);
            placed.push((i, offset));
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend(text);
        let begin = header.len() as u64;
        Shard {
            name,
            tensors: placed.into_iter().map(|(i, at)| (i, begin + at)).collect(),
            length: begin + offset,
            header,
        }
    }

    fn write_tensor(
        &self,
        planned: &Planned,
        file: &File,
        path: &Path,
        at: u64,
    ) -> Result<(), Error> {
        let stored = |part: &crate::plan::Part| {
            let model: &Checkpoint = &self.models[part.index];
            let tensor = &model.tensors[&part.tensor];
            (model.bytes(tensor), tensor.dtype)
        };
        let (Some(dtype), Some(out)) = (planned.dtype, planned.out) else {
            let bytes = stored(&planned.parts[0]).0;
            return write_at(file, bytes, at).map_err(|e| Error::write(path, e));
        };
        let operands: Vec<(usize, Operand)> = planned
            .parts
            .iter()
            .map(|part| {
                let (bytes, kind) = stored(part);
                (
                    part.index,
                    Operand::stored(bytes, kind.unwrap_or(Dtype::F32), dtype),
                )
            })
            .collect();
        let rows = match &self.vocabulary {
            Some(vocabulary) if planned.has_tokens() => {
                let width = planned.shape[1..].iter().product();
                Vocabulary::map(vocabulary, &operands, width, dtype)
            }
            _ => Vec::new(),
        };
        let operands = operands
            .iter()
            .enumerate()
            .map(|(i, (_, operand))| match rows.get(i) {
                Some(rows) => operand.with_rows(rows),
                None => *operand,
            });
        let mut base = None;
        let mut models = Vec::with_capacity(planned.parts.len());
        for (operand, part) in operands.zip(&planned.parts) {
            if part.base {
                base = Some(operand);
            } else {
                models.push(operand);
            }
        }
        let inputs = Inputs {
            tensor: &planned.name,
            shape: &planned.shape,
            dtype,
            base,
            models: &models,
        };
        let mut writer = Writer {
            file,
            at,
            dtype: out,
            buffer: Vec::with_capacity(BUFFER),
            failed: None,
        };
        (self.method.run)(&inputs, &planned.parameters, &mut |values| {
            writer.push(values)
        })?;
        writer.flush();
        debug_assert!(writer.failed.is_some() || writer.at == at + planned.bytes());
        writer.failed.map_or(Ok(()), |e| Err(Error::write(path, e)))
    }

    /// Configuration, tokenizer and chat template.
    fn write_texts(
        &self,
        folder: &Path,
        target: &Target,
        template: Option<String>,
    ) -> Result<(), Error> {
        write_json(
            &folder.join("config.json"),
            &Value::Object(self.config.clone()),
        )?;
        let path = folder.join("mergekit_config.yml");
        fs::write(&path, target.source).map_err(|e| Error::write(&path, e))?;
        let donor = &self.models[self.donor].folder;
        copy(donor, folder, &["generation_config.json"])?;
        let from = self.vocabulary.as_ref().map_or(donor, |v| &v.folder);
        copy(from, folder, TOKENIZER)?;
        let settings = folder.join("tokenizer_config.json");
        match self
            .vocabulary
            .as_ref()
            .and_then(|v| Some((v, v.changed.as_ref()?)))
        {
            None => copy(from, folder, TOKENS)?,
            Some((vocabulary, tokenizer)) => {
                write_json(
                    &folder.join("tokenizer.json"),
                    &Value::Object(tokenizer.clone()),
                )?;
                if settings.exists() && !vocabulary.added.is_empty() {
                    let mut map = json(&settings)?;
                    let list = map
                        .entry("added_tokens_decoder")
                        .or_insert_with(|| json!({}));
                    for token in &vocabulary.added {
                        let mut entry = token.clone();
                        let id = entry
                            .as_object_mut()
                            .and_then(|e| e.remove("id"))
                            .unwrap_or_default();
                        list[id.to_string()] = entry;
                    }
                    write_json(&settings, &Value::Object(map))?;
                }
            }
        }
        if let Some(template) = template {
            let path = folder.join(TEMPLATE);
            fs::write(&path, &template).map_err(|e| Error::write(&path, e))?;
            let mut map = if settings.exists() {
                json(&settings)?
            } else {
                Map::new()
            };
            map.insert("chat_template".to_owned(), json!(template));
            write_json(&settings, &Value::Object(map))?;
        }
        Ok(())
    }

    /// The chat template that the configuration asks for; `None` where the tokenizer's is kept.
    fn template(&self) -> Result<Option<String>, Error> {
        match self.chat_template.as_deref() {
            None => Ok(None),
            Some("chatml") => Ok(Some(CHATML.to_owned())),
            Some("auto") => {
                let mut votes: Vec<(String, usize)> = Vec::new();
                for found in self.models.iter().filter_map(|m| template_of(&m.folder)) {
                    match votes.iter_mut().find(|(text, _)| *text == found) {
                        Some((_, count)) => *count += 1,
                        None => votes.push((found, 1)),
                    }
                }
                let most = votes.iter().map(|(_, count)| *count).max();
                let first = votes.into_iter().find(|(_, count)| Some(*count) == most);
                Ok(first.map(|(text, _)| text))
            }
            Some(text) if text.contains('{') => Ok(Some(text.to_owned())),
            Some(other) => Err(Error::Value {
                key: "chat_template".to_owned(),
                found: format!("`{other}`"),
                allowed:
                    "auto (the one that most models have), chatml, or the template's text itself"
                        .to_owned(),
            }),
        }
    }
}

/// A model's chat template.
fn template_of(folder: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(folder.join(TEMPLATE)) {
        return Some(text.trim().to_owned());
    }
    let settings = json(&folder.join("tokenizer_config.json")).ok()?;
    match settings.get("chat_template")? {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Array(named) => {
            let default = named
                .iter()
                .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))?;
            Some(default.get("template")?.as_str()?.trim().to_owned())
        }
        _ => None,
    }
}

/// Encodes values and writes them front to back.
struct Writer<'a> {
    file: &'a File,
    at: u64,
    dtype: Dtype,
    buffer: Vec<u8>,
    failed: Option<std::io::Error>,
}

impl Writer<'_> {
    fn push(&mut self, values: &[f32]) {
        let bytes = values.len() * self.dtype.size();
        if self.buffer.len() + bytes > BUFFER {
            self.flush();
        }
        let start = self.buffer.len();
        self.buffer.resize(start + bytes, 0);
        encode(self.dtype, values, &mut self.buffer[start..]);
    }

    fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = write_at(self.file, &self.buffer, self.at).err();
        }
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), Error> {
    fs::write(path, format!("{value:#}\n")).map_err(|e| Error::write(path, e))
}

/// Copies those of the files that are there.
fn copy(from: &Path, to: &Path, names: &[&str]) -> Result<(), Error> {
    for name in names {
        let (source, target): (PathBuf, PathBuf) = (from.join(name), to.join(name));
        if source.exists() {
            let bytes = fs::read(&source).map_err(|e| Error::read(&source, e))?;
            fs::write(&target, bytes).map_err(|e| Error::write(&target, e))?;
        }
    }
    Ok(())
}

/// Makes what was written in a folder outlast a power cut, where the system lets folders be synced.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(|e| Error::write(folder, e))?;
    }
    Ok(())
}
