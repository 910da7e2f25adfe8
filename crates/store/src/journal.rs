//! The journal: what happened, keyed by attempt, phase, branch and step.
//!
//! Metrics are many and buffered; events are few and survive a power cut. Values are deterministic
//! and wall-clock columns stand beside them, so two runs of one seed agree in all but those. Rows
//! are never deleted: a resume marks those behind its checkpoint as superseded, and reads leave
//! them out unless asked.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::journal_file::{Buffered, Durability, Fault, JournalFile};

/// Metrics waiting in memory before they are written in one transaction.
const BATCH: usize = 512;

/// A point in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Which start of the process, from 1; see `Run::attempt`.
    pub attempt: u32,
    /// Such as `phase1-cognate`.
    pub phase: String,
    /// Such as `reasoning`; empty where a phase has no branches.
    pub branch: String,
    /// The unit of work within phase and branch.
    pub step: u64,
}

impl Key {
    /// Whether both name the same point of the computation, whatever the attempt. This is how a
    /// replayed request's point is found again.
    pub fn same_point(&self, other: &Key) -> bool {
        (&self.phase, &self.branch, self.step) == (&other.phase, &other.branch, other.step)
    }

    /// Reads columns `first..first + 4`: attempt, phase, branch, step.
    pub(crate) fn from_row(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Key> {
        Ok(Key {
            attempt: row.get(first)?,
            phase: row.get(first + 1)?,
            branch: row.get(first + 2)?,
            step: row.get::<_, i64>(first + 3)? as u64,
        })
    }
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The journal's running number; rows come in this order.
    pub seq: u64,
    /// Where in the run.
    pub key: Key,
    /// Such as `model1/perplexity`.
    pub name: String,
    /// NaN and infinities are kept.
    pub value: f64,
    /// Wall-clock seconds as the caller gave them.
    pub wall: f64,
    /// Whether a resume from an earlier checkpoint replaced it.
    pub superseded: bool,
}

/// One event: a phase change, a remedy, an intervention, money.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The journal's running number; events come in this order.
    pub seq: u64,
    /// Where in the run.
    pub key: Key,
    /// The caller's word for it.
    pub kind: String,
    /// What belongs to it.
    pub json: Value,
    /// Seconds since 1970, stamped by the database.
    pub created: f64,
    /// Whether a resume from an earlier checkpoint replaced it.
    pub superseded: bool,
}

/// Which metrics to read; the default is all that stand.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this phase.
    pub phase: Option<String>,
    /// Only this branch.
    pub branch: Option<String>,
    /// Only this metric.
    pub name: Option<String>,
    /// Only rows with a greater `seq`: what is new since the last look.
    pub after: Option<u64>,
    /// Superseded rows too.
    pub superseded: bool,
}

/// The open journal of a run. All methods may be called from several threads.
#[derive(Debug)]
pub struct Journal {
    pub(crate) file: JournalFile,
}

impl Journal {
    pub(crate) fn open(path: &Path, run: &str, writer: bool) -> Result<Journal> {
        Ok(Journal {
            file: JournalFile::open(path, run, writer)?,
        })
    }

    /// Records a number. Buffered: on the disk after [`Journal::flush`], after anything else is
    /// written, or when 512 wait.
    pub fn metric(&self, key: &Key, name: &str, value: f64, wall: f64) -> Result<()> {
        self.file.need_writer("recording a metric")?;
        let metric = Buffered {
            key: key.clone(),
            name: name.into(),
            value,
            wall,
        };
        if self.file.buffer(metric) >= BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes the buffered metrics in one transaction.
    pub fn flush(&self) -> Result<()> {
        if self.file.is_buffered() {
            self.file
                .write("write metrics", Durability::Normal, |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Records an event; it survives a power cut once this returns.
    pub fn event(&self, key: &Key, kind: &str, json: &Value) -> Result<()> {
        self.file.need_writer("recording an event")?;
        self.file
            .write("write an event", Durability::Full, |transaction, seq| {
                *seq += 1;
                transaction.execute(
                    "INSERT INTO events (seq, attempt, phase, branch, step, kind, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        *seq,
                        key.attempt,
                        key.phase,
                        key.branch,
                        key.step as i64,
                        kind,
                        json.to_string()
                    ],
                )?;
                Ok(())
            })
    }

    /// The metrics that pass `filter`, in the order of their recording.
    pub fn metrics(&self, filter: &Filter) -> Result<Vec<Row>> {
        self.flush()?;
        self.file.read("read metrics", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT seq, attempt, phase, branch, step, name, value, wall, superseded FROM metrics
                 WHERE (?1 IS NULL OR phase = ?1) AND (?2 IS NULL OR branch = ?2)
                   AND (?3 IS NULL OR name = ?3) AND seq > ?4 AND (?5 OR NOT superseded)
                 ORDER BY seq",
            )?;
            let Filter { phase, branch, name, after, superseded } = filter;
            let after = after.unwrap_or(0) as i64;
            let rows = query.query_map(params![phase, branch, name, after, superseded], |row| {
                Ok(Row {
                    seq: row.get::<_, i64>(0)? as u64,
                    key: Key::from_row(row, 1)?,
                    name: row.get(5)?,
                    // SQLite stores NaN as NULL.
                    value: row.get::<_, Option<f64>>(6)?.unwrap_or(f64::NAN),
                    wall: row.get::<_, Option<f64>>(7)?.unwrap_or(f64::NAN),
                    superseded: row.get(8)?,
                })
            })?;
            rows.collect()
        })
    }

    /// The events that stand, in the order of their recording.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut events = self.all_events()?;
        events.retain(|event| !event.superseded);
        Ok(events)
    }

