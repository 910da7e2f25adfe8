//! Trying again: which failures are worth it, where and when.
//!
//! A request goes to the endpoints in turn. An endpoint that refuses for good (not found, no access) is asked no more; a
//! passing failure moves on to the next one, and once all have failed there is a pause, doubled each round, cut by a
//! counted random share (equal jitter), or as long as a server asked for. A try that brought bytes begins the count anew,
//! since the next one goes on from them; one that brought wrong bytes counts for ever.

use std::time::Duration;

use super::{Event, Settings, World};
use crate::error::Error;
use crate::random::uniform;

/// Why a try failed.
pub(super) enum Fault {
    /// May pass.
    Passing {
        /// What happened, at which address.
        problem: String,
        /// How long the server asked to be left alone.
        wait: Option<Duration>,
        /// What the try left behind.
        left: Left,
    },
    /// This endpoint will not give it.
    Refused {
        /// What happened, at which address.
        problem: String,
    },
    /// Not the endpoint's fault: the disk.
    Here(Error),
}

/// What a failed try left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing.
    Nothing,
    /// More of the file than before.
    Bytes,
    /// What turned out to be wrong, and was thrown away.
    Wrong,
}

impl Fault {
    /// An answer that cannot be right.
    pub(super) fn wrong(problem: String) -> Self {
        Self::Passing {
            problem,
            wait: None,
            left: Left::Wrong,
        }
    }
}

/// Calls `once` with an endpoint, and whether that is the first of the settings, until it succeeds or that is given up.
pub(super) fn persist<T>(
    settings: &Settings,
    world: &World,
    what: &str,
    mut once: impl FnMut(&str, bool) -> Result<T, Fault>,
) -> Result<T, Error> {
    let mut open: Vec<usize> = (0..settings.endpoints.len()).collect();
    let (mut at, mut idle, mut wrong, mut tries) = (0, 0, 0, 0);
    let mut problems: Vec<String> = Vec::new();
    loop {
        let Some(&endpoint) = open.get(at) else {
            return Err(given_up(what, &problems, true));
        };
        let address = settings.endpoints[endpoint].trim_end_matches('/');
        tries += 1;
        let (problem, wait, left) = match once(address, endpoint == 0) {
            Ok(done) => return Ok(done),
            Err(Fault::Here(error)) => return Err(error),
            Err(Fault::Refused { problem }) => {
                problems.push(problem);
                open.remove(at);
                at = if at < open.len() { at } else { 0 };
                continue;
            }
            Err(Fault::Passing {
                problem,
                wait,
                left,
            }) => (problem, wait, left),
        };
        match left {
            Left::Nothing => idle += 1,
            Left::Bytes => idle = 0,
            Left::Wrong => wrong += 1,
        }
        let most = settings.tries.max(1) as usize * open.len();
        if idle + wrong >= most {
            problems.push(format!("after {tries} tries, the last of which: {problem}"));
            return Err(given_up(what, &problems, false));
        }
        at = (at + 1) % open.len();
        let round = (idle + wrong) / open.len();
        let pause = match (wait, at) {
            (Some(asked), _) => asked.max(backoff(settings, what, round, tries)),
            (None, 0) => backoff(settings, what, round, tries),
            (None, _) => Duration::ZERO,
        }
        .min(settings.longest_pause);
        (world.tell)(Event::Retry {
            problem: &problem,
            pause,
        });
        if !pause.is_zero() {
            (world.sleep)(pause);
        }
    }
}

/// `pause` times 2 to the `round`, cut down by up to a half.
fn backoff(settings: &Settings, what: &str, round: usize, tries: u64) -> Duration {
    let doubled = 2u32.saturating_pow(round.saturating_sub(1).min(16) as u32);
    let whole = settings
        .pause
        .saturating_mul(doubled)
        .min(settings.longest_pause);
    whole.mul_f64(0.5 + 0.5 * uniform(settings.seed, what, tries, 0))
}

fn given_up(what: &str, problems: &[String], refused: bool) -> Error {
    let remedy = match refused {
        true => {
            "check the name, accept the data set's terms on its page where it has some, and set HF_TOKEN to a token that \
             may read it"
        }
        false => {
            "try again later (what came is kept and gone on with), or name a mirror with --mirror or HF_ENDPOINT"
        }
    };
    Error::Hub {
        repository: what.to_string(),
        problem: problems.join("; "),
        remedy: remedy.into(),
    }
}
