//! Faults of usage, and which exit code a fault ends in.
//!
//! 0 done, 1 failed, 2 wrong usage or configuration, 3 stopped by a detector, 130 interrupted.

use anyhow::Result;

/// What was typed is wrong: usage, not failure.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Usage {}

/// Ends in exit code 2 with this message.
pub(crate) fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(Usage(message.into()).into())
}

/// `; did you mean X?` when one of `known` is near to `found`, else nothing.
pub(crate) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|k| (strsim::damerau_levenshtein(found, k), k))
        .min()
        .filter(|(d, k)| *d <= 2.max(k.len() / 3))
        .map_or(String::new(), |(_, k)| format!("; did you mean `{k}`?"))
}

/// The exit code of a fault.
pub(crate) fn exit_code(fault: &anyhow::Error) -> u8 {
    let data_usage = |e: &data::Error| {
        matches!(
            e,
            data::Error::Unknown { .. }
                | data::Error::Missing { .. }
                | data::Error::MissingSeveral { .. }
        )
    };
    let store_usage = |e: &store::Error| {
        use store::Error::{Action, Name, NoRun, RunExists, Settled};
        matches!(
            e,
            Action { .. } | Name { .. } | NoRun { .. } | RunExists { .. } | Settled { .. }
        )
    };
    let merge_usage = |e: &merge::Error| {
        use merge::Error::{File, Read, Write};
        !matches!(e, File { .. } | Read { .. } | Write { .. })
    };
    let wrong = fault.is::<Usage>()
        || fault.downcast_ref().is_some_and(merge_usage)
        || fault.downcast_ref().is_some_and(store_usage)
        || fault.downcast_ref().is_some_and(data_usage);
    match fault.downcast_ref::<train::Error>() {
        _ if wrong => 2,
        Some(train::Error::Recipe { .. } | train::Error::Model(_)) => 2,
        Some(train::Error::Data(e)) if data_usage(e) => 2,
        Some(train::Error::Store(e)) if store_usage(e) => 2,
        Some(train::Error::Stopped { .. }) => 3,
        _ => 1,
    }
}
