//! A hub on the loopback device: the listing and the files of one repository, and a list of faults for each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What the server does instead of answering rightly.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Closes the connection after so many bytes of the body.
    Drop(usize),
    /// The same, and says beforehand that this is the whole body.
    Truncate(usize),
    /// The same, and gives no length.
    Unannounced(usize),
    /// Says nothing more after so many bytes of the body; with 0, not even a status.
    Stall(usize),
    /// Bytes of the right length that are others.
    WrongBytes,
    /// Answers a range with the whole file.
    NoRange,
    /// The same, and closes the connection after so many bytes of it.
    DropAnew(usize),
    /// Answers a range with another one.
    OtherRange,
    /// This status, with a `Retry-After` where a number of seconds is given.
    Status(u16, Option<u64>),
    /// Sends the reader to this port of the same machine.
    Elsewhere(u16),
    /// This body.
    Body(&'static str),
}

type Files = BTreeMap<String, (Vec<u8>, bool)>;

struct State {
    prefix: String,
    listing: String,
    files: Files,
    faults: Mutex<BTreeMap<String, Vec<Fault>>>,
    requests: Mutex<Vec<(String, String)>>,
}

/// The running server; it ends with the test's process.
pub(crate) struct Loopback {
    port: u16,
    state: Arc<State>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Loopback {
    /// Serves `files` (content, and whether they are kept apart from git) as a repository at a revision.
    pub(crate) fn start(repository: &str, revision: &str, files: Files) -> Self {
        let commit = if revision == "main" {
            "c".repeat(40)
        } else {
            revision.to_string()
        };
        let sibling = |(name, (bytes, apart)): (&String, &(Vec<u8>, bool))| {
            let mut git = Sha1::new();
            git.update(format!("blob {}\0", bytes.len()));
            git.update(bytes);
            let mut value = serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": hex(&git.finalize()) });
            if *apart {
                value["lfs"] = serde_json::json!({ "sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(),
                                                   "pointerSize": 130 });
            }
            value
        };
        let siblings: Vec<_> = files.iter().map(sibling).collect();
        let listing = serde_json::json!({ "id": repository, "sha": commit, "siblings": siblings });
        let state = Arc::new(State {
            prefix: format!("/datasets/{repository}/resolve/{commit}/"),
            listing: listing.to_string(),
            files,
            faults: Mutex::default(),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&state, stream));
            }
        });
        Self { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next requests for a file (or for the `listing`) meet these faults, one each, then none.
    pub(crate) fn misbehave(&self, what: &str, faults: &[Fault]) {
        self.state
            .faults
            .lock()
            .unwrap()
            .insert(what.to_string(), faults.to_vec());
    }

    pub(crate) fn behave(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state
            .requests
            .lock()
            .unwrap()
            .iter()
            .map(|(_, head)| head.clone())
            .collect()
    }

    /// The first byte that each request for a file asked for.
    pub(crate) fn ranges(&self, file: &str) -> Vec<usize> {
        let requests = self.state.requests.lock().unwrap();
        let of_file = requests.iter().filter(|(what, _)| what == file);
        of_file.map(|(_, head)| start_of(head)).collect()
    }
}

/// The first byte of a request's range; 0 without one.
fn start_of(head: &str) -> usize {
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim())
    });
    range.map_or(0, |range| {
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap()
    })
}

/// One request a connection.
fn serve(state: &State, stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    let path = head.split_whitespace().nth(1)?.to_string();
    let what = match path.strip_prefix(&state.prefix) {
        Some(file) => file.to_string(),
        None if path.starts_with("/api/datasets/") => "listing".to_string(),
        None => return answer(stream, "404 Not Found", "", b"").ok(),
    };
    state
        .requests
        .lock()
        .unwrap()
        .push((what.clone(), head.clone()));
    let fault = {
        let mut faults = state.faults.lock().unwrap();
        faults
            .get_mut(&what)
            .filter(|list| !list.is_empty())
            .map(|list| list.remove(0))
    };
    let whole = match what.as_str() {
        "listing" => state.listing.as_bytes(),
        file => match state.files.get(file) {
            Some((bytes, _)) => bytes.as_slice(),
            None => return answer(stream, "404 Not Found", "", b"").ok(),
        },
    };
    send(stream, (whole, start_of(&head)), &path, fault).ok()
}

fn send(
    mut stream: TcpStream,
    (whole, start): (&[u8], usize),
    path: &str,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let size = whole.len();
    let (status, range) = match start {
        0 => ("200 OK", String::new()),
        _ => (
            "206 Partial Content",
            format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1),
        ),
    };
    let body = &whole[start.min(size)..];
    match fault {
        None => answer(stream, status, &range, body),
        Some(Fault::Status(code, wait)) => {
            let wait = wait.map_or(String::new(), |seconds| {
                format!("Retry-After: {seconds}\r\n")
            });
            answer(stream, &format!("{code} Trouble"), &wait, b"no")
        }
        Some(Fault::Body(text)) => answer(stream, "200 OK", "", text.as_bytes()),
        Some(Fault::Elsewhere(port)) => {
            let place = format!("Location: http://127.0.0.1:{port}{path}\r\n");
            answer(stream, "302 Found", &place, b"")
        }
        Some(Fault::NoRange) => answer(stream, "200 OK", "", whole),
        Some(Fault::DropAnew(n)) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
            stream.write_all(&whole[..n.min(size)])
        }
        Some(Fault::OtherRange) => {
            let range = format!("Content-Range: bytes 10-{}/{size}\r\n", size - 1);
            answer(stream, "206 Partial Content", &range, &whole[10..])
        }
        Some(Fault::WrongBytes) => {
            let wrong: Vec<u8> = body.iter().map(|b| b ^ 1).collect();
            answer(stream, status, &range, &wrong)
        }
        Some(Fault::Truncate(n)) => answer(stream, status, &range, &body[..n.min(body.len())]),
        Some(Fault::Unannounced(n)) => {
            write!(
                stream,
                "HTTP/1.1 {status}\r\n{range}Connection: close\r\n\r\n"
            )?;
            stream.write_all(&body[..n.min(body.len())])
        }
        Some(Fault::Drop(n)) => {
            write!(
                stream,
                "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\n\r\n",
                body.len()
            )?;
            stream.write_all(&body[..n.min(body.len())])
        }
        Some(Fault::Stall(n)) => {
            if n > 0 {
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\n\r\n",
                    body.len()
                )?;
                stream.write_all(&body[..n.min(body.len())])?;
            }
            // Until the reader hangs up.
            let mut rest = String::new();
            BufReader::new(stream).read_line(&mut rest).map(|_| ())
        }
    }
}

fn answer(mut stream: TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(body)
}
