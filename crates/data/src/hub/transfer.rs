//! One request over HTTP: a text, or a file from where an earlier try left off, checked for size and hash.
//!
//! A file grows in `HASH.incomplete`. A try asks for the bytes from its length on; a server that answers with the whole
//! file instead makes it begin anew, and bytes that cannot be right (another range, too many, a wrong hash) throw away
//! what is there. A connection that is silent for [`Settings::stall`] is dropped, and what came stays.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Proxy};

use super::listing::{Digest, Remote};
use super::retry::{Fault, Left};
use super::{Settings, cache, shown};
use crate::error::Error;

/// Longest listing that is read, in bytes.
const LONGEST_TEXT: u64 = 64 << 20;

/// Bytes read at a time.
const BLOCK: usize = 1 << 16;

/// An HTTP client with the settings of one fetch.
pub(super) struct Client {
    agent: Agent,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        let setting = |what: &str, found: &str, allowed: &str| Error::Hub {
            repository: what.to_string(),
            problem: format!("it is `{found}`"),
            remedy: allowed.to_string(),
        };
        if settings.offline {
            let remedy = "go online: HF_HUB_OFFLINE and --offline forbid it";
            return Err(setting("the network", "off limits", remedy));
        }
        for endpoint in &settings.endpoints {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                let allowed = "an endpoint or mirror is written https://HOST";
                return Err(setting("the endpoint", &shown(endpoint), allowed));
            }
        }
        let proxy = match &settings.proxy {
            None => None,
            Some(proxy) => Some(Proxy::new(proxy).map_err(|_| {
                // A name and a password before the host are nobody's business.
                let shown = proxy.rsplit('@').next().unwrap_or_default();
                setting("the proxy", shown, "a proxy is written http://HOST:PORT")
            })?),
        };
        let agent = Agent::config_builder()
            .proxy(proxy)
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.stall))
            .timeout_connect(Some(settings.stall))
            .timeout_recv_response(Some(settings.stall))
            .timeout_per_read(Some(settings.stall))
            .build();
        Ok(Self {
            agent: agent.into(),
            token: settings.token.clone(),
        })
    }

    /// Asks for `url`, from byte `from` on; only the main endpoint sees the token, and no address that it redirects to.
    fn ask(&self, url: &str, main: bool, from: u64) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(url);
        if let Some(token) = self.token.as_ref().filter(|_| main) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request
            .call()
            .map_err(|e| passing(format!("{}: {e}", shown(url)), None, Left::Nothing))?;
        let status = response.status();
        if status.is_success() || (status == StatusCode::RANGE_NOT_SATISFIABLE && from > 0) {
            return Ok(response);
        }
        let problem = format!("{} answered {status}", shown(url));
        let may_pass = status.is_server_error()
            || [
                StatusCode::REQUEST_TIMEOUT,
                StatusCode::TOO_EARLY,
                StatusCode::TOO_MANY_REQUESTS,
            ]
            .contains(&status);
        Err(match may_pass {
            true => passing(problem, retry_after(&response), Left::Nothing),
            false => Fault::Refused { problem },
        })
    }

    /// The text at an address.
    pub(super) fn text(&self, url: &str, main: bool) -> Result<String, Fault> {
        let mut response = self.ask(url, main, 0)?;
        let body = response.body_mut().with_config().limit(LONGEST_TEXT);
        body.read_to_string()
            .map_err(|e| passing(format!("{}: {e}", shown(url)), None, Left::Nothing))
    }

    /// Brings a file to `partial`, going on from what is there, and checks it. `told` hears how many bytes are there.
    pub(super) fn fetch(
        &self,
        url: &str,
        main: bool,
        remote: &Remote,
        partial: &Path,
        told: &dyn Fn(u64),
    ) -> Result<(), Fault> {
        let here = |e| Fault::Here(Error::io(partial, e));
        if let Some(folder) = partial.parent() {
            cache::make(folder).map_err(Fault::Here)?;
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(partial)
            .map_err(here)?;
        let mut have = file.seek(SeekFrom::End(0)).map_err(here)?;
        if have > remote.size {
            clear(&mut file).map_err(here)?;
            have = 0;
        }
        let began = have;
        if have < remote.size {
            let mut response = self.ask(url, main, have)?;
            let from = begin(url, &response, remote, (&mut file, partial), have)?;
            have = from;
            let mut body = response.body_mut().with_config().reader();
            let outcome = copy(&mut body, &mut file, &mut have, remote.size, told);
            file.flush().map_err(here)?;
            // A server that sent it all again has gone on with nothing, however much of it came this time.
            let left = match from == began && have > began {
                true => Left::Bytes,
                false => Left::Nothing,
            };
            match outcome {
                Ok(()) if have == remote.size => {}
                Ok(()) if have > remote.size => {
                    clear(&mut file).map_err(here)?;
                    let size = remote.size;
                    return Err(Fault::wrong(format!(
                        "{} sent more than {size} bytes",
                        shown(url)
                    )));
                }
                Ok(()) => {
                    let size = remote.size;
                    let problem = format!("{} ended after {have} of {size} bytes", shown(url));
                    return Err(passing(problem, None, left));
                }
                Err(Broken::Network(e)) => {
                    let problem = format!("{} broke off after {have} bytes ({e})", shown(url));
                    return Err(passing(problem, None, left));
                }
                Err(Broken::Disk(e)) => return Err(here(e)),
            }
        }
        let found = hash(&mut file, remote).map_err(here)?;
        if found != remote.digest {
            clear(&mut file).map_err(here)?;
            let (wanted, found) = (remote.digest.name(), found.name());
            let problem = format!(
                "{} brought bytes of hash {found} where {wanted} was listed",
                shown(url)
            );
            return Err(Fault::wrong(problem));
        }
        Ok(())
    }
}

