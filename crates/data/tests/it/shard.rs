//! Packed shards on disk.

use std::path::{Path, PathBuf};

use data::{Document, Family, Shard, Split, Tokenizer, pack, pack_in_memory};

fn tokenizer() -> Tokenizer {
    Tokenizer::train(
        ["Question: 1 + 2?\nAnswer: 3", "Question: 4 + 5?\nAnswer: 9"].into_iter(),
        270,
    )
    .unwrap()
}

fn documents() -> Vec<Document> {
    let texts = [
        "Question: 1 + 2?\nAnswer: 3",
        "",
        "Question: é + 5?\nAnswer: 9 and so on",
    ];
    let document =
        |(i, text): (usize, &&str)| crate::document("sums", Family::Maths, &i.to_string(), text);
    let mut documents: Vec<Document> = texts.iter().enumerate().map(document).collect();
    let text = &documents[2].text;
    let answer = text.find(" 9").unwrap()..text.len();
    documents[2].loss = vec![answer];
    documents
}

fn packed(dir: &Path) -> Shard {
    pack(dir, "sums-train", &documents(), Split::Train, &tokenizer()).unwrap()
}

fn opened(path: &Path) -> String {
    Shard::open(path)
        .err()
        .expect("the shard must be refused")
        .to_string()
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn documents_come_back_from_disk_each_with_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, written) = (tokenizer(), packed(dir.path()));
    let shard = Shard::open(&dir.path().join("sums-train.bin")).unwrap();
    shard.verify().unwrap();
    assert_eq!(
        (shard.documents(), shard.dataset(), shard.family()),
        (3, "sums", Family::Maths)
    );
    for (i, document) in documents().iter().enumerate() {
        let tokens = shard.tokens(i);
        assert_eq!(tokens.last(), Some(&tokenizer.end_of_document()));
        assert_eq!(tokenizer.decode(&tokens[..tokens.len() - 1]), document.text);
        assert_eq!(tokens, written.tokens(i));
    }
    let total: usize = (0..3).map(|i| shard.length(i)).sum();
    assert_eq!(shard.tokens_total(), total as u64);
    assert_eq!(
        std::fs::metadata(dir.path().join("sums-train.bin"))
            .unwrap()
            .len(),
        2 * total as u64
    );
    assert_eq!(shard.manifest().tokenizer, tokenizer.hash());
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "no partial file is left: {names:?}");
}

#[test]
fn packing_the_same_documents_gives_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    packed(a.path());
    packed(b.path());
    // A second pack over the first replaces it.
    packed(b.path());
    for name in ["sums-train.bin", "sums-train.json"] {
        assert_eq!(
            std::fs::read(a.path().join(name)).unwrap(),
            std::fs::read(b.path().join(name)).unwrap()
        );
    }
    let held = pack_in_memory(&documents(), Split::Train, &tokenizer());
    assert_eq!(
        *held.manifest(),
        *Shard::open(&a.path().join("sums-train.json"))
            .unwrap()
            .manifest()
    );
    held.verify().unwrap();
    let mut other = documents();
    other[0].text.push('!');
    assert_ne!(
        pack_in_memory(&other, Split::Train, &tokenizer())
            .manifest()
            .source,
        held.manifest().source
    );
}

#[test]
fn loss_falls_on_the_tokens_of_the_given_bytes_and_on_the_end() {
    let tokenizer = tokenizer();
    let shard = pack_in_memory(&documents(), Split::Train, &tokenizer);
    assert!(shard.mask(0).iter().all(|&on| on));
    let (tokens, mask) = (shard.tokens(2), shard.mask(2));
    let on: Vec<u32> = tokens
        .iter()
        .zip(&mask)
        .filter(|(_, on)| **on)
        .map(|(t, _)| *t)
        .collect();
    assert_eq!(tokenizer.decode(&on), " 9 and so on<|end|>");
    assert_eq!(shard.mask_in(2, 1..4), mask[1..4]);
}

#[test]
fn large_vocabularies_take_four_bytes_a_token() {
    let mut writer =
        data::ShardWriter::in_memory(("x", Family::Language, Split::Train), "hash", 70_000);
    writer.push(&[69_999, 1, 0], &[], &["x"]).unwrap();
    let shard = writer.finish().unwrap();
    assert_eq!(
        (shard.manifest().width, shard.tokens(0)),
        (4, vec![69_999, 1, 0])
    );
}

#[test]
fn a_truncated_or_missing_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    packed(dir.path());
    let (bin, json) = (
        dir.path().join("sums-train.bin"),
        dir.path().join("sums-train.json"),
    );
    let whole = std::fs::read(&bin).unwrap();
    std::fs::write(&bin, &whole[..whole.len() - 1]).unwrap();
    let message = opened(&bin);
    assert!(
        message.contains("sums-train.bin") && message.contains("cut off"),
        "{message}"
    );
    std::fs::write(&bin, &whole).unwrap();
    let text = std::fs::read(&json).unwrap();
    std::fs::write(&json, &text[..text.len() / 2]).unwrap();
    assert!(opened(&bin).contains("sums-train.json"));
    std::fs::remove_file(&json).unwrap();
    assert!(opened(&bin).contains("sums-train.json"));
}

#[test]
fn a_flipped_byte_of_the_tokens_or_of_the_manifest_is_found() {
    let dir = tempfile::tempdir().unwrap();
    packed(dir.path());
    let (bin, json) = (
        dir.path().join("sums-train.bin"),
        dir.path().join("sums-train.json"),
    );
    flip(&bin, 4);
    let message = Shard::open(&bin).unwrap().verify().unwrap_err().to_string();
    assert!(
        message.contains("sums-train.bin") && message.contains("blake3"),
        "{message}"
    );
    flip(&bin, 4);
    Shard::open(&bin).unwrap().verify().unwrap();
    let text = std::fs::read_to_string(&json).unwrap();
    flip(&json, text.find("\"offsets\":[0,").unwrap() + 14);
    let message = opened(&bin);
    assert!(
        message.contains("sums-train.json") && message.contains("checksum"),
        "{message}"
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = pack(&file, "sums", &documents(), Split::Train, &tokenizer())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("file"), "{error}");
}
