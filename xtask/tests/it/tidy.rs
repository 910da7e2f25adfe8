//! Each convention on a bad example, and on a good one that looks like it.

use xtask::tidy::{CHECKS, Finding, Repository, code_only};

/// The findings of one check over the given files.
fn findings(check: &str, files: &[(&str, &str)]) -> Vec<Finding> {
    let files = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
    let (_, check) = CHECKS.iter().find(|(name, _)| *name == check).unwrap();
    check(&Repository {
        files: files.collect(),
    })
}

/// The places of the findings, as `path:line`.
fn places(check: &str, files: &[(&str, &str)]) -> Vec<String> {
    findings(check, files)
        .iter()
        .map(|found| format!("{}:{}", found.path, found.line))
        .collect()
}

fn message(check: &str, files: &[(&str, &str)]) -> String {
    let found = findings(check, files);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].message.clone()
}

fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\n{rest}")
}

#[test]
fn a_forbidden_import_is_found_for_any_purpose_target_and_name() {
    let allowed = manifest(
        "tensor",
        "[dependencies]\nkernels.workspace = true\nserde = \"1\"\n",
    );
    assert_eq!(
        places(
            "imports between crates",
            &[("crates/tensor/Cargo.toml", &allowed)]
        ),
        [""; 0]
    );
    for rest in [
        "[dependencies]\nmodel.workspace = true\n",
        "[dev-dependencies]\nmodel = { path = \"../model\" }\n",
        "[build-dependencies]\nmodel = \"1\"\n",
        "[target.'cfg(unix)'.dependencies]\nmodel = \"1\"\n",
        "[dependencies]\nother = { package = \"model\", path = \"../model\" }\n",
    ] {
        let text = manifest("tensor", rest);
        let message = message(
            "imports between crates",
            &[("crates/tensor/Cargo.toml", &text)],
        );
        assert!(
            message.contains("tensor imports model; it may import kernels"),
            "{message}"
        );
    }
}

#[test]
fn programs_that_we_are_measured_against_are_no_crates_of_ours() {
    let peer = manifest("peer-candle", "[dependencies]\ncandle-core = \"1\"\n");
    let files = [("bench/peers/candle/Cargo.toml", peer.as_str())];
    assert_eq!(places("imports between crates", &files), [""; 0]);
    let elsewhere = [("crates/candle/Cargo.toml", peer.as_str())];
    assert!(!places("imports between crates", &elsewhere).is_empty());
}

#[test]
fn an_unknown_or_misnamed_crate_is_found() {
    let unknown = manifest("extras", "");
    let found = message(
        "imports between crates",
        &[("crates/extras/Cargo.toml", &unknown)],
    );
    assert!(found.contains("name the rule"), "{found}");
    let misnamed = manifest("forge-data", "");
    let found = message(
        "imports between crates",
        &[("crates/data/Cargo.toml", &misnamed)],
    );
    assert!(found.contains("name of its folder"), "{found}");
    let broken = message(
        "imports between crates",
        &[("crates/data/Cargo.toml", "[package")],
    );
    assert!(broken.contains("not valid TOML"), "{broken}");
}

const MAP: &str = "# A\n## Map\n\n| folder | holds | may import |\n|---|---|---|\n\
    | `crates/data` | text | none |\n| `crates/merge` | merges | kernels |\n| `docs` | log | |\n## Next\n";
const MAPPED: [(&str, &str); 4] = [
    ("crates/data/src/lib.rs", ""),
    ("crates/merge/src/lib.rs", ""),
    ("docs/log.md", ""),
    (".ci/run", ""),
];

fn with_map<'a>(map: &'a str, extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&MAPPED[..], &[("ARCHITECTURE.md", map)], extra].concat()
}

#[test]
fn a_map_that_matches_the_folders_is_accepted() {
    assert_eq!(
        findings("the map in ARCHITECTURE.md", &with_map(MAP, &[])),
        []
    );
}

#[test]
fn a_map_that_misses_a_folder_or_names_a_lost_one_is_found() {
    let check = "the map in ARCHITECTURE.md";
    let missing = message(check, &with_map(MAP, &[("recipes/tiny.toml", "")]));
    assert!(missing.contains("no row for recipes"), "{missing}");
    let lost = MAP.replace("## Next", "| `bench` | scripts | |\n## Next");
    let found = message(check, &with_map(&lost, &[]));
    assert!(found.contains("names bench"), "{found}");
    assert!(message(check, &MAPPED).contains("is missing"));
    assert!(message(check, &with_map("# A\n", &[])).contains("no table"));
}