/// Makes the file ready for a response's body: where its bytes go. Refuses a response that is of other bytes; what is
/// there is thrown away only where that may be the cause, not for a page of another length that some proxy answered with.
fn begin(
    url: &str,
    response: &Response<Body>,
    remote: &Remote,
    (file, partial): (&mut File, &Path),
    have: u64,
) -> Result<u64, Fault> {
    let size = remote.size;
    let here = |e| Fault::Here(Error::io(partial, e));
    let status = response.status();
    let (from, length) = match (have, status) {
        (1.., StatusCode::PARTIAL_CONTENT) => {
            let range = header(response, "content-range");
            let start = range
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next())
                .and_then(|start| start.trim().parse::<u64>().ok());
            let whole = range.and_then(|range| range.rsplit_once('/')?.1.parse::<u64>().ok());
            let fits = start == Some(have) && whole.is_none_or(|whole| whole == size);
            (fits.then_some(have), size - have)
        }
        (_, StatusCode::OK) => (Some(0), size),
        _ => (None, 0),
    };
    let announced = header(response, "content-length").and_then(|n| n.parse::<u64>().ok());
    match from {
        Some(from) if announced.is_none_or(|n| n == length) => {
            file.set_len(from).map_err(here)?;
            file.seek(SeekFrom::Start(from)).map_err(here)?;
            Ok(from)
        }
        _ => {
            if status != StatusCode::OK {
                clear(file).map_err(here)?;
            }
            let announced = announced.map_or("an unknown number of".into(), |n| n.to_string());
            Err(Fault::wrong(format!(
                "{} answered {status} with {announced} bytes, asked for those from {have} to {size}",
                shown(url)
            )))
        }
    }
}

/// Why a copy ended early.
enum Broken {
    Network(std::io::Error),
    Disk(std::io::Error),
}

/// Copies a body to the file until it ends or holds more than it should.
fn copy(
    body: &mut impl Read,
    file: &mut File,
    have: &mut u64,
    size: u64,
    told: &dyn Fn(u64),
) -> Result<(), Broken> {
    let mut block = vec![0; BLOCK];
    while *have <= size {
        let n = match body.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Broken::Network(e)),
        };
        file.write_all(&block[..n]).map_err(Broken::Disk)?;
        *have += n as u64;
        told(*have);
    }
    Ok(())
}

fn clear(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0)).map(|_| ())
}

/// The hash of a file, of the kind that was listed.
fn hash(file: &mut File, remote: &Remote) -> std::io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match remote.digest {
        Digest::Sha256(_) => {
            let mut hasher = Sha256::new();
            feed(file, |block| hasher.update(block))?;
            Ok(Digest::Sha256(hex(&hasher.finalize())))
        }
        Digest::Git(_) => {
            let mut hasher = Sha1::new();
            hasher.update(format!("blob {}\0", remote.size));
            feed(file, |block| hasher.update(block))?;
            Ok(Digest::Git(hex(&hasher.finalize())))
        }
    }
}

fn feed(file: &mut File, mut take: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(()),
            n => take(&block[..n]),
        }
    }
}

fn passing(problem: String, wait: Option<Duration>, left: Left) -> Fault {
    Fault::Passing {
        problem,
        wait,
        left,
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The seconds of a header `Retry-After`; its other form, a date, would need a clock and is put aside.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = header(response, "retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
