//! The walk, forward and backward.

use super::super::columns::{self, Product, products};
use super::super::mixed::pack::Form;
use super::super::mixed::tile::BLOCK;
use super::super::mixed::tile::Unit;
use super::super::mixed::walk::DEPTH;
use super::super::operand::{Operand, Place};
use super::super::rows::{
    Input, Norm, Normed, Side, Weight, add_parts, blocks, contract, of_chunk, strips, with_packed,
};
use super::{Gradients, Linear};
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
    let beta = grads.x.as_ref().map_or(0.0, |(_, beta)| *beta);
    let dx = grads.x.map(|(x, _)| {
        assert_eq!(x.len(), n * w, "linear: gradient of x");
        Shared::new(x)
    });
    let through = dx.is_some() || grads.gain.is_some();
    // What the gradients of weights sum over rows: those of the outputs, and the rows that were mapped.
    let wanted = |i: usize| dy[i].is_some() && grads.weights[i].is_some();
    let mut outer: Vec<Option<Operand>> = (0..dy.len())
        .map(|i| wanted(i).then(|| Operand::new(Form::A, o.outputs(i), n)))
        .collect();
    let any = outer.iter().any(Option::is_some);
    let mut inner = Operand::new(Form::B, if any { w } else { 0 }, n);
    let places: Vec<_> = outer
        .iter_mut()
        .map(|c| c.as_mut().map(Operand::place))
        .collect();
    let place = any.then(|| inner.place());
    let mut parts: Vec<Vec<f32>> = Vec::new();
    with_packed(CHUNK, w, &weights(o, Side::Summed), |packed| {
        let task = |rows: Range<usize>| {
            let mut part = vec![0.0; if norm.is_some() { w } else { 0 }];
            // SAFETY: as in the forward pass; the strips of columns are this task's rows.
            unsafe {
                let here = rows.start * w..rows.end * w;
                if let Some(place) = place {
                    mapped_rows(o, norm, rows.clone(), place);
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
                    let mut input = Input::new(rows.clone(), if through { wide } else { 0 });
                    for strip in strips(rows.clone()) {
                        let dy = &dy[strip.start * wide..strip.end * wide];
                        if through {
                            input.pack(dy, strip.start - rows.start);
                        }
                        if let Some(place) = places[i] {
                            columns::pack(place, dy.as_ptr(), wide, strip, 0..wide);
                        }
                    }
                    if !through {
                        continue;
                    }
                    for chunk in 0..wide.div_ceil(CHUNK) {
                        let units = of_chunk(chunk, CHUNK, wide);
                        let (tiles, region) = (input.at(units.start), packed[i].region(chunk));
                        contract(&begun, units.len(), tiles, region, w, c, beta_of_c);
                        beta_of_c = 1.0;
                    }
                }
                if through && beta_of_c == 0.0 {
                    c.fill(0.0);
                }
                if let (Some(norm), true) = (norm, through) {
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
    let mut sums = Vec::new();
    for (gradient, outer) in grads.weights.into_iter().zip(&outer) {
        match (gradient, outer) {
            (Some((c, beta)), Some(a)) => sums.push(Product {
                a,
                b: &inner,
                beta,
                c,
            }),
            (Some((c, 0.0)), None) => c.fill(0.0),
            _ => {}
        }
    }
    products(unit, sums);
}

/// Packs what was mapped of some rows: the rows themselves or their norm.
///
/// # Safety
/// The CPU has a unit, and the place is this task's alone.
unsafe fn mapped_rows(o: &Linear, norm: Option<Normed>, rows: Range<usize>, place: Place) {
    let w = o.width;
    let mut room = scratch::take(if norm.is_some() { BLOCK * w / 2 } else { 0 });
    let halves: *mut u16 = room.as_mut_ptr().cast();
    for strip in strips(rows) {
        // SAFETY: promised by the caller.
        unsafe {
            match norm {
                Some(norm) => {
                    norm.again(strip.clone(), halves);
                    columns::pack(place, halves.cast_const(), w, strip, 0..w);
                }
                None => columns::pack(place, o.x[strip.start * w..].as_ptr(), w, strip, 0..w),
            }
        }
    }
}
