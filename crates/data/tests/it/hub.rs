//! Fetching from a hub that misbehaves, on this machine: what lands in the cache is whole or not there.

mod python;
mod server;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data::hub::{Event, Fetched, Settings, World, ask, fetch};
use data::{Places, load};

use server::{Fault, Loopback};

/// Lines of GSM8K's form, as a file of the hub.
fn lines(n: usize) -> Vec<u8> {
    let line = |i: usize| {
        let answer = format!("It is {}.\n#### {}", i + 1, i + 1);
        serde_json::json!({ "question": format!("How much is {i} and 1?"), "answer": answer })
            .to_string()
            + "\n"
    };
    (0..n).map(line).collect::<String>().into_bytes()
}

/// A hub with the two files of GSM8K, the first kept apart (sha256), the second in git (sha1).
fn gsm8k() -> Loopback {
    let files = BTreeMap::from([
        (
            "main/train-00000-of-00001.jsonl".to_string(),
            (lines(3000), true),
        ),
        (
            "main/test-00000-of-00001.jsonl".to_string(),
            (lines(40), false),
        ),
        ("README.md".to_string(), (b"# data".to_vec(), false)),
        (
            "socratic/train-00000-of-00001.jsonl".to_string(),
            (lines(5), true),
        ),
    ]);
    let row = data::dataset("gsm8k").unwrap().hub[0];
    Loopback::start(row.repository, row.revision, files)
}

const TRAIN: &str = "main/train-00000-of-00001.jsonl";

struct Scene {
    cache: tempfile::TempDir,
    pauses: RefCell<Vec<Duration>>,
    retries: RefCell<Vec<String>>,
    begun: RefCell<Vec<(String, u64)>>,
    free: u64,
}

impl Scene {
    fn new() -> Self {
        Self {
            cache: tempfile::tempdir().unwrap(),
            pauses: RefCell::default(),
            retries: RefCell::default(),
            begun: RefCell::default(),
            free: u64::MAX,
        }
    }

    fn settings(&self, hubs: &[&Loopback]) -> Settings {
        Settings {
            endpoints: hubs.iter().map(|hub| hub.address()).collect(),
            cache: self.cache.path().join("hub"),
            tries: 4,
            pause: Duration::from_secs(1),
            stall: Duration::from_secs(20),
            seed: 7,
            ..Settings::default()
        }
    }

    fn with<T>(&self, act: impl FnOnce(&World) -> T) -> T {
        let world = World {
            sleep: &|pause| self.pauses.borrow_mut().push(pause),
            free: &|_| self.free,
            tell: &|event| match event {
                Event::Retry { problem, .. } => {
                    self.retries.borrow_mut().push(problem.to_string());
                }
                Event::Begin { file, have, .. } => {
                    self.begun.borrow_mut().push((file.to_string(), have));
                }
                _ => {}
            },
        };
        act(&world)
    }

    fn fetch(&self, settings: &Settings) -> Result<Vec<Fetched>, data::Error> {
        self.with(|world| fetch("gsm8k", settings, world))
    }

    fn places(&self) -> Places {
        Places {
            root: None,
            cache: Some(self.cache.path().join("hub")),
        }
    }

    fn refused(&self, settings: &Settings, parts: &[&str]) {
        let said = self
            .fetch(settings)
            .expect_err("must be refused")
            .to_string();
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }

    /// Asserts that the cache holds the two files, whole, and that they are read from there.
    #[track_caller]
    fn holds_all(&self) {
        let places = Places {
            root: None,
            cache: Some(self.cache.path().join("hub")),
        };
        let loaded = load("gsm8k", &places).unwrap();
        assert_eq!((loaded.train.len(), loaded.items.len()), (3000, 40));
        assert_eq!(loaded.cached, ["train", "test"]);
        assert!(
            left_over(self.cache.path()).is_empty(),
            "{:?}",
            left_over(self.cache.path())
        );
    }
}

