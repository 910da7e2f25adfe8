//! A run that is killed and resumed ends in the bytes of one that was left alone, at any number of threads.

use crate::process::{Root, assert_same, finals, undisturbed, wait};

/// Kills fall when so many checkpoints of these phases have appeared.
const MOMENTS: [(&str, u32); 3] = [("cognate", 8), ("quietstar", 6), ("bitnet", 9)];

/// A checkpoint after every unit of work.
const OFTEN: [&str; 4] = [
    "--set",
    "checkpoint.units=1",
    "--set",
    "checkpoint.seconds=0.0",
];

fn killed_three_times(threads: usize) {
    let whole = finals(&undisturbed(threads).join("runs/whole"));
    let root = Root::new();
    let n = threads.to_string();
    let mut more = OFTEN.to_vec();
    more.extend(["--threads", &n]);
    let mut child = root.start("cut", &more);
    for (phase, count) in MOMENTS {
        let first = root.wait_for_phase("cut", phase, &mut child);
        root.wait_for_checkpoint("cut", first + count, &mut child);
        child.kill().unwrap();
        let died = wait(child);
        assert_eq!(
            died.code, None,
            "it ended before it was killed: {}",
            died.err
        );
        let status = root.forge(&["status", "cut"]).ended(0);
        assert!(status.out.contains("killed"), "{}", status.out);
        child = root.resume_in_background("cut");
    }
    let last = wait(child).ended(0);
    assert!(
        last.err.contains("going on from checkpoint"),
        "{}",
        last.err
    );
    assert_same(&whole, &root.finals("cut"));
    let state = root.forge(&["runs", "--json"]).ended(0).json();
    assert_eq!(state[0]["state"], "done");
    assert_eq!(state[0]["attempt"], 4);
}

#[test]
fn killed_at_three_moments_on_one_thread_it_ends_in_the_same_bytes() {
    killed_three_times(1);
}

#[test]
fn killed_at_three_moments_on_two_threads_it_ends_in_the_same_bytes() {
    killed_three_times(2);
}

#[test]
fn one_thread_and_two_give_the_same_bytes() {
    let [one, two] = [1, 2].map(|n| finals(&undisturbed(n).join("runs/whole")));
    assert_same(&one, &two);
}

#[test]
fn another_seed_gives_other_bytes() {
    let root = Root::new();
    root.run("other", &["--set", "seed=7", "--until", "cognate"])
        .ended(0);
    let whole = finals(&undisturbed(1).join("runs/whole"));
    for (name, bytes) in root.finals("other") {
        assert_ne!(whole[&name], bytes, "{name} does not depend on the seed");
    }
}
