//! Layouts that attention refuses to differentiate.

use kernels::cpu::attention::{Gradients, Layout, Operands, backward, forward};

/// Two segments of one row each, over the given keys.
fn shared(keys: [std::ops::Range<usize>; 2], extra: Vec<std::ops::Range<u32>>) {
    let x = [1.0; 4];
    let layout = Layout {
        queries: vec![0..1, 1..2],
        keys: keys.to_vec(),
        last: vec![0, 0],
        window: 0,
        extra,
    };
    let pair = (!layout.extra.is_empty()).then_some((&x[..], &x[..]));
    let o = Operands {
        q: &x,
        k: &x,
        v: &x,
        prefix: None,
        extra: pair,
        heads: 1,
        kv_heads: 1,
        width: 2,
        scale: 1.0,
    };
    let (mut y, mut lse, mut peaks) = ([0.0; 4], [0.0; 2], [0.0]);
    forward(&o, &layout, &mut y, &mut lse, &mut peaks);
    let (mut q, mut k, mut v, mut ek, mut ev) = ([0.0; 4], [0.0; 4], [0.0; 4], [0.0; 4], [0.0; 4]);
    let extra = pair.is_some().then_some((&mut ek[..], &mut ev[..]));
    backward(
        &o,
        &layout,
        &y,
        &lse,
        &x,
        Gradients {
            q: &mut q,
            k: &mut k,
            v: &mut v,
            prefix: None,
            extra,
        },
    );
}

#[test]
#[should_panic(expected = "share key rows")]
fn segments_that_share_key_rows_have_no_gradient() {
    shared([0..1, 0..2], vec![]);
}

#[test]
#[should_panic(expected = "share extra row")]
fn segments_that_share_extra_rows_have_no_gradient() {
    shared([0..1, 1..2], vec![0..1, 0..2]);
}
