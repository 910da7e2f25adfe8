//! The neural memory against its definition: the recurrences token by token in f64 (`reference`), and
//! the numbers that PyTorch finds for them (tests/fixtures/memory.py).

#![allow(clippy::single_range_in_vec_init)] // one segment is a list of one range

pub(crate) mod reference;

use std::ops::Range;

use kernels::cpu::memory::{self, Gradients, MemoryShape, MemoryState};

use self::reference::{Case, Draw, NAMES, reference};

/// Largest difference, in units of the largest number wanted.
fn distance(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
    let far = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs());
    far.fold(0.0, |m, x| if x.is_nan() || x > m { x } else { m }) / size
}

fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    let far = distance(got, want);
    assert!(
        far < tolerance,
        "{what}: off by {far:e} of the largest number"
    );
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

const SMALL: MemoryShape = MemoryShape {
    heads: 2,
    width: 5,
    slots: 3,
    chunk: 4,
};

/// One row, one full chunk, ragged chunks, a gap in no segment, exactly four chunks.
fn ragged() -> Vec<Range<usize>> {
    vec![0..1, 1..5, 5..18, 20..27, 27..27, 27..43]
}

/// Wide enough for the blocked products, long enough for several blocks of reads.
fn large() -> Case {
    let shape = MemoryShape {
        heads: 3,
        width: 20,
        slots: 37,
        chunk: 16,
    };
    let mut segments: Vec<_> = (0..40).map(|i| i * 16..(i + 1) * 16 - i % 7).collect();
    segments.extend([640..700, 700..780, 780..790, 790..858]);
    Case::random(shape, 860, &segments, 1.5)
}

#[test]
fn gradients_are_the_finite_differences_of_the_recurrence() {
    // How many errors of the inner loss are clipped: none, some, all.
    for (v_size, least, most) in [(0.1, 0.0, 0.0), (1.5, 0.2, 0.8), (20.0, 1.0, 1.0)] {
        let mut case = Case::random(SMALL, 44, &ragged(), v_size);
        if v_size < 1.0 {
            case.inputs[1].iter_mut().for_each(|x| *x *= 0.3);
        }
        let mut inputs = case.wide();
        let (_, norms) = reference(SMALL, &inputs, &case.segments);
        let clipped = norms.iter().filter(|n| **n > 1.0).count() as f64 / norms.len() as f64;
        assert!(
            (least..=most).contains(&clipped),
            "{clipped} of the errors are clipped"
        );

        let dout = Draw(5).many(case.inputs[2].len(), -1.0, 1.0);
        let grads = case.backward(&dout);
        for (which, name) in NAMES.iter().enumerate() {
            let mut want = Vec::new();
            for i in 0..inputs[which].len() {
                let kept = inputs[which][i];
                let mut loss = |x: f64| {
                    inputs[which][i] = x;
                    let (out, _) = reference(SMALL, &inputs, &case.segments);
                    out.iter()
                        .zip(&dout)
                        .map(|(o, g)| o * f64::from(*g))
                        .sum::<f64>()
                };
                want.push((loss(kept + 1e-6) - loss(kept - 1e-6)) / 2e-6);
                inputs[which][i] = kept;
            }
            assert!(
                want.iter().any(|g| g.abs() > 1e-3),
                "{name} has a gradient to compare"
            );
            assert_close(
                &grads[which],
                &want,
                2e-5,
                &format!("gradient of {name}, v {v_size}"),
            );
            for (i, (g, w)) in grads[which].iter().zip(&want).enumerate() {
                let far = (f64::from(*g) - w).abs();
                assert!(
                    far <= 1e-3 * w.abs() + 2e-6,
                    "gradient of {name}[{i}]: {g}, not {w}"
                );
            }
        }
    }
}

#[test]
fn output_and_gradients_are_those_of_pytorch() {
    let json: serde_json::Value =
        serde_json::from_str(include_str!("../fixtures/memory.json")).unwrap();
    let size = |name: &str| json[name].as_u64().unwrap() as usize;
    let numbers = |x: &serde_json::Value| -> Vec<f64> {
        x.as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap())
            .collect()
    };
    let narrow = |x: &serde_json::Value| numbers(x).iter().map(|&x| x as f32).collect::<Vec<_>>();
    let case = Case {
        shape: MemoryShape {
            heads: size("heads"),
            width: size("width"),
            slots: size("slots"),
            chunk: size("chunk"),
        },
        inputs: NAMES.map(|name| narrow(&json["inputs"][name])),
        segments: (json["segments"].as_array().unwrap().iter().map(numbers))
            .map(|s| s[0] as usize..s[1] as usize)
            .collect(),
    };
    assert_close(&case.forward(), &numbers(&json["out"]), 2e-6, "out");
    for (grad, name) in case.backward(&narrow(&json["dout"])).iter().zip(NAMES) {
        assert_close(grad, &numbers(&json["gradients"][name]), 1e-5, name);
    }
}

