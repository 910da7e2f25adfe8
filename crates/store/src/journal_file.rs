//! The database under the journal: opening, schema, transactions, faults sorted into our errors.
//!
//! SQLite in WAL mode: one writer and any number of readers at once, and requests may be submitted
//! from other processes while the run writes. `synchronous=NORMAL` for metrics (a power cut may
//! cost the last ones, never the file), `FULL` for everything that a resume or a person relies on.
//!
//! One running number, `seq`, is drawn for every row the writer adds, in whatever table; a
//! checkpoint's mark is the number reached when it was saved. A transaction that fails gives its
//! numbers back, and the metrics still in the buffer stay there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, params};

use crate::durable::disk_free;
use crate::error::{Error, Result};
use crate::journal::Key;

const VERSION: i64 = 1;
const WAIT_SECONDS: u64 = 10;

/// `created` columns are stamped by the database: the one clock in this crate, never read back
/// into a computation.
const SCHEMA: &str = "
CREATE TABLE metrics (seq INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, phase TEXT NOT NULL,
  branch TEXT NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL, value REAL, wall REAL,
  superseded INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (seq INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, phase TEXT NOT NULL,
  branch TEXT NOT NULL, step INTEGER NOT NULL, kind TEXT NOT NULL, json TEXT NOT NULL,
  superseded INTEGER NOT NULL DEFAULT 0, created REAL DEFAULT (unixepoch('subsec')));
CREATE TABLE alerts (seq INTEGER PRIMARY KEY, id INTEGER NOT NULL, attempt INTEGER NOT NULL,
  phase TEXT NOT NULL, branch TEXT NOT NULL, step INTEGER NOT NULL, detector TEXT NOT NULL,
  value REAL, threshold REAL, action TEXT, who TEXT, settled INTEGER,
  superseded INTEGER NOT NULL DEFAULT 0, created REAL DEFAULT (unixepoch('subsec')));
CREATE TABLE requests (id INTEGER PRIMARY KEY AUTOINCREMENT, action TEXT NOT NULL,
  arguments TEXT NOT NULL, author TEXT NOT NULL, created REAL DEFAULT (unixepoch('subsec')),
  attempt INTEGER, phase TEXT, branch TEXT, step INTEGER, outcome TEXT,
  applied INTEGER, replay INTEGER);
CREATE TABLE cache (key TEXT PRIMARY KEY, seq INTEGER NOT NULL, value TEXT NOT NULL,
  superseded INTEGER NOT NULL DEFAULT 0);
CREATE TABLE marks (number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, phase TEXT NOT NULL,
  branch TEXT NOT NULL, step INTEGER NOT NULL);
";

const LAST_SEQ: &str = "SELECT max(coalesce((SELECT max(seq) FROM metrics), 0),
  coalesce((SELECT max(seq) FROM events), 0), coalesce((SELECT max(seq) FROM alerts), 0),
  coalesce((SELECT max(settled) FROM alerts), 0), coalesce((SELECT max(applied) FROM requests), 0),
  coalesce((SELECT max(replay) FROM requests), 0), coalesce((SELECT max(seq) FROM cache), 0),
  coalesce((SELECT max(seq) FROM marks), 0))";

/// What a commit survives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The death of the process.
    Normal,
    /// A power cut.
    Full,
}

/// A failure inside a transaction: SQLite's, or one of ours.
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Ours(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(fault: rusqlite::Error) -> Fault {
        Fault::Sql(fault)
    }
}

/// A metric not yet written.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) key: Key,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) wall: f64,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// The last number given out.
    seq: i64,
    buffer: Vec<Buffered>,
}

/// The open database with the buffer of metrics in front of it.
#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    run: String,
    writer: bool,
    inner: Mutex<Inner>,
}

impl JournalFile {
    /// Opens or makes the journal. A reader falls back to a connection that cannot write when the
    /// folder is read-only.
    pub(crate) fn open(path: &Path, run: &str, writer: bool) -> Result<JournalFile> {
        let sorted = |fault| sort(fault, "open it", path);
        let connection = match connect(path) {
            Err(Fault::Sql(fault)) if !writer && cannot_write(&fault) => {
                connect_read_only(path).map_err(|_| sorted(Fault::Sql(fault)))?
            }
            other => other.map_err(sorted)?,
        };
        let seq = connection
            .query_row(LAST_SEQ, [], |row| row.get(0))
            .map_err(|fault| sorted(Fault::Sql(fault)))?;
        let inner = Mutex::new(Inner {
            connection,
            seq,
            buffer: Vec::new(),
        });
        Ok(JournalFile {
            path: path.into(),
            run: run.into(),
            writer,
            inner,
        })
    }

    pub(crate) fn need_writer(&self, doing: &'static str) -> Result<()> {
        if self.writer {
            Ok(())
        } else {
            Err(Error::ReadHandle {
                name: self.run.clone(),
                doing,
            })
        }
    }

