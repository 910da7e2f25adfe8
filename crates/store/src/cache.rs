//! Results worth keeping across a kill: text key to JSON, for values that depend on the key alone.
//!
//! A resumed run finds entries that its killed predecessor made behind the checkpoint. They save
//! the work, but an uninterrupted run would have missed there; [`Cached::replayed`] says so once,
//! so that a run that counts its hits counts the same ones.

use rusqlite::{OptionalExtension, params};
use serde_json::Value;

use crate::error::Result;
use crate::journal::{Journal, json_column};
use crate::journal_file::Durability;

/// A cache entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Cached {
    /// What was stored.
    pub value: Value,
    /// An uninterrupted run would not have had this entry yet: count a miss.
    pub replayed: bool,
}

impl Journal {
    /// The entry under `key`.
    pub fn cached(&self, key: &str) -> Result<Option<Cached>> {
        let found = self.file.read("read the cache", |connection| {
            connection
                .query_row(
                    "SELECT value, superseded FROM cache WHERE key = ?1",
                    [key],
                    |row| {
                        Ok(Cached {
                            value: json_column(row, 0)?,
                            replayed: row.get(1)?,
                        })
                    },
                )
                .optional()
        })?;
        match found {
            Some(entry) if entry.replayed && self.file.need_writer("").is_ok() => {
                self.cache(key, &entry.value)?;
                Ok(Some(entry))
            }
            other => Ok(other),
        }
    }

    /// Stores `value` under `key`, over what was there.
    pub fn cache(&self, key: &str, value: &Value) -> Result<()> {
        self.file.need_writer("filling its cache")?;
        self.file
            .write("fill the cache", Durability::Normal, |transaction, seq| {
                *seq += 1;
                transaction.execute(
                    "INSERT OR REPLACE INTO cache (key, seq, value) VALUES (?1, ?2, ?3)",
                    params![key, *seq, value.to_string()],
                )?;
                Ok(())
            })
    }
}