/// Files that are not whole yet.
fn left_over(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(left_over(&path));
        } else if [".incomplete", ".new"]
            .iter()
            .any(|end| path.display().to_string().ends_with(end))
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_data_set_lands_in_the_layout_of_huggingface_hub() {
    let (hub, scene) = (gsm8k(), Scene::new());
    let settings = scene.settings(&[&hub]);
    let asked = scene
        .with(|world| ask("gsm8k", &settings, world))
        .unwrap()
        .remove(0);
    assert!(
        !scene.cache.path().join("hub").exists(),
        "asking writes nothing"
    );
    let fetched = scene.fetch(&settings).unwrap().remove(0);
    assert_eq!(fetched.files, ["main/test-00000-of-00001.jsonl", TRAIN]);
    assert_eq!(
        (fetched.missing, asked.missing),
        (fetched.bytes, fetched.bytes)
    );
    scene.holds_all();
    let repository = scene.cache.path().join("hub/datasets--openai--gsm8k");
    let train = repository
        .join("snapshots")
        .join(&fetched.commit)
        .join(TRAIN);
    let blob = fs::canonicalize(&train).unwrap();
    assert_eq!(
        blob.parent().unwrap(),
        fs::canonicalize(repository.join("blobs")).unwrap()
    );
    let name = blob.file_name().unwrap().to_str().unwrap().to_string();
    assert_eq!((name.len(), fs::read(&train).unwrap()), (64, lines(3000)));
    #[cfg(unix)]
    assert!(fs::read_link(&train).unwrap().starts_with("../../../blobs"));
    // A second time nothing is brought.
    let before = hub.requests().len();
    assert_eq!(scene.fetch(&settings).unwrap()[0].missing, 0);
    assert_eq!(
        hub.requests().len(),
        before + 1,
        "the listing alone is asked for"
    );
}

#[test]
fn a_branch_is_pinned_by_a_reference() {
    let files = BTreeMap::from([("train.jsonl".to_string(), (b"{}".to_vec(), true))]);
    let hub = Loopback::start("ChilleD/StrategyQA", "main", files);
    let scene = Scene::new();
    let settings = scene.settings(&[&hub]);
    let fetched = scene
        .with(|world| fetch("strategyqa", &settings, world))
        .unwrap()
        .remove(0);
    let repository = settings.cache.join("datasets--ChilleD--StrategyQA");
    assert_eq!(
        fs::read_to_string(repository.join("refs/main")).unwrap(),
        fetched.commit
    );
    let found = data::hub::cache::snapshot(&settings.cache, "ChilleD/StrategyQA", "main");
    assert_eq!(found.unwrap(), fetched.folder);
}

#[test]
fn a_connection_that_drops_again_and_again_is_gone_on_with() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::Drop(50_000); 4]);
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
    let ranges = hub.ranges(TRAIN);
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert!(
        ranges.windows(2).all(|pair| pair[0] < pair[1]),
        "each goes on from the last: {ranges:?}"
    );
    assert!(ranges[4] >= 4 * 40_000, "{ranges:?}");
}

#[test]
fn what_broke_off_is_gone_on_with_by_the_next_call() {
    let (hub, scene) = (gsm8k(), Scene::new());
    let mut faults = vec![Fault::Drop(100_000)];
    faults.extend([Fault::Status(503, None); 9]);
    hub.misbehave(TRAIN, &faults);
    scene.refused(
        &scene.settings(&[&hub]),
        &["openai/gsm8k", "503", "try again later", "--mirror"],
    );
    assert_eq!(left_over(scene.cache.path()).len(), 1);
    hub.behave();
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    assert!(load("gsm8k", &scene.places()).is_ok());
    scene.holds_all();
    let (file, have) = scene.begun.borrow().last().unwrap().clone();
    assert!(file == TRAIN && have >= 60_000, "{file} {have}");
    assert!(*hub.ranges(TRAIN).last().unwrap() >= 60_000);
}