    /// All events, superseded ones too.
    pub fn all_events(&self) -> Result<Vec<Event>> {
        self.file.read("read events", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT seq, attempt, phase, branch, step, kind, json, created, superseded FROM events
                 ORDER BY seq",
            )?;
            let rows = query.query_map([], |row| {
                Ok(Event {
                    seq: row.get::<_, i64>(0)? as u64,
                    key: Key::from_row(row, 1)?,
                    kind: row.get(5)?,
                    json: json_column(row, 6)?,
                    created: row.get(7)?,
                    superseded: row.get(8)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Puts the journal back to the newest checkpoint saved at `key` (its attempt does not count):
    /// metrics, events and alerts behind it are superseded, alerts settled behind it are open again,
    /// cache entries behind it count as misses once, and `set` and `answer` requests applied behind
    /// it are pending again, with the point at which they were applied.
    pub fn supersede_after(&self, key: &Key) -> Result<()> {
        self.supersede_after_mark(None, key)
    }

    /// As [`Journal::supersede_after`], back to the run's beginning.
    pub fn supersede_all(&self) -> Result<()> {
        self.file.need_writer("rewinding its journal")?;
        self.file
            .write("rewind", Durability::Full, |transaction, _| {
                Ok(supersede(transaction, 0)?)
            })
    }

    /// `number` is that of the checkpoint's folder, where it is known.
    pub(crate) fn supersede_after_mark(&self, number: Option<u64>, key: &Key) -> Result<()> {
        self.file.need_writer("rewinding its journal")?;
        self.file
            .write("rewind", Durability::Full, |transaction, _| {
                let mark = match find_mark(transaction, number, key)? {
                    Some(mark) => mark,
                    None => first_behind(transaction, key)?,
                };
                Ok(supersede(transaction, mark)?)
            })
    }

    /// Notes that everything recorded so far belongs to the checkpoint with this number.
    pub(crate) fn mark(&self, number: u64, key: &Key) -> Result<()> {
        self.file.need_writer("saving a checkpoint")?;
        self.file
            .write("mark a checkpoint", Durability::Full, |transaction, seq| {
                transaction.execute(
                    "INSERT OR REPLACE INTO marks (number, seq, phase, branch, step)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![number as i64, *seq, key.phase, key.branch, key.step as i64],
                )?;
                Ok(())
            })
    }
}

/// A column of JSON text; text that is no JSON is a damaged journal.
pub(crate) fn json_column(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Value> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|fault| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(fault),
        )
    })
}

fn find_mark(
    connection: &Connection,
    number: Option<u64>,
    key: &Key,
) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row(
            "SELECT seq FROM marks WHERE phase = ?1 AND branch = ?2 AND step = ?3
               AND (?4 IS NULL OR number = ?4) ORDER BY number DESC LIMIT 1",
            params![
                key.phase,
                key.branch,
                key.step as i64,
                number.map(|number| number as i64)
            ],
            |row| row.get(0),
        )
        .optional()
}

/// Without a mark (the journal was lost and begun anew): the number before the first row of the
/// same phase and branch with a later step.
fn first_behind(connection: &Connection, key: &Key) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT coalesce(min(seq) - 1, 9223372036854775807) FROM
           (SELECT seq, phase, branch, step FROM metrics WHERE NOT superseded
            UNION ALL SELECT seq, phase, branch, step FROM events WHERE NOT superseded
            UNION ALL SELECT seq, phase, branch, step FROM alerts WHERE NOT superseded
            UNION ALL SELECT applied, phase, branch, step FROM requests WHERE applied IS NOT NULL)
         WHERE phase = ?1 AND branch = ?2 AND step > ?3",
        params![key.phase, key.branch, key.step as i64],
        |row| row.get(0),
    )
}

fn supersede(transaction: &Transaction<'_>, mark: i64) -> std::result::Result<(), rusqlite::Error> {
    for change in [
        "UPDATE metrics SET superseded = 1 WHERE seq > ?1 AND NOT superseded",
        "UPDATE events SET superseded = 1 WHERE seq > ?1 AND NOT superseded",
        "UPDATE alerts SET superseded = 1 WHERE seq > ?1 AND NOT superseded",
        "UPDATE alerts SET action = NULL, who = NULL, settled = NULL
           WHERE settled > ?1 AND NOT superseded",
        "UPDATE requests SET replay = applied, applied = NULL, outcome = NULL
           WHERE applied > ?1 AND action IN ('set', 'answer')",
        "UPDATE cache SET superseded = 1 WHERE seq > ?1",
        "DELETE FROM marks WHERE seq > ?1",
    ] {
        transaction.execute(change, [mark])?;
    }
    Ok(())
}

impl From<crate::error::Error> for Fault {
    fn from(error: crate::error::Error) -> Fault {
        Fault::Ours(error)
    }
}
