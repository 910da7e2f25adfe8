//! The conformance table: every public operation of `kernels::cpu` on every instruction path of this CPU, with
//! operands as they are and rounded to bf16, over awkward shapes, against plain loops in f64.
//!
//! A path and a precision are chosen once per process, so the test runs itself once for each pair. A child goes
//! through the rows of the table and prints, for each, the worst error and a checksum of every number that came
//! out; the parent compares errors with the row's bounds, and checksums between paths where the row promises equal
//! bits. Each case is computed by one thread and by three, which must give the same bits. `cargo test -p kernels
//! conformance -- --nocapture` shows the table.
//!
//! *Error* of an output: the larger of its largest difference, in units of the largest number wanted, and of the
//! root of the mean square of its differences, in that of the numbers wanted.
//!
//! *Bounds.* In fp32 a row says how many units of 2^-24 its sums may lose: some tens, as errors of a sum of K terms
//! grow with the root of K. In bf16 products may round their operands. Where the operands are the inputs, the
//! wanted numbers are those of rounded inputs and the fp32 bound stays. Where they are values on the way, a row says how
//! many roundings lie one after the other or side by side between inputs and outputs: each moves a number by at most
//! 2^-8 of itself, and R of them that know nothing of each other add up to at most sqrt(R) times that.

mod attention;
mod elementwise;
mod layers;
mod memory;
mod products;
mod rows;
mod ternary;
pub(crate) mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use kernels::isa::{self, Isa};
use kernels::precision::{self, Precision};

use self::trial::Trial;

/// A row of the table.
struct Operation {
    /// The function in `kernels::cpu`, then what is special about its cases.
    name: &'static str,
    /// Bound in fp32, in units of 2^-24.
    units: f64,
    /// Roundings to bf16 between inputs and outputs, where products round their operands.
    roundings: f64,
    promise: Promise,
    run: fn(&mut Trial),
}

/// What holds between paths, or for which there is a row.
#[derive(Clone, Copy, PartialEq)]
enum Promise {
    /// The same bits on every path and at either precision.
    SameBits,
    /// Close to what is wanted.
    Close,
    /// The same, and the operation is there for paths that multiply bf16 only.
    Fused,
}

impl Operation {
    fn bound(&self, precision: Precision) -> f64 {
        let sums = self.units * 0.5f64.powi(24);
        let roundings = self.roundings.sqrt() * 0.5f64.powi(8);
        match precision {
            Precision::F32 => sums,
            Precision::Bf16 => sums.max(roundings),
        }
    }

    fn there(&self, isa: Isa, precision: Precision) -> bool {
        let fuses = precision == Precision::Bf16 && isa.multiplies_bf16();
        self.promise != Promise::Fused || fuses
    }
}

/// A row whose bits are the same on every path.
const fn same(name: &'static str, units: f64, run: fn(&mut Trial)) -> Operation {
    let promise = Promise::SameBits;
    Operation {
        name,
        units,
        roundings: 0.0,
        promise,
        run,
    }
}

/// A row whose last bits depend on the path.
const fn close(name: &'static str, units: f64, roundings: f64, run: fn(&mut Trial)) -> Operation {
    let promise = Promise::Close;
    Operation {
        name,
        units,
        roundings,
        promise,
        run,
    }
}

/// As [`close`], for an operation that only paths with products of bf16 have.
const fn fused(name: &'static str, units: f64, roundings: f64, run: fn(&mut Trial)) -> Operation {
    let promise = Promise::Fused;
    Operation {
        name,
        units,
        roundings,
        promise,
        run,
    }
}

fn table() -> impl Iterator<Item = &'static Operation> {
    let parts = [
        elementwise::TABLE,
        rows::TABLE,
        products::TABLE,
        layers::TABLE,
        attention::TABLE,
        memory::TABLE,
        ternary::TABLE,
    ];
    parts.into_iter().flatten()
}

/// Tells a child its path and its precision.
const CHILD: &str = "KERNELS_TEST_PATH";

/// Begins a line of a child that the parent reads: row, error, checksum, the case with that error.
const MARK: &str = "conformance|";

fn child(path: &str, precision: Precision) {
    isa::select(path).unwrap();
    precision::select(precision).unwrap();
    for operation in table().filter(|o| o.there(isa::detect(), precision)) {
        let mut trial = Trial::new(precision == Precision::Bf16);
        (operation.run)(&mut trial);
        let (error, bits, case) = trial.outcome();
        println!("\n{MARK}{}|{error:e}|{bits:016x}|{case}", operation.name);
    }
}