#[test]
fn backward_adds_to_the_learned_slots_and_overwrites_the_rest() {
    // All segments at once are the sum of each alone, whatever blocks and groups they fall into.
    let case = large();
    let dout = Draw(9).many(case.inputs[2].len(), -1.0, 1.0);
    let together = case.backward(&dout);
    let mut sum = case.inputs.each_ref().map(|x| vec![0.0f64; x.len()]);
    for segment in &case.segments {
        let alone = Case {
            segments: vec![segment.clone()],
            inputs: case.inputs.clone(),
            ..case
        };
        for (sum, grad) in sum.iter_mut().zip(alone.backward(&dout)) {
            sum.iter_mut()
                .zip(grad)
                .for_each(|(s, g)| *s += f64::from(g));
        }
    }
    for ((got, want), name) in together.iter().zip(&sum).zip(NAMES) {
        assert_close(got, want, 1e-5, name);
    }
    let mut twice = together.clone();
    let [keys0, values0, ..] = &case.inputs;
    let [dkeys0, dvalues0, dq, dk, dv, deta, dtheta, dalpha] = &mut twice;
    memory::backward(
        case.shape,
        keys0,
        values0,
        &case.rows(),
        &case.segments,
        &dout,
        Gradients {
            slots: [dkeys0, dvalues0],
            wide: [dq, dk, dv],
            narrow: [deta, dtheta, dalpha],
        },
    );
    for (i, name) in NAMES.iter().enumerate() {
        let times = if i < 2 { 2.0 } else { 1.0 };
        let want: Vec<f64> = together[i].iter().map(|&g| times * f64::from(g)).collect();
        assert_close(&twice[i], &want, 1e-5, name);
    }
}

#[test]
fn a_stream_reads_what_the_whole_segment_reads() {
    let case = Case::random(SMALL, 45, &[0..45], 1.5);
    let [keys0, values0, ..] = &case.inputs;
    let want = widen(&case.forward());
    let row = SMALL.row_len();
    let mut state = MemoryState::new(SMALL, keys0, values0);
    for steps in [
        vec![1; 45],
        vec![45],
        vec![4; 11],
        vec![3, 1, 4, 9, 5, 2, 13, 8],
        vec![5; 9],
    ] {
        let mut out = vec![f32::NAN; want.len()];
        let mut at = 0;
        for n in steps {
            // Saving and loading between any two calls changes nothing.
            state = MemoryState::from_flat(SMALL, &state.to_flat()).unwrap();
            let out = &mut out[at * row..(at + n) * row];
            memory::extend(
                SMALL,
                keys0,
                values0,
                &mut state,
                &case.part(at..at + n),
                out,
            );
            at += n;
        }
        let read = at * row;
        assert_close(&out[..read], &want[..read], 1e-6, "streamed");
        // The state is the memory that the last row read: the start of its chunk, not its end.
        let newest = (0, (at - 1) / SMALL.chunk);
        let states = memory::chunk_states(
            SMALL,
            keys0,
            values0,
            &case.rows(),
            &case.segments,
            &[newest],
        );
        assert_close(
            &state.keys,
            &widen(&states[0].keys),
            1e-6,
            "keys of the stream",
        );
        assert_close(
            &state.values,
            &widen(&states[0].values),
            1e-6,
            "values of the stream",
        );
        state.reset(keys0, values0);
        assert_eq!(state, MemoryState::new(SMALL, keys0, values0));
    }
}

#[test]
fn a_saved_stream_of_another_size_is_refused() {
    let case = Case::random(SMALL, 4, &[0..4], 1.0);
    let mut state = MemoryState::new(SMALL, &case.inputs[0], &case.inputs[1]);
    let mut out = vec![0.0; case.inputs[2].len()];
    memory::extend(
        SMALL,
        &case.inputs[0],
        &case.inputs[1],
        &mut state,
        &case.rows(),
        &mut out,
    );
    let flat = state.to_flat();
    assert_eq!(MemoryState::from_flat(SMALL, &flat), Some(state));
    assert_eq!(MemoryState::from_flat(SMALL, &flat[1..]), None);
    assert_eq!(MemoryState::from_flat(SMALL, &[]), None);
    let shorter = MemoryShape { chunk: 3, ..SMALL };
    assert_eq!(
        MemoryState::from_flat(shorter, &flat),
        None,
        "four rows wait, three may"
    );
}

