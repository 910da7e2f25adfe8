//! A step that does not fit is done in smaller parts, and says so when nothing smaller is left.

use crate::core::recipe;
use data::{Batch, Family, Piece};
use model::Cognate;
use tensor::Grads;
use tensor::storage::{OutOfMemory, peak_bytes, reset_peak};
use train::Error;
use train::step::{Halved, MicroBatch, TrainDepth, forward_backward};

fn pieces(count: usize, len: u32) -> Batch {
    let piece = |i: u32| Piece {
        tokens: (0..=len).map(|t| (i * 31 + t * 7) % 400).collect(),
        loss: vec![1.0; len as usize],
        start: 0,
        dataset: 0,
        family: Family::Maths,
    };
    Batch {
        pieces: (0..count as u32).map(piece).collect(),
    }
}

#[test]
fn a_micro_batch_is_halved_until_it_fits_and_stays_so() {
    let all = pieces(8, 10);
    let mut micro_batch = MicroBatch::default();
    let mut tried = Vec::new();
    let mut pass = |tokens: usize| {
        tried.push(tokens);
        if tokens == 0 || tokens > 25 {
            std::panic::resume_unwind(Box::new(OutOfMemory { bytes: 7 }));
        }
        tokens
    };
    let (got, halved) = micro_batch.run(&all, 0, "k", &mut pass).unwrap();
    assert_eq!((got, halved), (20, Some(Halved { from: 80, to: 20 })));
    let (got, halved) = micro_batch.run(&all, 0, "k", &mut pass).unwrap();
    assert_eq!((got, halved), (20, None));
    assert_eq!(micro_batch.run(&all, 15, "k", &mut pass).unwrap().0, 15);
    assert_eq!(tried, [0, 40, 20, 20, 15]);

    let none = MicroBatch::default().run::<()>(&all, 0, "cognate.sequence", |_| {
        std::panic::resume_unwind(Box::new(OutOfMemory { bytes: 7 }))
    });
    let said = none.unwrap_err();
    assert!(
        matches!(
            said,
            Error::Memory {
                rows: 10,
                bytes: 7,
                ..
            }
        ),
        "{said}"
    );
    assert!(
        said.to_string().contains("lower `cognate.sequence`"),
        "{said}"
    );

    let other = std::panic::catch_unwind(|| {
        MicroBatch::default().run::<()>(&pieces(2, 3), 0, "k", |_| {
            std::panic::resume_unwind(Box::new("mine"))
        })
    });
    assert_eq!(
        other.unwrap_err().downcast_ref(),
        Some(&"mine"),
        "a panic of another kind goes on"
    );
}

const CHILD: &str = "TRAIN_TEST_LIMITED";

/// The system itself refuses: a process whose address space is limited (RLIMIT_AS) computes the same gradients
/// in smaller parts.
#[test]
fn a_limited_process_computes_the_step_in_smaller_parts() {
    let model = Cognate::new(recipe().model.config(), 3);
    let all = pieces(64, 96);
    let step = |micro_batch: &mut MicroBatch| {
        let mut grads = Grads::new(model.params.len());
        let done = micro_batch.run(&all, 0, "cognate.sequence", |tokens| {
            grads.clear();
            forward_backward(&model, &all, TrainDepth::Same(2), tokens, &mut grads).nats
        });
        done.map(|(nats, halved)| (nats, halved, grads))
    };
    if let Some(full) = std::env::var_os(CHILD) {
        let full: u64 = full.to_str().unwrap().parse().unwrap();
        // Threads and their arenas exist before the limit is set.
        let little = pieces(2, 96);
        let mut grads = Grads::new(model.params.len());
        forward_backward(&model, &little, TrainDepth::Same(2), 0, &mut grads);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let kib = status
            .lines()
            .find_map(|l| l.strip_prefix("VmSize:"))
            .unwrap();
        let size: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
        let limit = format!("--as={}", size * 1024 + full * 6 / 10);
        let pid = std::process::id().to_string();
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(set.unwrap().success());
        let allowed = train::memory::limit();
        assert_eq!(allowed.from, "address space limit");
        assert_eq!(allowed.bytes, full * 6 / 10);
        let (nats, halved, _) = step(&mut MicroBatch::default()).unwrap();
        println!("limited: {nats} {}", halved.unwrap().to);
        return;
    }
    if std::process::Command::new("prlimit")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("skipped: no `prlimit` here to limit a process with");
        return;
    }
    reset_peak();
    let (nats, halved, _) = step(&mut MicroBatch::default()).unwrap();
    assert_eq!(halved, None);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "out_of_memory::a_limited_process_computes_the_step_in_smaller_parts",
            "--nocapture",
        ])
        .env(CHILD, peak_bytes().to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        child.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    let line = text
        .lines()
        .find_map(|l| l.split_once("limited: "))
        .unwrap()
        .1;
    let (limited, rows) = line.split_once(' ').unwrap();
    let limited: f64 = limited.parse().unwrap();
    assert!((limited - nats).abs() < 1e-5 * nats, "{limited} and {nats}");
    let rows: usize = rows.parse().unwrap();
    assert!((96..64 * 96).contains(&rows), "{rows} rows at once");
}