struct Found {
    error: f64,
    bits: String,
    case: String,
}

/// What a child found, by row.
fn found(path: Isa, precision: Precision) -> BTreeMap<String, Found> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "conformance::every_operation_agrees_on_every_path",
        ])
        .arg("--nocapture")
        .env(CHILD, format!("{} {}", path.name(), precision.name()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{} {}: {text}{}",
        path.name(),
        precision.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = text.lines().filter_map(|line| line.strip_prefix(MARK));
    lines
        .map(|line| {
            let [name, error, bits, case] = line.splitn(4, '|').collect::<Vec<_>>()[..] else {
                panic!("a line of four parts, not {line}")
            };
            let error = error.parse().unwrap();
            let (bits, case) = (bits.to_string(), case.to_string());
            (name.to_string(), Found { error, bits, case })
        })
        .collect()
}

#[test]
fn every_operation_agrees_on_every_path() {
    if let Ok(wanted) = std::env::var(CHILD) {
        let (path, precision) = wanted.split_once(' ').unwrap();
        let precision = [Precision::F32, Precision::Bf16]
            .into_iter()
            .find(|p| p.name() == precision);
        return child(path, precision.unwrap());
    }
    let columns: Vec<_> = [Precision::F32, Precision::Bf16]
        .into_iter()
        .flat_map(|precision| isa::available().map(move |isa| (isa, precision)))
        .map(|(isa, precision)| (isa, precision, found(isa, precision)))
        .collect();
    let mut heads = [String::new(), String::new()];
    for (isa, precision, _) in &columns {
        heads[0] += &format!(" {:>10}", isa.name());
        heads[1] += &format!(" {:>10}", precision.name());
    }
    println!("{:44}{}\n{:44}{}", "worst error", heads[0], "", heads[1]);
    let mut failures = Vec::new();
    for operation in table() {
        let mut line = format!("{:44}", operation.name);
        let mut first = None;
        for (isa, precision, rows) in &columns {
            if !operation.there(*isa, *precision) {
                line += &format!(" {:>10}", "-");
                continue;
            }
            let name = format!("{}, {} {}", operation.name, isa.name(), precision.name());
            let row = &rows[operation.name];
            line += &format!(" {:>10.1e}", row.error);
            let bound = operation.bound(*precision);
            if row.error > bound {
                failures.push(format!(
                    "{name}: off by {:.2e}, at most {bound:.2e} allowed: {}",
                    row.error, row.case
                ));
            }
            let first = first.get_or_insert(&row.bits);
            if operation.promise == Promise::SameBits && **first != row.bits {
                failures.push(format!(
                    "{name}: other bits than on {}",
                    columns[0].0.name()
                ));
            }
        }
        println!("{line}");
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Public functions that compute nothing.
const NO_OPERATIONS: [&str; 1] = ["gemm::fuses"];

/// Public functions of a source file, methods left out, each behind the name of its module.
fn functions(module: &str, source: &str, into: &mut BTreeSet<String>) {
    let mut in_impl = false;
    for line in source.lines() {
        if line.starts_with("impl") {
            in_impl = !line.ends_with("{}");
        } else if line.starts_with('}') {
            in_impl = false;
        }
        if let Some(rest) = line
            .trim_start()
            .strip_prefix("pub fn ")
            .filter(|_| !in_impl)
        {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            into.insert(format!("{module}::{name}"));
        }
    }
}

fn functions_below(folder: &Path, module: &str, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = match module {
            "" => stem.to_string(),
            _ => format!("{module}::{stem}"),
        };
        match path.is_dir() {
            true => functions_below(&path, &name, into),
            false => functions(&name, &std::fs::read_to_string(&path).unwrap(), into),
        }
    }
}

#[test]
fn every_public_operation_has_a_row() {
    let mut there = BTreeSet::new();
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cpu");
    functions_below(Path::new(sources), "", &mut there);
    assert!(
        there.contains("gemm::gemm") && there.contains("elementwise::dot"),
        "{there:?}"
    );
    for known in NO_OPERATIONS {
        assert!(there.remove(known), "{known} is gone");
    }
    for operation in table() {
        there.remove(operation.name.split(',').next().unwrap());
    }
    assert!(there.is_empty(), "no row in the table for {there:?}");
}
