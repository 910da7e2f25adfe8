//! What a repository holds at a revision: the hub's `api/datasets/NAME/revision/REVISION?blobs=true`.
//!
//! The answer names the commit and every file with its size and its hash: the sha256 of large files, which are kept apart
//! from the repository, and git's own blob id (a sha1) of small ones. Names become paths on this disk, so whatever could
//! lead out of the snapshot's folder is refused.

use serde_json::Value;

use super::cache::is_commit;
use super::transfer::Client;
use super::{Fault, shown};
use crate::adapters::data_files;
use crate::catalogue::Hub;
use crate::error::Error;

/// The hash of a file, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// Of the bytes.
    Sha256(String),
    /// git's: sha1 of `blob SIZE\0` and the bytes.
    Git(String),
}

impl Digest {
    /// The name of the file's blob in the cache.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its path in the repository.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: u64,
    /// Its hash.
    pub(super) digest: Digest,
}

/// A repository at a commit.
pub(super) struct Listing {
    /// The commit.
    pub(super) commit: String,
    /// Name and description of each file.
    files: Vec<(String, Value)>,
}

/// Asks one endpoint for the listing.
pub(super) fn ask(
    client: &Client,
    endpoint: &str,
    main: bool,
    hub: &Hub,
) -> Result<Listing, Fault> {
    let revision = escaped(hub.revision, false);
    let url = format!(
        "{endpoint}/api/datasets/{}/revision/{revision}?blobs=true",
        escaped(hub.repository, true)
    );
    let text = client.text(&url, main)?;
    let wrong = |problem: &str| Fault::wrong(format!("{} answered {problem}", shown(&url)));
    let value: Value =
        serde_json::from_str(&text).map_err(|e| wrong(&format!("what is not JSON ({e})")))?;
    let commit = value.get("sha").and_then(Value::as_str).unwrap_or_default();
    if !is_commit(commit) {
        return Err(wrong("without a commit in `sha`"));
    }
    if is_commit(hub.revision) && commit != hub.revision {
        return Err(wrong(&format!(
            "with commit {commit} where {} was asked for",
            hub.revision
        )));
    }
    let files = value
        .get("siblings")
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("without a list `siblings`"))?;
    let named = |file: &Value| Some((file.get("rfilename")?.as_str()?.to_string(), file.clone()));
    Ok(Listing {
        commit: commit.to_string(),
        files: files.iter().filter_map(named).collect(),
    })
}

impl Listing {
    /// The data files of `hub`, with size and hash.
    pub(super) fn data_files(&self, hub: &Hub) -> Result<Vec<Remote>, Error> {
        let fault = |problem: String| {
            Error::Hub {
            repository: format!("{} at {}", hub.repository, self.commit),
            problem,
            remedy: "it may have changed since this program was written: fetch it with another tool and put its files \
                     under data.root"
                .into(),
        }
        };
        let names = self.files.iter().map(|(name, _)| name.as_str());
        let chosen = data_files(hub, names);
        if chosen.is_empty() {
            let place = match hub.under {
                "" => "in it".to_string(),
                under => format!("under {under}"),
            };
            let files = self.files.len();
            return Err(fault(format!(
                "none of its {files} files is data {place} (.parquet, .jsonl, .json or .csv named for a split)"
            )));
        }
        let mut remotes = Vec::new();
        for name in chosen {
            if !is_safe(name) {
                return Err(fault(format!(
                    "file name `{name}` would leave the cache's folder"
                )));
            }
            let described = self.files.iter().find(|(known, _)| known == name);
            let remote = described.and_then(|(_, value)| remote(name, value));
            remotes.push(
                remote.ok_or_else(|| {
                    fault(format!("the listing gives no size and hash of `{name}`"))
                })?,
            );
        }
        Ok(remotes)
    }
}

fn remote(name: &str, value: &Value) -> Option<Remote> {
    let hex = |value: Option<&Value>, digits: usize| {
        let text = value?.as_str()?;
        let known = text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        known.then(|| text.to_lowercase())
    };
    let (size, digest) = match value.get("lfs").filter(|lfs| lfs.is_object()) {
        Some(lfs) => (
            lfs.get("size")?.as_u64()?,
            Digest::Sha256(hex(lfs.get("sha256"), 64)?),
        ),
        None => (
            value.get("size")?.as_u64()?,
            Digest::Git(hex(value.get("blobId"), 40)?),
        ),
    };
    Some(Remote {
        name: name.to_string(),
        size,
        digest,
    })
}

/// Whether a name from the hub stays below the folder it is joined to, on any system.
fn is_safe(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    !name.contains(['\\', ':', '\0']) && name.split('/').all(plain)
}

/// Where an endpoint serves a file.
pub(super) fn file_address(endpoint: &str, repository: &str, commit: &str, name: &str) -> String {
    format!(
        "{endpoint}/datasets/{}/resolve/{commit}/{}",
        escaped(repository, true),
        escaped(name, true)
    )
}

/// Percent-encodes what may not stand in a path; slashes stay where they part folders.
fn escaped(text: &str, slashes: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slashes && b == b'/');
    let one = |b: u8| match keep(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    text.bytes().map(one).collect()
}
