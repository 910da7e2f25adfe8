//! GFLOP/s of matrix products, of the sizes that a decoder of width 512 uses.

use super::check_isa;
use crate::args::Common;
use crate::{output, table};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;
use tensor::Tensor;
use tensor::probe::PackedProduct;
use tensor::random::Counted;

/// m, k, n.
const SHAPES: [(usize, usize, usize); 4] = [
    (2048, 512, 1376),
    (2048, 512, 512),
    (2048, 1376, 512),
    (512, 512, 8192),
];

#[derive(Args)]
pub(crate) struct GemmArgs {
    /// Products of each size; the best counts
    #[arg(long, value_name = "N", default_value_t = 10)]
    repeat: usize,
    /// Refuse to measure on another instruction path than this
    #[arg(long, value_name = "PATH")]
    isa: Option<String>,
}

pub(super) fn run(args: &GemmArgs, common: &Common) -> Result<u8> {
    check_isa(args.isa.as_deref())?;
    let (isa, threads) = (tensor::isa::name(), rayon::current_num_threads());
    let precision = tensor::precision::in_use().name();
    let peak = super::peak_arithmetic() / 1e9;
    let mut rows: Vec<Value> = Vec::new();
    for (m, k, n) in SHAPES {
        let random = |i| Counted::new(0, "bench/gemm", i);
        let a = Tensor::randn(&[m, k], 1.0, &random(0));
        let b = Tensor::randn(&[n, k], 1.0, &random(1));
        // Operations a second in the fastest of all tries.
        let rate = |product: &mut dyn FnMut()| {
            let seconds = (0..args.repeat.max(1)).map(|_| {
                let begun = Instant::now();
                product();
                begun.elapsed().as_secs_f64()
            });
            2.0 * (m * k * n) as f64 / seconds.fold(f64::INFINITY, f64::min) / 1e9
        };
        let gflops = rate(&mut || drop(black_box(Tensor::matmul(&a, &b, false, true))));
        // Without the packing, which weights need once a step and activations where they are made.
        let packed = PackedProduct::new([m, n, k], &a.to_vec(), &b.to_vec());
        let packed = packed.map(|mut p| {
            rate(&mut || {
                black_box(p.run());
            })
        });
        rows.push(
            json!({ "isa": isa, "precision": precision, "threads": threads, "m": m, "k": k, "n": n, "gflops": gflops,
                "bare_tile_gflops": peak, "share": gflops / peak,
                "packed_gflops": packed, "packed_share": packed.map(|p| p / peak) }),
        );
    }
    if common.json {
        output::json(&Value::Array(rows));
    } else {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|r| {
                let size = format!("{} x {} x {}", r["m"], r["k"], r["n"]);
                let cell = |key: &str, times: f64, digits: usize, unit: &str| {
                    let figure = r[key].as_f64();
                    figure.map_or("-".into(), |f| format!("{:.digits$}{unit}", times * f))
                };
                vec![
                    size,
                    cell("gflops", 1.0, 1, ""),
                    cell("share", 100.0, 0, "%"),
                    cell("packed_gflops", 1.0, 1, ""),
                    cell("packed_share", 100.0, 0, "%"),
                ]
            })
            .collect();
        output::text(&table::table(
            &[
                "m x k x n",
                "GFLOP/s",
                "of the tile loop",
                "packed before",
                "of the tile loop",
            ],
            &cells,
        ));
        output::line(&format!(
            "{isa}, {threads} threads, {precision}; the bare tile loop makes {peak:.1} GFLOP/s"
        ));
    }
    Ok(0)
}
