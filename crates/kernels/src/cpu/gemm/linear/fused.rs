//! The walk, forward and backward.

use super::super::mixed::tile::Unit;
use super::super::mixed::walk::DEPTH;
use super::super::rows::{
    Input, Norm, Normed, SharedHalves, Side, Weight, add_parts, blocks, contract, of_chunk,
    summed_over_rows, with_packed,
};
use super::{Gradients, Linear};
use crate::cpu::gemm::ffn::halves;
use crate::cpu::scratch;
use crate::cpu::shared::Shared;
use rayon::prelude::*;
use std::ops::Range;

/// Outputs at a time, and backward steps of k at a time, which is how inputs are packed.
const CHUNK: usize = DEPTH;

/// The weights for [`with_packed`].
fn weights<'a>(o: &Linear<'a>, side: Side) -> Vec<Weight<'a>> {
    let of = |data: &&'a [f32]| Weight {
        data,
        units: data.len() / o.width,
        unit_apart: o.width,
        apart: 1,
        side,
    };
    o.weights.iter().map(of).collect()
}

pub(super) fn forward(
    unit: Unit,
    o: &Linear,
    add: Option<&[f32]>,
    outputs: &mut [&mut [f32]],
    rstd: &mut [f32],
) {
    let (n, w) = (o.rows(), o.width);
    let outputs: Vec<Shared> = outputs.iter_mut().map(|y| Shared::new(y)).collect();
    let rstd = Shared::new(rstd);
    with_packed(CHUNK, w, &weights(o, Side::Columns), |packed| {
        blocks(n).for_each(|rows| {
            // SAFETY: the CPU has the unit; the weights are packed, and these rows of the outputs are this task's
            // alone.
            unsafe {
                let begun = unit.begin();
                let mut input = Input::new(rows.clone(), w);
                match o.norm {
                    Some((gain, eps)) => input.norm(o.x, Norm { gain, eps }, rstd),
                    None => input.pack(&o.x[rows.start * w..rows.end * w], 0),
                }
                for (i, (packed, y)) in packed.iter().zip(&outputs).enumerate() {
                    let wide = o.outputs(i);
                    let here = rows.start * wide..rows.end * wide;
                    let y = y.slice(here.start, here.len());
                    if let Some(add) = add {
                        y.copy_from_slice(&add[here]);
                    }
                    let beta = if add.is_some() { 1.0 } else { 0.0 };
                    for chunk in 0..wide.div_ceil(CHUNK) {
                        let units = of_chunk(chunk, CHUNK, wide);
                        let c = y.as_mut_ptr().add(units.start);
                        let region = packed.region(chunk);
                        input.times(&begun, units.len(), region, c, wide, beta);
                    }
                }
            }
        });
    });
}

pub(super) fn backward(
    unit: Unit,
    o: &Linear,
    rstd: &[f32],
    dy: &[Option<&[f32]>],
    grads: Gradients,
) {
    let (n, w) = (o.rows(), o.width);
    let norm = o.norm.map(|(gain, _)| Normed { x: o.x, gain, rstd });
    // Normed rows for the gradients of weights.
    let mut room = scratch::take(if norm.is_some() {
        (n * w).div_ceil(2)
    } else {
        0
    });
    let normed = &mut halves(&mut room)[..if norm.is_some() { n * w } else { 0 }];
    let beta = grads.x.as_ref().map_or(0.0, |(_, beta)| *beta);
    let dx = grads.x.map(|(x, _)| {
        assert_eq!(x.len(), n * w, "linear: gradient of x");
        Shared::new(x)
    });
    let through = dx.is_some() || grads.gain.is_some();
    let again = SharedHalves::new(normed);
    let mut parts: Vec<Vec<f32>> = Vec::new();
    with_packed(CHUNK, w, &weights(o, Side::Summed), |packed| {
        let task = |rows: Range<usize>| {
            let mut part = vec![0.0; if norm.is_some() { w } else { 0 }];
            // SAFETY: as in the forward pass.
            unsafe {
                let here = rows.start * w..rows.end * w;
                if let Some(norm) = norm {
                    norm.again(rows.clone(), again.at(here.start));
                }
                if !through {
                    return part;
                }
                // The sum over all maps: the gradient of the rows, or of their norm.
                let mut aside = scratch::take(if norm.is_some() { here.len() } else { 0 });
                let (c, mut beta_of_c) = match (norm, dx) {
                    (None, Some(dx)) => (dx.slice(here.start, here.len()), beta),
                    _ => (&mut aside[..], 0.0),
                };
                let begun = unit.begin();
                for (i, dy) in dy.iter().enumerate() {
                    let Some(dy) = dy else { continue };
                    let wide = o.outputs(i);
                    let mut input = Input::new(rows.clone(), wide);
                    input.pack(&dy[rows.start * wide..rows.end * wide], 0);
                    for chunk in 0..wide.div_ceil(CHUNK) {
                        let units = of_chunk(chunk, CHUNK, wide);
                        let (tiles, region) = (input.at(units.start), packed[i].region(chunk));
                        contract(&begun, units.len(), tiles, region, w, c, beta_of_c);
                        beta_of_c = 1.0;
                    }
                }
                if beta_of_c == 0.0 {
                    c.fill(0.0);
                }
                if let Some(norm) = norm {
                    let start = |_: usize, to: &mut [f32]| {
                        if beta == 0.0 {
                            to.fill(0.0);
                        }
                    };
                    norm.through(rows, c, dx, start, &mut part);
                }
            }
            part
        };
        parts = blocks(n).map(task).collect();
    });
    if let Some((gain, beta)) = grads.gain {
        assert_eq!(gain.len(), w, "linear: gradient of the gain");
        add_parts(gain, beta, &parts);
    }
    for (i, gradient) in grads.weights.into_iter().enumerate() {
        let Some((c, beta)) = gradient else { continue };
        let shape = [o.outputs(i), w, n];
        match (dy[i], norm) {
            (Some(dy), Some(_)) => summed_over_rows(unit, shape, dy, &*normed, beta, c),
            (Some(dy), None) => summed_over_rows(unit, shape, dy, o.x, beta, c),
            (None, _) if beta == 0.0 => c.fill(0.0),
            (None, _) => {}
        }
    }
}
