//! Safetensors files: same bytes for the same input, readable by the format's own library, and
//! damage refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use store::{Array, Dtype, read_safetensors, write_safetensors};

use crate::sample::{bag, new_run, sorted};

fn metadata() -> BTreeMap<String, String> {
    (0..20)
        .map(|i| (format!("key{i}"), format!("{{\"value\": \"é\\n{i}\"}}")))
        .collect()
}

#[test]
fn identical_input_gives_identical_bytes_whatever_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let arrays = bag(1).arrays;
    let reversed: Vec<Array> = arrays.iter().rev().cloned().collect();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    write_safetensors(&a, &arrays, &metadata()).unwrap();
    write_safetensors(&b, &reversed, &metadata()).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
}

#[test]
fn a_file_comes_back_whole_and_the_formats_own_library_reads_it() {
    let root = tempfile::tempdir().unwrap();
    let run = new_run(root.path());
    let path = run
        .write_model("phase1-cognate", "reasoning", &bag(1).arrays, &metadata())
        .unwrap();
    assert_eq!(
        path,
        run.dir().join("phase1-cognate/final/reasoning.safetensors")
    );
    let (arrays, found) = read_safetensors(&path).unwrap();
    assert_eq!(arrays, sorted(bag(1)).arrays);
    assert_eq!(found, metadata());

    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(
        theirs.tensor("weight").unwrap().data(),
        bag(1).arrays[0].bytes
    );
    // Wide elements first and a padded header: a memory map can be read in place.
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header % 8, 0);
}

#[test]
fn files_by_the_formats_own_library_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.safetensors");
    let view = |data| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![2], data).unwrap()
    };
    let tensors = [("z", view(&[1, 2, 3, 4])), ("a", view(&[5, 6, 7, 8]))];
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let (arrays, metadata) = read_safetensors(&path).unwrap();
    let array = |name: &str, bytes: &[u8]| Array {
        name: name.into(),
        dtype: Dtype::F16,
        shape: vec![2],
        bytes: bytes.into(),
    };
    assert_eq!(
        arrays,
        [array("a", &[5, 6, 7, 8]), array("z", &[1, 2, 3, 4])]
    );
    assert!(metadata.is_empty());
}

#[test]
fn a_real_models_file_survives_a_round_trip() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/models/stories260K/hf_derived/model.safetensors");
    if !path.exists() {
        println!("skipped: no ../shared");
        return;
    }
    let (arrays, metadata) = read_safetensors(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.safetensors");
    write_safetensors(&copy, &arrays, &metadata).unwrap();
    assert!(arrays.len() > 40 && arrays.iter().all(|array| array.dtype == Dtype::F32));
    assert_eq!(read_safetensors(&copy).unwrap(), (arrays, metadata));
}

#[test]
fn truncated_and_foreign_files_are_refused_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &bag(1).arrays, &metadata()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let text = read_safetensors(&path).unwrap_err().to_string();
        assert!(
            text.contains("model.safetensors is damaged"),
            "{length}: {text}"
        );
    }
    std::fs::write(&path, [whole.clone(), vec![0]].concat()).unwrap();
    assert!(read_safetensors(&path).is_err(), "a byte too many");
    std::fs::write(&path, "PK\u{3}\u{4} this is a zip archive, or a pickle").unwrap();
    let text = read_safetensors(&path).unwrap_err().to_string();
    assert!(text.contains("not a safetensors file"), "{text}");
    let text = read_safetensors(folder.path().join("absent"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("absent"), "{text}");
}

#[test]
fn an_overwritten_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for step in 0..3 {
        write_safetensors(&path, &bag(step).arrays, &metadata()).unwrap();
    }
    assert_eq!(read_safetensors(&path).unwrap().0, sorted(bag(2)).arrays);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
#[should_panic(expected = "two arrays are called `weight`")]
fn two_arrays_of_one_name_panic() {
    let folder = tempfile::tempdir().unwrap();
    let array = Array::f32("weight", &[1], &[1.0]);
    let _ = write_safetensors(
        folder.path().join("m"),
        &[array.clone(), array],
        &BTreeMap::new(),
    );
}

#[test]
#[should_panic(expected = "array `weight`: F32 [2, 3] takes 24 bytes, got 4")]
fn bytes_that_do_not_fill_the_shape_panic() {
    Array::f32("weight", &[2, 3], &[1.0]);
}