#[test]
fn reading_the_state_of_a_chunk_is_what_forward_reads_there() {
    let case = Case::random(SMALL, 44, &ragged(), 1.5);
    let [keys0, values0, ..] = &case.inputs;
    let want = case.forward();
    let wanted: Vec<(usize, usize)> = (0..case.segments.len())
        .rev() // any order, and one more than once
        .flat_map(|s| (0..case.segments[s].len().div_ceil(SMALL.chunk)).map(move |c| (s, c)))
        .chain([(2, 1)])
        .collect();
    let states = memory::chunk_states(SMALL, keys0, values0, &case.rows(), &case.segments, &wanted);
    assert_eq!(states.len(), wanted.len());
    for ((segment, chunk), state) in wanted.into_iter().zip(&states) {
        let start = case.segments[segment].start + chunk * SMALL.chunk;
        let end = case.segments[segment].end.min(start + SMALL.chunk);
        let wide = start * SMALL.row_len()..end * SMALL.row_len();
        let mut out = vec![f32::NAN; wide.len()];
        memory::read(
            SMALL,
            &state.keys,
            &state.values,
            &case.inputs[2][wide.clone()],
            &mut out,
        );
        assert_close(
            &out,
            &widen(&want[wide]),
            1e-6,
            &format!("segment {segment}, chunk {chunk}"),
        );
    }
    // After the last row of a segment that fills its chunks, one more state exists.
    let after = memory::chunk_states(
        SMALL,
        keys0,
        values0,
        &case.rows(),
        &case.segments,
        &[(5, 3), (5, 4)],
    );
    assert_ne!(after[0], after[1]);
}

#[test]
fn one_thread_or_many_give_the_same_bits() {
    let case = large();
    let dout = Draw(3).many(case.inputs[2].len(), -1.0, 1.0);
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            (
                bits(&case.forward()),
                case.backward(&dout).map(|g| bits(&g)),
            )
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn slots_of_zero_key_and_value_stay_zero_and_change_nothing() {
    let case = Case::random(SMALL, 44, &ragged(), 1.5);
    let wide = MemoryShape { slots: 19, ..SMALL };
    let per_head = SMALL.slots * SMALL.width;
    let pad = |x: &[f32]| -> Vec<f32> {
        let zeros = vec![0.0; wide.slots * wide.width - per_head];
        x.chunks(per_head)
            .flat_map(|head| [head, &zeros].concat())
            .collect()
    };
    let mut inputs = case.inputs.clone();
    inputs[0] = pad(&inputs[0]);
    inputs[1] = pad(&inputs[1]);
    let padded = Case {
        shape: wide,
        inputs,
        segments: case.segments.clone(),
    };
    assert_close(&padded.forward(), &widen(&case.forward()), 1e-6, "out");

    let dout = Draw(3).many(case.inputs[2].len(), -1.0, 1.0);
    let (narrow, grads) = (case.backward(&dout), padded.backward(&dout));
    let zero = |x: &[f32]| {
        x.chunks(wide.slots * wide.width)
            .all(|head| head[per_head..].iter().all(|x| *x == 0.0))
    };
    for i in 0..8 {
        let want = if i < 2 {
            pad(&narrow[i])
        } else {
            narrow[i].clone()
        };
        assert_close(&grads[i], &widen(&want), 1e-5, NAMES[i]);
        assert!(
            i >= 2 || zero(&grads[i]),
            "a padding slot got a gradient in {}",
            NAMES[i]
        );
    }
    let wanted = [(2, 3), (5, 4)];
    let [keys0, values0, ..] = &padded.inputs;
    for state in memory::chunk_states(
        wide,
        keys0,
        values0,
        &padded.rows(),
        &padded.segments,
        &wanted,
    ) {
        assert!(
            state.keys != *keys0 && state.values != *values0,
            "something was written"
        );
        assert!(
            zero(&state.keys) && zero(&state.values),
            "a padding slot was written"
        );
    }
}

#[test]
fn rows_outside_segments_read_nothing_and_get_no_gradient() {
    let case = Case::random(SMALL, 44, &ragged(), 1.5);
    let dout = Draw(3).many(case.inputs[2].len(), -1.0, 1.0);
    let (out, grads) = (case.forward(), case.backward(&dout));
    for row in [18, 19, 43] {
        for x in [&out, &grads[2], &grads[3], &grads[4]] {
            let row = &x[row * SMALL.row_len()..(row + 1) * SMALL.row_len()];
            assert!(row.iter().all(|x| *x == 0.0));
        }
        for x in &grads[5..] {
            assert!(
                x[row * SMALL.heads..(row + 1) * SMALL.heads]
                    .iter()
                    .all(|x| *x == 0.0)
            );
        }
    }
}

#[test]
fn enormous_values_and_steps_leave_the_memory_finite() {
    let shape = MemoryShape {
        heads: 1,
        width: 16,
        slots: 24,
        chunk: 8,
    };
    let mut case = Case::random(shape, 2000, &[0..2000], 1e6);
    case.inputs[6].fill(1.0 / 32.0);
    case.inputs[7].fill(1e-3);
    let out = case.forward();
    assert!(out.iter().all(|x| x.is_finite()));
    let largest = out.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(largest < 1e3, "reads as large as {largest}");
}

#[test]
#[should_panic(expected = "segment 3..6 after row 4")]
fn overlapping_segments_are_a_programmers_mistake() {
    Case::random(SMALL, 8, &[0..4, 3..6], 1.0).forward();
}
