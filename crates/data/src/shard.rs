//! Token shards: one data set and split as a `.bin` of tokens and a `.json` that describes it.
//!
//! `NAME.bin` holds little-endian `u16` tokens, or `u32` where the vocabulary is larger than 65,536; documents follow
//! one another, each ending in the end-of-document token. `NAME.json` is the [`Manifest`]. Both are written beside
//! themselves and renamed, the manifest last, so a shard that has its manifest is whole. Reading maps the `.bin` into
//! memory and checks sizes and the manifest's own checksum; [`Shard::verify`] also reads and hashes every token.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::duplicates::LeftOut;
use crate::error::Error;
use crate::record::{Family, Split};

/// The format that this crate writes and reads.
const VERSION: u32 = 1;

/// What a shard's `.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub version: u32,
    /// Data set of every document.
    pub dataset: String,
    /// Family of every document.
    pub family: Family,
    /// Split of every document.
    pub split: Split,
    /// Number of documents.
    pub documents: usize,
    /// Number of tokens, ends of documents included.
    pub tokens: u64,
    /// Bytes a token, 2 or 4.
    pub width: usize,
    /// Hash of the tokenizer, [`crate::Tokenizer::hash`].
    pub tokenizer: String,
    /// Blake3 of the documents' ids and texts, in hex.
    pub source: String,
    /// Blake3 of the `.bin`, in hex.
    pub blake3: String,
    /// Where each document begins, in tokens, and at last the end: `documents` + 1 numbers.
    pub offsets: Vec<u64>,
    /// The documents of which only some tokens carry loss: their index and the ranges of tokens, counted in the
    /// document, that do.
    pub loss: Vec<(usize, Vec<Range<u32>>)>,
    /// What was found and not kept.
    #[serde(default, skip_serializing_if = "LeftOut::is_unknown")]
    pub left_out: LeftOut,
    /// Blake3 of this manifest with an empty checksum, in hex.
    pub checksum: String,
}

impl Manifest {
    fn sum(&self) -> String {
        let bare = Manifest {
            checksum: String::new(),
            ..self.clone()
        };
        let text = serde_json::to_vec(&bare).expect("a manifest has only plain fields");
        blake3::hash(&text).to_hex().to_string()
    }
}

/// Where the tokens of a shard lie.
enum Tokens {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
    Empty,
}

/// A packed data set, open for reading.
pub struct Shard {
    manifest: Manifest,
    path: PathBuf,
    tokens: Tokens,
}

/// Takes documents of tokens one after the other and ends as a [`Shard`].
pub struct ShardWriter {
    manifest: Manifest,
    source: blake3::Hasher,
    hash: blake3::Hasher,
    out: Out,
}

