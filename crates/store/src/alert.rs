//! Alerts of the failure detectors: what was seen, and what was done about it.
//!
//! Ids count the alerts that stand, so an alert raised again after a resume has the id it had
//! before, and a replayed answer finds it.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::journal::{Journal, Key};
use crate::journal_file::Durability;

/// One alert, with the fields of `forge report --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    /// Counts from 1.
    pub id: u64,
    /// The detector's name.
    pub detector: String,
    /// Where in the run.
    pub phase: String,
    /// Where in the phase; empty where it has no branches.
    pub branch: String,
    /// Where in the branch.
    pub step: u64,
    /// What was seen.
    pub value: f64,
    /// What it was compared with.
    pub threshold: f64,
    /// What was done; `None` while open.
    pub action: Option<String>,
    /// Who decided: a person's name, or the policy's.
    pub by: Option<String>,
}

impl Journal {
    /// Raises an alert and returns its id; it survives a power cut once this returns.
    pub fn alert(&self, key: &Key, detector: &str, value: f64, threshold: f64) -> Result<u64> {
        self.file.need_writer("raising an alert")?;
        self.file.write("raise an alert", Durability::Full, |transaction, seq| {
            *seq += 1;
            let id: i64 = transaction.query_row(
                "SELECT coalesce(max(id), 0) + 1 FROM alerts WHERE NOT superseded",
                [],
                |row| row.get(0),
            )?;
            transaction.execute(
                "INSERT INTO alerts (seq, id, attempt, phase, branch, step, detector, value, threshold)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    *seq, id, key.attempt, key.phase, key.branch, key.step as i64, detector, value, threshold
                ],
            )?;
            Ok(id as u64)
        })
    }

    /// Records what was done about an open alert, and who decided it.
    pub fn settle_alert(&self, id: u64, action: &str, by: &str) -> Result<()> {
        self.file.need_writer("settling an alert")?;
        self.file
            .write("settle an alert", Durability::Full, |transaction, seq| {
                let found: Option<(i64, bool)> = transaction
                .query_row(
                    "SELECT seq, settled IS NOT NULL FROM alerts WHERE id = ?1 AND NOT superseded",
                    [id as i64],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
                let fault = match found {
                    Some((row, false)) => {
                        *seq += 1;
                        transaction.execute(
                            "UPDATE alerts SET action = ?2, who = ?3, settled = ?4 WHERE seq = ?1",
                            params![row, action, by, *seq],
                        )?;
                        return Ok(());
                    }
                    Some((_, true)) => "is settled already",
                    None => "does not exist",
                };
                Err(Error::Settled {
                    what: "alert",
                    id,
                    fault,
                }
                .into())
            })
    }

    /// The alerts that stand, in the order of their ids.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        self.file.read("read alerts", |connection| {
            let mut query = connection.prepare_cached(
                "SELECT id, detector, phase, branch, step, value, threshold, action, who FROM alerts
                 WHERE NOT superseded ORDER BY id",
            )?;
            let rows = query.query_map([], |row| {
                Ok(Alert {
                    id: row.get::<_, i64>(0)? as u64,
                    detector: row.get(1)?,
                    phase: row.get(2)?,
                    branch: row.get(3)?,
                    step: row.get::<_, i64>(4)? as u64,
                    // SQLite stores NaN as NULL.
                    value: row.get::<_, Option<f64>>(5)?.unwrap_or(f64::NAN),
                    threshold: row.get::<_, Option<f64>>(6)?.unwrap_or(f64::NAN),
                    action: row.get(7)?,
                    by: row.get(8)?,
                })
            })?;
            rows.collect()
        })
    }
}