#[test]
fn a_fetch_that_brought_some_of_the_files_is_not_taken_for_the_set() {
    let (hub, scene) = (gsm8k(), Scene::new());
    // The test split comes first and lands; of the training split nothing comes.
    hub.misbehave(TRAIN, &[Fault::Status(503, None); 9]);
    scene.refused(&scene.settings(&[&hub]), &["503"]);
    let said = load("gsm8k", &scene.places()).unwrap_err().to_string();
    assert!(
        said.contains("a fetch of openai/gsm8k has not come to its end"),
        "{said}"
    );
    assert!(said.contains("forge data fetch gsm8k"), "{said}");
    let offline = Settings {
        offline: true,
        ..scene.settings(&[&hub])
    };
    scene.refused(&offline, &["has not come to its end"]);
    // What lies under the data root is read all the same, and the rest is named.
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("gsm8k");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("train.jsonl"), lines(3)).unwrap();
    let both = Places {
        root: Some(root.path().to_path_buf()),
        ..scene.places()
    };
    let loaded = load("gsm8k", &both).unwrap();
    assert_eq!((loaded.train.len(), loaded.texts.len()), (3, 0));
    assert!(
        loaded.remark().contains("forge data fetch gsm8k"),
        "{}",
        loaded.remark()
    );
}

#[test]
fn a_password_in_an_address_is_never_said() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::Status(503, None); 9]);
    let mut settings = scene.settings(&[&hub]);
    settings.endpoints = vec![hub.address().replace("://", "://someone:secret@")];
    let said = scene.fetch(&settings).unwrap_err().to_string();
    assert!(said.contains("503") || said.contains("127.0.0.1"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let retries = scene.retries.borrow().join(" ");
    assert!(!retries.contains("secret"), "{retries}");
    for (address, shown) in [
        ("https://me:pass@host/a@b", "https://host/a@b"),
        ("https://host/a@b", "https://host/a@b"),
        ("me@host", "host"),
    ] {
        assert_eq!(data::hub::shown(address), shown);
    }
}

#[test]
fn a_truncated_body_is_noticed_with_and_without_its_length() {
    for fault in [Fault::Truncate(50_000), Fault::Unannounced(50_000)] {
        let (hub, scene) = (gsm8k(), Scene::new());
        hub.misbehave(TRAIN, &[fault, fault]);
        scene.fetch(&scene.settings(&[&hub])).unwrap();
        scene.holds_all();
    }
}

#[test]
fn wrong_bytes_never_land() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::WrongBytes; 20]);
    scene.refused(&scene.settings(&[&hub]), &[TRAIN, "hash", "was listed"]);
    let blobs = scene.cache.path().join("hub/datasets--openai--gsm8k/blobs");
    let whole = fs::read_dir(&blobs)
        .unwrap()
        .flatten()
        .filter(|e| !e.path().display().to_string().ends_with("incomplete"));
    assert_eq!(whole.count(), 1, "the other file alone");
    // One bad answer among good ones is thrown away and fetched again from its beginning.
    hub.misbehave(TRAIN, &[Fault::Drop(80_000), Fault::WrongBytes]);
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
    // The same for a file of git's, and for a server that begins elsewhere than it was asked to.
    let scene = Scene::new();
    hub.misbehave("main/test-00000-of-00001.jsonl", &[Fault::WrongBytes]);
    hub.misbehave(TRAIN, &[Fault::Drop(80_000), Fault::OtherRange]);
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::Drop(80_000), Fault::NoRange]);
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
}

#[test]
fn a_server_without_ranges_that_keeps_dropping_is_given_up() {
    let (hub, scene) = (gsm8k(), Scene::new());
    let mut faults = vec![Fault::Drop(80_000)];
    faults.extend([Fault::DropAnew(20_000), Fault::DropAnew(80_000)].repeat(10));
    hub.misbehave(TRAIN, &faults);
    scene.refused(&scene.settings(&[&hub]), &[TRAIN, "broke off"]);
    assert_eq!(hub.ranges(TRAIN).len(), 5, "four tries brought nothing new");
}

#[test]
fn a_page_in_place_of_the_file_costs_nothing_of_what_is_there() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(
        TRAIN,
        &[Fault::Drop(80_000), Fault::Body("<html>log in</html>")],
    );
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
    let ranges = hub.ranges(TRAIN);
    assert!(ranges[2] > 0 && ranges[2] == ranges[1], "{ranges:?}");
}