enum Out {
    Memory(Vec<u8>),
    Disk {
        file: BufWriter<File>,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl ShardWriter {
    /// Begins `DIR/NAME.bin` under a temporary name. `vocab` decides the width of a token.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn create(
        dir: &Path,
        name: &str,
        (dataset, family, split): (&str, Family, Split),
        tokenizer_hash: &str,
        vocab: usize,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let path = dir.join(format!("{name}.bin"));
        let temporary = dir.join(format!("{name}.bin.partial"));
        let file = BufWriter::new(File::create(&temporary).map_err(|e| Error::io(&temporary, e))?);
        let mut writer = Self::in_memory((dataset, family, split), tokenizer_hash, vocab);
        writer.out = Out::Disk {
            file,
            temporary,
            path,
        };
        Ok(writer)
    }

    /// Begins a shard that never touches the disk, for texts that are made rather than read.
    pub fn in_memory(
        (dataset, family, split): (&str, Family, Split),
        tokenizer_hash: &str,
        vocab: usize,
    ) -> Self {
        let manifest = Manifest {
            version: VERSION,
            dataset: dataset.to_string(),
            family,
            split,
            documents: 0,
            tokens: 0,
            width: if vocab > 1 << 16 { 4 } else { 2 },
            tokenizer: tokenizer_hash.to_string(),
            source: String::new(),
            blake3: String::new(),
            offsets: vec![0],
            loss: Vec::new(),
            left_out: LeftOut::default(),
            checksum: String::new(),
        };
        let (source, hash) = (blake3::Hasher::new(), blake3::Hasher::new());
        Self {
            manifest,
            source,
            hash,
            out: Out::Memory(Vec::new()),
        }
    }

    /// Adds one document: its tokens, the end of document included, and the ranges of them that carry loss
    /// (empty = all). `source` is what the tokens were made from.
    ///
    /// # Errors
    /// The disk refuses; the partial file is left for the next try to overwrite.
    #[track_caller]
    pub fn push(
        &mut self,
        tokens: &[u32],
        loss: &[Range<u32>],
        source: &[&str],
    ) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(tokens.len() * self.manifest.width);
        for &token in tokens {
            match self.manifest.width {
                2 => bytes.extend(
                    u16::try_from(token)
                        .expect("a token below the vocabulary's size fits")
                        .to_le_bytes(),
                ),
                _ => bytes.extend(token.to_le_bytes()),
            }
        }
        match &mut self.out {
            Out::Memory(all) => all.extend_from_slice(&bytes),
            Out::Disk {
                file, temporary, ..
            } => file
                .write_all(&bytes)
                .map_err(|e| Error::io(temporary, e))?,
        }
        self.hash.update(&bytes);
        for part in source {
            self.source.update(&(part.len() as u64).to_le_bytes());
            self.source.update(part.as_bytes());
        }
        if !loss.is_empty() {
            self.manifest
                .loss
                .push((self.manifest.documents, loss.to_vec()));
        }
        self.manifest.documents += 1;
        self.manifest.tokens += tokens.len() as u64;
        self.manifest.offsets.push(self.manifest.tokens);
        Ok(())
    }

    /// Notes in the manifest what was found and not kept.
    pub fn left_out(&mut self, left_out: LeftOut) {
        self.manifest.left_out = left_out;
    }

    /// Ends the shard: on disk, syncs and renames the tokens, then the manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn finish(mut self) -> Result<Shard, Error> {
        self.manifest.source = self.source.finalize().to_hex().to_string();
        self.manifest.blake3 = self.hash.finalize().to_hex().to_string();
        self.manifest.checksum = self.manifest.sum();
        match self.out {
            Out::Memory(all) => Ok(Shard {
                manifest: self.manifest,
                path: PathBuf::from("(in memory)"),
                tokens: Tokens::Held(all),
            }),
            Out::Disk {
                file,
                temporary,
                path,
            } => {
                let file = file
                    .into_inner()
                    .map_err(|e| Error::io(&temporary, e.into_error()))?;
                file.sync_all().map_err(|e| Error::io(&temporary, e))?;
                let json = path.with_extension("json");
                // An older manifest must not describe the new tokens, not even for a moment.
                if json.exists() {
                    std::fs::remove_file(&json).map_err(|e| Error::io(&json, e))?;
                }
                std::fs::rename(&temporary, &path).map_err(|e| Error::io(&path, e))?;
                let text =
                    serde_json::to_vec(&self.manifest).expect("a manifest has only plain fields");
                let partial = path.with_extension("json.partial");
                let written = File::create(&partial).and_then(|mut out| {
                    out.write_all(&text)?;
                    out.sync_all()
                });
                written.map_err(|e| Error::io(&partial, e))?;
                std::fs::rename(&partial, &json).map_err(|e| Error::io(&json, e))?;
                Shard::open(&path)
            }
        }
    }
}

