//! Packing folders of text that need not fit into the memory.

use data::{Duplicates, Packed, Split, Tokenizer, load_folder, pack_folder};
use std::fs;
use std::path::Path;

/// Two files of records, every tenth of which says what an earlier one said.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, begin) in [("a.jsonl", 0), ("b.jsonl", 600)] {
        let line = |i: u64| {
            let said = if i % 10 == 9 { i - 9 } else { i };
            let word = |j| format!("w{}", data::random::below(900, said, "text", 0, j));
            let words: Vec<String> = (0..40).map(word).collect();
            serde_json::json!({ "text": words.join(" ") }).to_string() + "\n"
        };
        let lines: String = (begin..begin + 600).map(line).collect();
        fs::write(dir.path().join(file), lines).unwrap();
    }
    dir
}

fn tokenizer(dir: &Path) -> Tokenizer {
    let loaded = load_folder(dir).unwrap();
    Tokenizer::train(loaded.train.iter().map(|d| d.text.as_str()), 400).unwrap()
}

fn packed(dir: &Path, out: &Path, least: Option<f64>) -> Packed {
    let mut duplicates = least.map(Duplicates::new);
    pack_folder(dir, (out, "mine"), &tokenizer(dir), duplicates.as_mut()).unwrap()
}

#[test]
fn a_folder_becomes_the_shards_of_its_splits() {
    let (dir, out) = (folder(), tempfile::tempdir().unwrap());
    let all = packed(dir.path(), out.path(), None);
    let loaded = load_folder(dir.path()).unwrap();
    assert_eq!(all.shards.len(), 4);
    assert_eq!(all.shards[0].documents(), loaded.train.len());
    let held_out: usize = all.shards[1..].iter().map(|shard| shard.documents()).sum();
    assert_eq!(held_out, loaded.texts.len());
    let tokenizer = tokenizer(dir.path());
    for (i, document) in loaded.train.iter().enumerate() {
        let tokens = all.shards[0].tokens(i);
        assert_eq!(tokenizer.decode(&tokens), document.text.clone() + "<|end|>");
    }
    for (shard, split) in all.shards.iter().zip(Split::ALL) {
        assert_eq!((shard.dataset(), shard.manifest().split), ("mine", split));
    }
    assert!(out.path().join("mine.held_out.json").is_file());
    let bytes = loaded
        .train
        .iter()
        .chain(&loaded.texts)
        .map(|d| d.text.len());
    assert_eq!(all.text, bytes.sum::<usize>() as u64);
    assert_eq!(all.left_out.exact, None);
}

#[test]
fn what_repeats_is_left_out_counted_in_the_manifest_and_the_same_at_any_number_of_threads() {
    let (dir, one, three) = (
        folder(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let pool = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let packed = |n, out: &Path| pool(n).install(|| packed(dir.path(), out, Some(0.8)));
    let (a, b) = (packed(1, one.path()), packed(3, three.path()));
    assert_eq!((a.left_out.exact, a.left_out.near), (Some(120), Some(0)));
    let documents: usize = a.shards.iter().map(|shard| shard.documents()).sum();
    assert_eq!(documents, 1200 - 120);
    for (a, b) in a.shards.iter().zip(&b.shards) {
        assert_eq!(a.manifest(), b.manifest());
        assert_eq!(a.manifest().left_out.exact, Some(120));
        a.verify().unwrap();
    }
}

#[test]
fn a_bad_file_ends_the_packing_and_leaves_no_manifest() {
    let (dir, out) = (folder(), tempfile::tempdir().unwrap());
    let tokenizer = tokenizer(dir.path());
    fs::write(dir.path().join("c.jsonl"), "{\"text\": 3}\n").unwrap();
    let error = pack_folder(dir.path(), (out.path(), "mine"), &tokenizer, None);
    let said = error.err().unwrap().to_string();
    assert!(
        said.contains("c.jsonl line 1") && said.contains("`text`"),
        "{said}"
    );
    let manifests = fs::read_dir(out.path()).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|ending| ending == "json")
    });
    assert_eq!(manifests.count(), 0);
}