#[test]
fn a_snapshot_of_files_without_blobs_lacks_nothing() {
    let (hub, mut scene) = (gsm8k(), Scene::new());
    let settings = scene.settings(&[&hub]);
    let folder = scene.fetch(&settings).unwrap().remove(0).folder;
    for name in [TRAIN, "main/test-00000-of-00001.jsonl"] {
        let path = folder.join(name);
        let (blob, bytes) = (fs::canonicalize(&path).unwrap(), fs::read(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::remove_file(blob).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    scene.free = 0;
    assert_eq!(scene.fetch(&settings).unwrap()[0].missing, 0);
    let asked = scene.with(|world| ask("gsm8k", &settings, world)).unwrap();
    assert_eq!(asked[0].missing, 0);
}

#[test]
fn busy_servers_are_given_time() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(
        "listing",
        &[
            Fault::Status(429, Some(17)),
            Fault::Status(503, None),
            Fault::Status(500, None),
        ],
    );
    scene.fetch(&scene.settings(&[&hub])).unwrap();
    scene.holds_all();
    let pauses = scene.pauses.borrow().clone();
    assert_eq!(
        pauses[0],
        Duration::from_secs(17),
        "as long as the server asked for"
    );
    // Twice a second, then four times, each cut by up to a half.
    let within = |pause: Duration, most: f64| (most / 2.0..=most).contains(&pause.as_secs_f64());
    assert!(
        within(pauses[1], 2.0) && within(pauses[2], 4.0),
        "{pauses:?}"
    );
    let again = Scene::new();
    hub.misbehave(
        "listing",
        &[
            Fault::Status(429, Some(100_000)),
            Fault::Status(503, None),
            Fault::Status(500, None),
        ],
    );
    again.fetch(&again.settings(&[&hub])).unwrap();
    assert_eq!(
        again.pauses.borrow()[0],
        Duration::from_secs(60),
        "never longer than the longest pause"
    );
    assert_eq!(
        again.pauses.borrow()[1..],
        pauses[1..],
        "the jitter is counted"
    );
}

#[test]
fn a_silent_connection_counts_as_lost() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::Stall(60_000)]);
    hub.misbehave("listing", &[Fault::Stall(0)]);
    let settings = Settings {
        stall: Duration::from_millis(700),
        tries: 20,
        ..scene.settings(&[&hub])
    };
    scene.fetch(&settings).unwrap();
    scene.holds_all();
    assert!(hub.ranges(TRAIN)[1] > 0, "{:?}", hub.ranges(TRAIN));
}

#[test]
fn mirrors_are_asked_in_turn_and_never_see_the_token() {
    let (hub, mirror, scene) = (gsm8k(), gsm8k(), Scene::new());
    hub.misbehave("listing", &[Fault::Status(404, None); 3]);
    hub.misbehave(TRAIN, &[Fault::Status(503, None); 30]);
    hub.misbehave(
        "main/test-00000-of-00001.jsonl",
        &[Fault::Status(404, None); 3],
    );
    let settings = Settings {
        token: Some("secret".into()),
        ..scene.settings(&[&hub, &mirror])
    };
    scene.fetch(&settings).unwrap();
    scene.holds_all();
    assert!(hub.requests().iter().all(|r| r.contains("Bearer secret")));
    assert!(
        mirror
            .requests()
            .iter()
            .all(|r| !r.to_lowercase().contains("authorization"))
    );
    assert!(
        scene.pauses.borrow().is_empty(),
        "a mirror is asked at once"
    );
    assert_eq!(scene.retries.borrow().len(), 1);
}

#[test]
fn the_token_does_not_follow_to_where_files_are_kept() {
    let (hub, store, scene) = (gsm8k(), gsm8k(), Scene::new());
    hub.misbehave(
        TRAIN,
        &[Fault::Drop(50_000), Fault::Elsewhere(store.port())],
    );
    let settings = Settings {
        token: Some("secret".into()),
        ..scene.settings(&[&hub])
    };
    scene.fetch(&settings).unwrap();
    scene.holds_all();
    let asked = store.requests();
    assert!(
        asked.len() == 1 && !asked[0].to_lowercase().contains("authorization"),
        "{asked:?}"
    );
    assert_eq!(store.ranges(TRAIN), [50_000], "the range follows");
}

#[test]
fn a_refusal_says_what_to_do_and_is_not_tried_again() {
    let (hub, scene) = (gsm8k(), Scene::new());
    for status in [401, 403, 404] {
        hub.misbehave("listing", &[Fault::Status(status, None)]);
        scene.refused(
            &scene.settings(&[&hub]),
            &["openai/gsm8k", &status.to_string(), "HF_TOKEN"],
        );
    }
    assert_eq!(hub.requests().len(), 3);
    let wrong = Settings {
        endpoints: vec!["hub.example".into()],
        ..scene.settings(&[])
    };
    scene.refused(&wrong, &["hub.example", "https://HOST"]);
}

