//! Getting data sets from the Hugging Face hub into its cache, once, so that everything else reads files on disk.
//!
//! One request lists a repository at a revision, with the size and hash of each file; then each data file that is not in
//! the cache yet is fetched by [`transfer`] (range resume, stalls noticed, size and hash checked) under [`retry`]
//! (exponential backoff with jitter, mirrors in turn) and lands in [`cache`] by a rename. The layout is that of PyPI's
//! `huggingface-hub`: what either fetched, the other finds.
//!
//! The `hf-hub` crate (1.0) is not used: it begins a file anew where it broke off, checks neither size nor hash of what it
//! fetched, knows no mirrors, and brings an asynchronous runtime and the chunked transfer (Xet) with it. Xet is left out
//! here, for the hub serves every file by plain HTTP as well. The clock, the free space of the disk and the environment
//! come from the caller.

pub mod cache;
mod listing;
mod retry;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalogue::{Hub, dataset, unknown};
use crate::error::Error;

use listing::Remote;
use retry::{Fault, persist};
use transfer::Client;

/// The hub itself.
pub const ENDPOINT: &str = "https://huggingface.co";

/// Bytes that are to stay free on the disk.
const RESERVE: u64 = 256 << 20;

/// An address as it may be printed: without the user and the password that may stand before its host.
pub fn shown(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        None => address.to_string(),
        Some(at) if scheme.is_empty() => rest[at + 1..].to_string(),
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
    }
}

/// Where and how to fetch. Not to be printed, for the token is in it.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Addresses of the hub, `https://HOST`: the first is asked first and is the only one that sees the token, the others
    /// are mirrors.
    pub endpoints: Vec<String>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Access token, for repositories that ask for one. Never written anywhere.
    pub token: Option<String>,
    /// Proxy, `http://HOST:PORT`.
    pub proxy: Option<String>,
    /// Whether the network is off limits: then only what the cache holds is there.
    pub offline: bool,
    /// Failures in a row, at each endpoint, after which a request is given up.
    pub tries: u32,
    /// The first pause between rounds of tries; each further one is twice as long, up to `longest_pause`.
    pub pause: Duration,
    /// The longest pause, also where a server asks for more.
    pub longest_pause: Duration,
    /// How long a connection may bring nothing before it counts as lost.
    pub stall: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for Settings {
    /// The hub alone, five tries, 1 s to 60 s apart, a minute of silence; the cache is to be set.
    fn default() -> Self {
        Self {
            endpoints: vec![ENDPOINT.to_string()],
            cache: PathBuf::new(),
            token: None,
            proxy: None,
            offline: false,
            tries: 5,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            seed: 0,
        }
    }
}

/// What this crate may not look at or do by itself.
pub struct World<'a> {
    /// Waits.
    pub sleep: &'a dyn Fn(Duration),
    /// Bytes free on the disk of a path.
    pub free: &'a dyn Fn(&Path) -> u64,
    /// Hears what happens.
    pub tell: &'a dyn Fn(Event<'_>),
}

/// What happens while something is fetched.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A file begins, of which `have` bytes are there from an earlier try.
    Begin {
        /// Its name in the repository.
        file: &'a str,
        /// Bytes on disk.
        have: u64,
        /// Bytes in all.
        size: u64,
    },
    /// So many of its bytes are on disk.
    Progress {
        /// Bytes on disk.
        have: u64,
        /// Bytes in all.
        size: u64,
    },
    /// Another process holds the file; this one waits for it.
    Waiting {
        /// Its name in the repository.
        file: &'a str,
    },
    /// Something failed and is tried again.
    Retry {
        /// What failed.
        problem: &'a str,
        /// How long it waits first.
        pause: Duration,
    },
    /// A file is in the cache, whole and checked.
    Landed {
        /// Its name in the repository.
        file: &'a str,
    },
}

/// What a repository has, or brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The repository.
    pub repository: String,
    /// The commit that its revision names.
    pub commit: String,
    /// Folder of the snapshot in the cache.
    pub folder: PathBuf,
    /// Names of the data files.
    pub files: Vec<String>,
    /// Their size together, in bytes.
    pub bytes: u64,
    /// How much of it was fetched now, in bytes (or would be, when only asked for).
    pub missing: u64,
}

/// Fetches every repository of a data set that the hub has; files that are in the cache already are left as they are.
///
/// # Errors
/// No such data set, the hub has none of it, the network is off limits and the cache lacks it, the disk is full, or the
/// hub and all mirrors failed so often that this was given up. What was fetched until then stays and is gone on with.
pub fn fetch(id: &str, settings: &Settings, world: &World) -> Result<Vec<Fetched>, Error> {
    each(id, settings, world, fetch_one)
}

/// Asks what [`fetch`] would get, and gets nothing; where the network is off limits, says what the cache has.
///
/// # Errors
/// As [`fetch`].
pub fn ask(id: &str, settings: &Settings, world: &World) -> Result<Vec<Fetched>, Error> {
    each(id, settings, world, |hub, settings, world| {
        if settings.offline {
            return offline(hub, settings);
        }
        let client = Client::new(settings)?;
        let (fetched, _) = plan(hub, settings, world, &client)?;
        Ok(fetched)
    })
}

fn each(
    id: &str,
    settings: &Settings,
    world: &World,
    one: impl Fn(&Hub, &Settings, &World) -> Result<Fetched, Error>,
) -> Result<Vec<Fetched>, Error> {
    let row = dataset(id).ok_or_else(|| unknown(id))?;
    if row.hub.is_empty() {
        return Err(Error::Hub {
            repository: format!("data set `{id}`"),
            problem: "it is not published on the hub".into(),
            remedy: match row.folders.is_empty() {
                true => "it is built in and needs no files".into(),
                false => row.remedy(),
            },
        });
    }
    row.hub
        .iter()
        .map(|hub| one(hub, settings, world))
        .collect()
}

