//! What people ask of a run: pause, resume, checkpoint, stop, answer an alert, change a setting.
//!
//! Any process may submit, through a reading handle, while the run writes. The run polls at safe
//! points and calls [`Requests::apply`] *before* it acts, so that a kill cannot leave a change that
//! the journal does not know. A resume brings back those requests that change the result (`set`,
//! `answer`) and were applied behind the checkpoint, each with the point at which it must be applied
//! again; the others have had their effect on the process that is gone, and a resumed run must not
//! pause or stop itself once more.

use std::fmt;
use std::str::FromStr;

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::journal::{Journal, Key, json_column};
use crate::journal_file::Durability;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Save a checkpoint and wait.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Save a checkpoint now.
    Checkpoint,
    /// Save a checkpoint and end.
    Stop,
    /// Settle an alert.
    Answer,
    /// Change a setting.
    Set,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 6] = [
        Action::Pause,
        Action::Resume,
        Action::Checkpoint,
        Action::Stop,
        Action::Answer,
        Action::Set,
    ];

    /// The word on the command line and in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Resume => "resume",
            Action::Checkpoint => "checkpoint",
            Action::Stop => "stop",
            Action::Answer => "answer",
            Action::Set => "set",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Action {
    type Err = Error;

    fn from_str(word: &str) -> Result<Action> {
        let action = Action::ALL.into_iter().find(|action| action.name() == word);
        action.ok_or_else(|| Error::Action { found: word.into() })
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Counts from 1 in the order of submission.
    pub id: u64,
    /// What is asked.
    pub action: Action,
    /// What belongs to it, such as `{"alert": 2, "choice": "roll-back"}`.
    pub arguments: Value,
    /// Who asked.
    pub author: String,
    /// Seconds since 1970, stamped by the database.
    pub created: f64,
    /// Applied: where. Pending: `None` means at the next safe point, `Some` means at that very
    /// point (compare with [`Key::same_point`]), because an earlier attempt applied it there.
    pub at: Option<Key>,
    /// What came of it; `None` while pending.
    pub outcome: Option<String>,
}

/// The requests of a run.
#[derive(Clone, Copy, Debug)]
pub struct Requests<'a> {
    journal: &'a Journal,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(journal: &'a Journal) -> Requests<'a> {
        Requests { journal }
    }

    /// Hands in a request and returns its id; it survives a power cut once this returns.
    pub fn submit(&self, action: Action, arguments: &Value, author: &str) -> Result<u64> {
        self.journal
            .file
            .write("submit a request", Durability::Full, |transaction, _| {
                transaction.execute(
                    "INSERT INTO requests (action, arguments, author) VALUES (?1, ?2, ?3)",
                    params![action.name(), arguments.to_string(), author],
                )?;
                Ok(transaction.last_insert_rowid() as u64)
            })
    }

    /// Those not applied yet: first the ones to be replayed, in the order of their first
    /// application, then the new ones in the order of submission.
    pub fn pending(&self) -> Result<Vec<Request>> {
        self.select("WHERE applied IS NULL ORDER BY replay IS NULL, replay, id")
    }

    /// Those applied, in the order of application.
    pub fn applied(&self) -> Result<Vec<Request>> {
        self.select("WHERE applied IS NOT NULL ORDER BY applied")
    }

    /// Records that a request applies at `key` and what comes of it. Call it before acting.
    pub fn apply(&self, id: u64, key: &Key, outcome: &str) -> Result<()> {
        self.journal.file.need_writer("applying a request")?;
        self.journal.file.write("apply a request", Durability::Full, |transaction, seq| {
            let applied: Option<Option<i64>> = transaction
                .query_row("SELECT applied FROM requests WHERE id = ?1", [id as i64], |row| row.get(0))
                .optional()?;
            let fault = match applied {
                Some(None) => None,
                Some(Some(_)) => Some("is settled already"),
                None => Some("does not exist"),
            };
            if let Some(fault) = fault {
                return Err(Error::Settled { what: "request", id, fault }.into());
            }
            *seq += 1;
            transaction.execute(
                "UPDATE requests SET attempt = ?2, phase = ?3, branch = ?4, step = ?5, outcome = ?6,
                   applied = ?7, replay = NULL WHERE id = ?1",
                params![id as i64, key.attempt, key.phase, key.branch, key.step as i64, outcome, *seq],
            )?;
            Ok(())
        })
    }

    fn select(&self, condition: &str) -> Result<Vec<Request>> {
        self.journal.file.read("read requests", |connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT id, action, arguments, author, created, outcome, attempt, phase, branch, step
                 FROM requests {condition}"
            ))?;
            let rows = query.query_map([], |row| {
                let word: String = row.get(1)?;
                let action = word.parse().map_err(|fault: Error| {
                    let text = rusqlite::types::Type::Text;
                    rusqlite::Error::FromSqlConversionFailure(1, text, Box::new(fault))
                })?;
                let at = row.get::<_, Option<u32>>(6)?.map(|_| Key::from_row(row, 6)).transpose()?;
                Ok(Request {
                    id: row.get::<_, i64>(0)? as u64,
                    action,
                    arguments: json_column(row, 2)?,
                    author: row.get(3)?,
                    created: row.get(4)?,
                    at,
                    outcome: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }
}