#[test]
fn a_listing_that_cannot_be_right_is_refused() {
    let (hub, scene) = (gsm8k(), Scene::new());
    for (body, part) in [
        ("<html>", "not JSON"),
        (r#"{"sha": "1", "siblings": []}"#, "without a commit"),
        (
            r#"{"sha": "0000000000000000000000000000000000000000", "siblings": []}"#,
            "was asked for",
        ),
    ] {
        hub.misbehave("listing", &[Fault::Body(body); 9]);
        scene.refused(&scene.settings(&[&hub]), &[part]);
    }
    let commit = data::dataset("gsm8k").unwrap().hub[0].revision;
    let with = |file: &str| {
        format!(r#"{{"sha": "{commit}", "siblings": [{file}]}}"#).leak() as &'static str
    };
    for (file, parts) in [
        (
            r#"{"rfilename": "main/train.parquet"}"#,
            ["size and hash", "main/train.parquet"],
        ),
        (
            r#"{"rfilename": "README.md"}"#,
            ["none of its 1 files", "main/"],
        ),
        (
            r#"{"rfilename": "main/../../../train.parquet", "size": 1, "blobId": "0000000000000000000000000000000000000000"}"#,
            ["would leave", "../"],
        ),
    ] {
        hub.misbehave("listing", &[Fault::Body(with(file))]);
        scene.refused(&scene.settings(&[&hub]), &parts);
    }
    assert!(!scene.cache.path().join("hub").exists());
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let (hub, mut scene) = (gsm8k(), Scene::new());
    scene.free = 1 << 20;
    scene.refused(
        &scene.settings(&[&hub]),
        &["hub", "1048576 are free", "HF_HOME"],
    );
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let (hub, scene) = (gsm8k(), Scene::new());
    let offline = Settings {
        offline: true,
        ..scene.settings(&[&hub])
    };
    scene.refused(
        &offline,
        &["openai/gsm8k", "not in the cache", "HF_HUB_OFFLINE"],
    );
    let asked = || scene.with(|world| ask("gsm8k", &offline, world));
    assert!(asked().unwrap_err().to_string().contains("go online"));
    let fetched = scene.fetch(&scene.settings(&[&hub])).unwrap();
    let found = scene.fetch(&offline).unwrap();
    assert_eq!(
        (&found[0].files, found[0].bytes),
        (&fetched[0].files, fetched[0].bytes)
    );
    assert_eq!(found[0].commit, fetched[0].commit);
    assert_eq!(asked().unwrap(), found);
}

#[test]
fn what_is_not_on_the_hub_says_where_it_is() {
    let (hub, scene) = (gsm8k(), Scene::new());
    let settings = scene.settings(&[&hub]);
    let said = |id: &str| {
        scene
            .with(|world| fetch(id, &settings, world))
            .unwrap_err()
            .to_string()
    };
    assert!(said("prose").contains("prose_openstax"));
    assert!(said("builtin_maths").contains("needs no files"));
    assert!(said("gsmk8").contains("did you mean `gsm8k`"));
    assert!(hub.requests().is_empty());
}

#[test]
fn two_fetches_at_once_do_not_spoil_each_other() {
    let (hub, scene) = (gsm8k(), Scene::new());
    hub.misbehave(TRAIN, &[Fault::Drop(90_000), Fault::Drop(90_000)]);
    let settings = scene.settings(&[&hub]);
    let one = || {
        let quiet = World {
            sleep: &|_| {},
            free: &|_| u64::MAX,
            tell: &|_| {},
        };
        fetch("gsm8k", &settings, &quiet).map(|fetched| fetched[0].bytes)
    };
    let both = std::thread::scope(|scope| {
        let threads = [scope.spawn(one), scope.spawn(one)];
        threads.map(|thread| thread.join().unwrap().unwrap())
    });
    assert_eq!(both[0], both[1]);
    scene.holds_all();
    assert_eq!(hub.ranges(TRAIN).len(), 3, "one of the two fetched it");
}