#[test]
fn a_map_that_contradicts_the_rule_of_imports_is_found() {
    let loosened = MAP.replace("| text | none |", "| text | kernels, store |");
    let found = message("the map in ARCHITECTURE.md", &with_map(&loosened, &[]));
    assert!(
        found.contains("import kernels, store") && found.contains("says nothing"),
        "{found}"
    );
}

#[test]
fn a_long_architecture_is_found() {
    let long = format!("{MAP}{}", "a line\n".repeat(300));
    let found = message("the map in ARCHITECTURE.md", &with_map(&long, &[]));
    assert!(found.contains("at most 300"), "{found}");
}

#[test]
fn a_long_source_is_found_and_a_long_table_of_data_is_not() {
    let long = "x\n".repeat(1001);
    let files = [
        ("crates/data/src/a.rs", &*long),
        ("docs/log.md", &*long),
        ("f/reference.json", &*long),
    ];
    assert_eq!(
        places("lines of a file", &files),
        ["crates/data/src/a.rs:0"]
    );
    assert_eq!(
        findings("lines of a file", &[("a.rs", &"x\n".repeat(1000))]),
        []
    );
}

#[test]
fn a_large_file_is_found_whatever_it_holds() {
    let large = "\0".repeat((1 << 20) + 1);
    assert_eq!(
        places("bytes of a file", &[("fixture.bin", &large)]),
        ["fixture.bin:0"]
    );
    assert_eq!(
        findings("bytes of a file", &[("fixture.bin", &large[1..])]),
        []
    );
}

#[test]
fn a_path_of_one_machine_is_found_and_a_relative_one_or_an_address_is_not() {
    for folder in ["work", "farm", "root", "home"] {
        let bad = format!("fine\nopen(\"/{folder}/someone/data\")\n");
        assert_eq!(
            places("absolute machine paths", &[("a.py", &bad)]),
            ["a.py:2"],
            "{bad}"
        );
        for good in [
            format!("../{folder}/data"),
            format!("site.org/{folder}/data"),
            format!("/{folder}/"),
            format!("/{folder}/.cache"),
        ] {
            assert_eq!(
                findings("absolute machine paths", &[("a.md", &good)]),
                [],
                "{good}"
            );
        }
        assert_eq!(
            findings("absolute machine paths", &[("Cargo.lock", &bad)]),
            []
        );
    }
}

#[test]
fn a_registry_address_in_an_npm_lock_file_is_found() {
    let check = "addresses in npm lock files";
    let npm = "{\n  \"resolved\": \"https://registry.example/a.tgz\"\n}";
    assert_eq!(
        places(check, &[("web/package-lock.json", npm)]),
        ["web/package-lock.json:2"]
    );
    assert_eq!(
        places(
            check,
            &[("yarn.lock", "a:\n  resolved \"https://r.example/a\"")]
        ),
        ["yarn.lock:2"]
    );
    let pnpm = "resolution: {tarball: https://r.example/a.tgz}";
    assert_eq!(
        places(check, &[("pnpm-lock.yaml", pnpm)]),
        ["pnpm-lock.yaml:1"]
    );
    let good = [
        ("package-lock.json", "{\"funding\": \"https://a.example\"}"),
        ("other.json", npm),
    ];
    assert_eq!(findings(check, &good), []);
}

#[test]
fn an_empty_module_name_is_found_as_file_folder_and_inline() {
    let files = [
        ("crates/data/src/utils.rs", ""),
        ("crates/data/src/helpers/mod.rs", ""),
        ("crates/data/tests/it/common.rs", ""),
        (
            "crates/data/src/inline.rs",
            "//! x\n\npub mod manager {\n}\nmod helper;\n",
        ),
        ("crates/data/src/commonsense.rs", "// mod utils {\n"),
    ];
    let expected = [
        "crates/data/src/helpers/mod.rs:0",
        "crates/data/src/inline.rs:3",
        "crates/data/src/utils.rs:0",
        "crates/data/tests/it/common.rs:0",
    ];
    assert_eq!(places("module names", &files), expected);
}

#[test]
fn a_module_without_documentation_is_found_outside_tests() {
    let files = [
        ("crates/data/src/a.rs", "// not this\nfn f() {}\n"),
        (
            "crates/data/src/b.rs",
            "#![allow(x)]\n//! Says what it is.\n",
        ),
        ("crates/data/tests/it/main.rs", "mod a;\n"),
        ("crates/data/build.rs", "fn main() {}\n"),
    ];
    assert_eq!(
        places("module documentation", &files),
        ["crates/data/src/a.rs:1"]
    );
}