    /// Adds a metric to the buffer and says how many wait there.
    pub(crate) fn buffer(&self, metric: Buffered) -> usize {
        let mut inner = self.lock();
        inner.buffer.push(metric);
        inner.buffer.len()
    }

    pub(crate) fn is_buffered(&self) -> bool {
        !self.lock().buffer.is_empty()
    }

    /// Runs a query over what is written; metrics in the buffer are not part of it.
    pub(crate) fn read<T>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        query(&self.lock().connection).map_err(|fault| sort(Fault::Sql(fault), doing, &self.path))
    }

    /// Runs `change` in a transaction, after the buffered metrics. `change` draws its numbers by
    /// adding to the second argument.
    pub(crate) fn write<T>(
        &self,
        doing: &'static str,
        durability: Durability,
        change: impl FnOnce(&Transaction<'_>, &mut i64) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        let mut guard = self.lock();
        let Inner {
            connection,
            seq,
            buffer,
        } = &mut *guard;
        let mut next = *seq;
        let run = || -> std::result::Result<T, Fault> {
            if durability == Durability::Full {
                connection.pragma_update(None, "synchronous", "FULL")?;
            }
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_metrics(&transaction, &mut next, buffer)?;
            let value = change(&transaction, &mut next)?;
            transaction.commit()?;
            Ok(value)
        };
        let result = run();
        if durability == Durability::Full {
            // A failure here shows in the next statement; metrics would merely be slower.
            let _ = connection.pragma_update(None, "synchronous", "NORMAL");
        }
        if result.is_ok() {
            *seq = next;
            buffer.clear();
        }
        result.map_err(|fault| sort(fault, doing, &self.path))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for JournalFile {
    fn drop(&mut self) {
        if self.is_buffered() {
            // A caller who wants to hear of a failure calls flush; here nobody listens.
            let _ = self.write("flush", Durability::Normal, |_, _| Ok(()));
        }
    }
}

fn insert_metrics(
    transaction: &Transaction<'_>,
    seq: &mut i64,
    metrics: &[Buffered],
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO metrics (seq, attempt, phase, branch, step, name, value, wall)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for Buffered {
        key,
        name,
        value,
        wall,
    } in metrics
    {
        *seq += 1;
        let step = key.step as i64;
        insert.execute(params![
            *seq,
            key.attempt,
            key.phase,
            key.branch,
            step,
            name,
            value,
            wall
        ])?;
    }
    Ok(())
}

fn connect(path: &Path) -> std::result::Result<Connection, Fault> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(WAIT_SECONDS))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been first.
        if transaction.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
    } else if version != VERSION {
        return Err(Fault::Ours(Error::JournalVersion {
            path: path.into(),
            found: version,
            known: VERSION,
        }));
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Touches the WAL, so that a folder that cannot be written shows here and not later.
    connection.query_row("SELECT count(*) FROM marks", [], |_| Ok(()))?;
    Ok(connection)
}

/// For a folder that cannot be written. `immutable` reads the main file alone: the only way there
/// is without a WAL index, and complete after a run that closed its journal.
fn connect_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let encoded: String = path
        .to_string_lossy()
        .chars()
        .map(|c| match c {
            '%' => "%25".into(),
            '?' => "%3f".into(),
            '#' => "%23".into(),
            c => c.to_string(),
        })
        .collect();
    let usable = |connection: Connection| {
        connection.query_row("SELECT count(*) FROM marks", [], |_| Ok(()))?;
        Ok(connection)
    };
    Connection::open_with_flags(path, flags)
        .and_then(usable)
        .or_else(|_| {
            Connection::open_with_flags(format!("file:{encoded}?immutable=1"), flags)
                .and_then(usable)
        })
}

fn cannot_write(fault: &rusqlite::Error) -> bool {
    use ErrorCode::{CannotOpen, PermissionDenied, ReadOnly, SystemIoFailure};
    matches!(
        fault.sqlite_error_code(),
        Some(CannotOpen | PermissionDenied | ReadOnly | SystemIoFailure)
    )
}

fn sort(fault: Fault, doing: &'static str, path: &Path) -> Error {
    let fault = match fault {
        Fault::Ours(error) => return error,
        Fault::Sql(fault) => fault,
    };
    let path = path.to_path_buf();
    match fault.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            let free = disk_free(&path);
            Error::DiskFull {
                why: "the disk is full",
                writing: "the journal".into(),
                path,
                free,
            }
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Error::ReadOnly {
            writing: "the journal".into(),
            path,
            source: io::Error::new(io::ErrorKind::PermissionDenied, fault.to_string()),
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::JournalLocked {
            path,
            seconds: WAIT_SECONDS,
        },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::JournalDamaged {
            path,
            fault: fault.to_string(),
        },
        _ => Error::Journal {
            doing,
            path,
            fault: fault.to_string(),
        },
    }
}