fn fetch_one(hub: &Hub, settings: &Settings, world: &World) -> Result<Fetched, Error> {
    if settings.offline {
        return offline(hub, settings);
    }
    let client = Client::new(settings)?;
    let (mut fetched, remotes) = plan(hub, settings, world, &client)?;
    let free = (world.free)(&settings.cache);
    if fetched.missing > 0 && fetched.missing.saturating_add(RESERVE) > free {
        return Err(Error::NoSpace {
            path: settings.cache.clone(),
            needed: fetched.missing + RESERVE,
            free,
        });
    }
    let there = |remote: &Remote| {
        let named = (remote.name.as_str(), remote.size);
        cache::has(&settings.cache, hub.repository, &fetched.commit, named)
    };
    if !remotes.iter().all(there) {
        cache::begin(&settings.cache, hub.repository, &fetched.commit)?;
    }
    let mut brought = 0;
    for remote in &remotes {
        brought += get(hub, (settings, world), &client, &fetched.commit, remote)?;
    }
    // The reference is written last: a snapshot that a branch names is one whose files are there.
    cache::write_reference(&settings.cache, hub, &fetched.commit)?;
    cache::end(&settings.cache, hub.repository, &fetched.commit)?;
    fetched.missing = brought;
    Ok(fetched)
}

/// The listing of a repository: what is to be had, and how much of it is not in the cache.
fn plan(
    hub: &Hub,
    settings: &Settings,
    world: &World,
    client: &Client,
) -> Result<(Fetched, Vec<Remote>), Error> {
    let listing = persist(settings, world, hub.repository, |endpoint, main| {
        listing::ask(client, endpoint, main, hub)
    })?;
    let remotes = listing.data_files(hub)?;
    let missing = |remote: &Remote| {
        let blob = cache::blob(&settings.cache, hub.repository, remote.digest.name());
        let partial = cache::partial(&blob);
        let named = (remote.name.as_str(), remote.size);
        let there = cache::has(&settings.cache, hub.repository, &listing.commit, named)
            || cache::length(&blob) == Some(remote.size);
        match there {
            true => 0,
            false => remote.size - cache::length(&partial).unwrap_or(0).min(remote.size),
        }
    };
    let missing = remotes.iter().map(missing).sum();
    let fetched = Fetched {
        repository: hub.repository.to_string(),
        folder: cache::snapshot_folder(&settings.cache, hub.repository, &listing.commit),
        commit: listing.commit,
        bytes: remotes.iter().map(|remote| remote.size).sum(),
        missing,
        files: remotes.iter().map(|remote| remote.name.clone()).collect(),
    };
    Ok((fetched, remotes))
}

/// What the cache has, where the network is off limits.
fn offline(hub: &Hub, settings: &Settings) -> Result<Fetched, Error> {
    let none = |problem: String| {
        Error::Hub {
        repository: hub.repository.to_string(),
        problem,
        remedy: "go online (HF_HUB_OFFLINE and --offline forbid the network), or copy the cache from a machine that \
                 has it"
            .into(),
    }
    };
    let folder =
        cache::snapshot(&settings.cache, hub.repository, hub.revision).ok_or_else(|| {
            none(format!(
                "revision {} is not in the cache {}",
                hub.revision,
                settings.cache.display()
            ))
        })?;
    if cache::is_unfinished(&folder) {
        let problem = format!(
            "a fetch of it has not come to its end ({})",
            folder.display()
        );
        return Err(none(problem));
    }
    let files = cache::files(&folder, hub)?;
    if files.is_empty() {
        let problem = format!("no data file of it is in the cache {}", folder.display());
        return Err(none(problem));
    }
    let sizes = files.iter().map(|name| cache::length(&folder.join(name)));
    Ok(Fetched {
        repository: hub.repository.to_string(),
        commit: folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        bytes: sizes.flatten().sum(),
        folder,
        files,
        missing: 0,
    })
}

/// Brings one file into the cache and names it in the snapshot; how many bytes came over the network.
fn get(
    hub: &Hub,
    (settings, world): (&Settings, &World),
    client: &Client,
    commit: &str,
    remote: &Remote,
) -> Result<u64, Error> {
    let blob = cache::blob(&settings.cache, hub.repository, remote.digest.name());
    let landed = || (world.tell)(Event::Landed { file: &remote.name });
    let named = (remote.name.as_str(), remote.size);
    if cache::has(&settings.cache, hub.repository, commit, named) {
        landed();
        return Ok(0);
    }
    let _lock = cache::lock(
        &settings.cache,
        hub.repository,
        remote.digest.name(),
        || (world.tell)(Event::Waiting { file: &remote.name }),
    )?;
    let mut brought = 0;
    if cache::length(&blob) != Some(remote.size) {
        let partial = cache::partial(&blob);
        let have = || cache::length(&partial).unwrap_or(0);
        (world.tell)(Event::Begin {
            file: &remote.name,
            have: have().min(remote.size),
            size: remote.size,
        });
        let what = format!("{}/{}", hub.repository, remote.name);
        persist(settings, world, &what, |endpoint, main| {
            let url = listing::file_address(endpoint, hub.repository, commit, &remote.name);
            let before = have();
            let outcome = client.fetch(&url, main, remote, &partial, &|have| {
                (world.tell)(Event::Progress {
                    have,
                    size: remote.size,
                });
            });
            brought += have().saturating_sub(before);
            outcome
        })?;
        cache::land(&partial, &blob)?;
    }
    cache::point(
        &settings.cache,
        hub.repository,
        commit,
        (&remote.name, &blob),
    )?;
    landed();
    Ok(brought)
}