#[test]
fn stubs_are_found_in_code_and_in_words() {
    // Put together, as this file is checked as well.
    let (a, b) = (concat!("TO", "DO"), concat!("place", "holder"));
    let (c, d) = (concat!("Not yet ", "implemented"), concat!("todo", "!()"));
    for bad in [
        format!("fn f() {{ {d} }}"),
        format!("// {a}: later"),
        format!("panic!(\"{c}\")"),
        format!("let {b} = 1;"),
        format!("//! {}", concat!("To be ", "described.")),
        concat!("unimplemented", "!(\"x\")").to_owned(),
    ] {
        assert_eq!(places("stubs", &[("a.rs", &bad)]), ["a.rs:1"], "{bad}");
    }
    assert_eq!(
        findings("stubs", &[("a.rs", "let todos = mastodon;"), ("a.md", a)]),
        []
    );
}

#[test]
fn an_ignored_test_is_found() {
    for bad in [
        "#[ignore]",
        "#[ ignore = \"slow\" ]",
        "#[cfg_attr(debug_assertions, ignore)]",
    ] {
        let text = format!("#[test]\n{bad}\nfn f() {{}}\n");
        assert_eq!(
            places("ignored tests", &[("a.rs", &text)]),
            ["a.rs:2"],
            "{bad}"
        );
    }
    assert_eq!(
        findings(
            "ignored tests",
            &[("a.rs", "// #[ignore]\nlet ignore = \"#[ignore]\";")]
        ),
        []
    );
}

#[test]
fn unsafe_code_is_found_outside_kernels_whatever_it_says() {
    let text = "//! x\n// SAFETY: none needed.\nunsafe { call() }\n";
    assert_eq!(
        places("unsafe code", &[("crates/model/src/a.rs", text)]),
        ["crates/model/src/a.rs:3"]
    );
    assert_eq!(
        findings("unsafe code", &[("crates/kernels/src/a.rs", text)]),
        []
    );
    let quoted = "// unsafe { }\nlet a = \"unsafe {\";\nlet unsafe_count = 1;\ntype F = unsafe extern \"C\" fn(i32);\n";
    assert_eq!(
        findings("unsafe code", &[("crates/model/src/a.rs", quoted)]),
        []
    );
}

#[test]
fn memory_maps_are_the_only_unsafe_code_of_store_data_and_merge() {
    let map = "// SAFETY: the file is ours and not written to.\nlet map = unsafe { Mmap::map(&file)? };\n";
    let other = "// SAFETY: fine.\nunsafe { libc::statvfs(a, b) };\nlet m = Mmap::open();\n";
    for folder in ["store", "data", "merge"] {
        let path = format!("crates/{folder}/src/a.rs");
        assert_eq!(findings("unsafe code", &[(&path, map)]), []);
        assert_eq!(
            places("unsafe code", &[(&path, other)]),
            [format!("{path}:2")]
        );
    }
    assert_eq!(
        places("unsafe code", &[("crates/forge/src/a.rs", map)]),
        ["crates/forge/src/a.rs:2"]
    );
}

#[test]
fn unsafe_code_without_its_reason_is_found() {
    let path = "crates/kernels/src/a.rs";
    let bare = "fn f() {\n    unsafe { call() }\n}\n";
    assert_eq!(
        places("unsafe code", &[(path, bare)]),
        [format!("{path}:2")]
    );
    for good in [
        "/// # Safety\n/// `p` is valid.\n#[inline]\npub unsafe fn f(p: *const f32) {}\n",
        "let x = unsafe { g() }; // SAFETY: g has no conditions.\n",
        "// SAFETY: two lines\n// of reasons.\nlet x =\n    unsafe { g() };\n",
    ] {
        assert_eq!(findings("unsafe code", &[(path, good)]), [], "{good}");
    }
}

#[test]
fn the_scanner_keeps_code_and_drops_comments_and_literals() {
    for (source, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x \" y") g"#, "f(        ) g"),
        ("r#\"a \" b\"# c", "           c"),
        ("br\"\\\" c", "b     c"),
        ("r#type x", "r#type x"),
        (
            "'\"' 'a' '\\'' x<'a, 'b>('c: loop)",
            "             x<'a, 'b>('c: loop)",
        ),
        ("\"\u{e4}\" '\u{e4}' \u{e4}", "          \u{e4}"),
        ("\"a\nb\" c", "  \n   c"),
    ] {
        assert_eq!(code_only(source), code, "{source}");
    }
}