impl Shard {
    /// Opens `NAME.bin` (or `NAME.json`) with its manifest, checking everything but the hash of the tokens.
    ///
    /// # Errors
    /// A missing, truncated or changed file, by name.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (path, json) = (path.with_extension("bin"), path.with_extension("json"));
        let again = "pack the data set again";
        let text = std::fs::read(&json).map_err(|e| Error::io(&json, e))?;
        let bad = |problem: String| Error::content(&json, None, format!("{problem}; {again}"));
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| bad(format!("not the manifest of a shard ({e})")))?;
        if manifest.version != VERSION {
            return Err(bad(format!(
                "shard version {}, this program reads {VERSION}",
                manifest.version
            )));
        }
        if manifest.checksum != manifest.sum() {
            return Err(bad(
                "the manifest does not match its checksum, it was changed or damaged".into(),
            ));
        }
        let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        let found = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        let needed = manifest.tokens * manifest.width as u64;
        if found != needed {
            let problem = format!(
                "{found} bytes where its manifest says {needed}; the file was cut off, {again}"
            );
            return Err(Error::content(&path, None, problem));
        }
        let tokens = match needed {
            0 => Tokens::Empty,
            // SAFETY: the map is read-only and private to this shard. A file that another process shortens while it is
            // mapped would fault; shards are only ever replaced by rename, which leaves the mapped file alone.
            _ => Tokens::Mapped(
                unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(&path, e))?,
            ),
        };
        Ok(Self {
            manifest,
            path,
            tokens,
        })
    }

    /// Reads every token and compares their hash with the manifest's.
    ///
    /// # Errors
    /// They differ: a byte was changed.
    pub fn verify(&self) -> Result<(), Error> {
        let found = blake3::hash(self.bytes()).to_hex().to_string();
        if found != self.manifest.blake3 {
            let problem = format!(
                "blake3 {found} where its manifest says {}; the file is damaged, pack the data set again",
                self.manifest.blake3
            );
            return Err(Error::content(&self.path, None, problem));
        }
        Ok(())
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Data set of every document.
    pub fn dataset(&self) -> &str {
        &self.manifest.dataset
    }

    /// Family of every document.
    pub fn family(&self) -> Family {
        self.manifest.family
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.manifest.documents
    }

    /// Number of tokens, ends of documents included.
    pub fn tokens_total(&self) -> u64 {
        self.manifest.tokens
    }

    /// Number of tokens of one document.
    #[track_caller]
    pub fn length(&self, document: usize) -> usize {
        let offsets = &self.manifest.offsets;
        assert!(
            document < self.documents(),
            "document {document} of a shard with {}",
            self.documents()
        );
        (offsets[document + 1] - offsets[document]) as usize
    }

    /// The tokens of one document, its end included.
    #[track_caller]
    pub fn tokens(&self, document: usize) -> Vec<u32> {
        self.tokens_in(document, 0..self.length(document))
    }

    /// Some of the tokens of one document.
    #[track_caller]
    pub fn tokens_in(&self, document: usize, range: Range<usize>) -> Vec<u32> {
        let length = self.length(document);
        assert!(
            range.start <= range.end && range.end <= length,
            "tokens {range:?} of a document of {length}"
        );
        let (begin, width) = (
            self.manifest.offsets[document] as usize,
            self.manifest.width,
        );
        let bytes = &self.bytes()[(begin + range.start) * width..(begin + range.end) * width];
        match width {
            2 => bytes
                .chunks_exact(2)
                .map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))
                .collect(),
            _ => bytes
                .chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        }
    }

    /// Which tokens of one document carry loss.
    #[track_caller]
    pub fn mask(&self, document: usize) -> Vec<bool> {
        self.mask_in(document, 0..self.length(document))
    }

    /// Which of some tokens of one document carry loss.
    #[track_caller]
    pub fn mask_in(&self, document: usize, range: Range<usize>) -> Vec<bool> {
        let length = self.length(document);
        assert!(
            range.start <= range.end && range.end <= length,
            "tokens {range:?} of a document of {length}"
        );
        match self
            .manifest
            .loss
            .binary_search_by_key(&document, |(d, _)| *d)
        {
            Err(_) => vec![true; range.len()],
            Ok(at) => {
                let ranges = &self.manifest.loss[at].1;
                range
                    .map(|i| ranges.iter().any(|r| r.contains(&(i as u32))))
                    .collect()
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.tokens {
            Tokens::Mapped(map) => map,
            Tokens::Held(bytes) => bytes,
            Tokens::Empty => &[],
        }
    }
}
