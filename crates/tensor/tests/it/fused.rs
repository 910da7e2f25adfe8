//! Operations that are one walk with bf16 operands, against the operations that they are made of: values, and
//! gradients of every input.
//!
//! What products round to is fixed for a process, so the comparison runs in one of its own.

use tensor::precision::{self, Precision};
use tensor::random::Counted;
use tensor::{FeedForward, Grads, Tape, Tensor, Var};

const ROWS: usize = 70;
const WIDTH: usize = 64;
const HIDDEN: usize = 96;
const EPS: f32 = 1e-3;

/// The tensors of an operation, and a scalar of what it gives.
type Case = (
    &'static str,
    Vec<Tensor>,
    fn(&Tape, &[Var], bool) -> Vec<Var>,
);

fn normal(dims: &[usize], std: f32, draw: u64) -> Tensor {
    Tensor::randn(dims, std, &Counted::new(5, "fused", draw))
}

fn cases() -> Vec<Case> {
    let rows = |draw| normal(&[ROWS, WIDTH], 1.0, draw);
    let map = |out: usize, draw| normal(&[out, WIDTH], 0.12, draw);
    let gain = || normal(&[WIDTH], 1.0, 9);
    vec![
        (
            "feed_forward",
            vec![
                rows(0),
                gain(),
                map(HIDDEN, 1),
                map(HIDDEN, 2),
                normal(&[WIDTH, HIDDEN], 0.1, 3),
            ],
            |t, v, fused| {
                let [x, gain, gate, up, down] = [v[0], v[1], v[2], v[3], v[4]];
                let eps = EPS;
                if fused {
                    return vec![t.feed_forward(
                        x,
                        FeedForward {
                            gain,
                            eps,
                            gate,
                            up,
                            down,
                        },
                    )];
                }
                let n = t.rms_norm(x, gain, eps);
                let hidden = t.swiglu(t.linear(n, gate), t.linear(n, up));
                vec![t.add(x, t.linear(hidden, down))]
            },
        ),
        (
            "linears of a norm",
            vec![rows(0), gain(), map(32, 1), map(HIDDEN, 2), map(WIDTH, 3)],
            |t, v, fused| {
                let maps = [v[2], v[3], v[4]];
                if fused {
                    return t.linears(v[0], Some((v[1], EPS)), maps).to_vec();
                }
                let n = t.rms_norm(v[0], v[1], EPS);
                maps.map(|w| t.linear(n, w)).to_vec()
            },
        ),
        (
            "linears of an input that is used again",
            vec![rows(0), map(32, 1), map(WIDTH, 2)],
            |t, v, fused| {
                let maps = [v[1], v[2]];
                let mut out = match fused {
                    true => t.linears(v[0], None, maps),
                    false => maps.map(|w| t.linear(v[0], w)),
                }
                .to_vec();
                out.push(v[0]);
                out
            },
        ),
        (
            "add_linear",
            vec![rows(0), rows(1), map(WIDTH, 2)],
            |t, v, fused| match fused {
                true => vec![t.add_linear(v[0], v[1], v[2])],
                false => vec![t.add(v[0], t.linear(v[1], v[2]))],
            },
        ),
    ]
}

/// The values of a case's outputs, then the gradients of its inputs under weights of their own; the last of several
/// outputs gets none where `partly`.
fn run(case: &Case, fused: bool, partly: bool) -> Vec<Vec<f32>> {
    let tape = Tape::new();
    let vars: Vec<Var> = case
        .1
        .iter()
        .enumerate()
        .map(|(i, x)| tape.leaf(x, i))
        .collect();
    let outputs = (case.2)(&tape, &vars, fused);
    let mut found: Vec<Vec<f32>> = outputs.iter().map(|&y| tape.value(y).to_vec()).collect();
    let used = if partly {
        outputs.len().max(2) - 1
    } else {
        outputs.len()
    };
    let sums = outputs[..used].iter().enumerate().map(|(i, &y)| {
        let n = tape.value(y).numel();
        let weights = normal(&[n], 1.0, 20 + i as u64).to_vec();
        tape.weighted_sum(y, weights.into())
    });
    let root = sums.reduce(|a, b| tape.add(a, b)).unwrap();
    let mut grads = Grads::new(vars.len());
    tape.backward(root, &mut grads);
    found.extend((0..vars.len()).map(|i| grads.get(i).map_or(vec![], Tensor::to_vec)));
    found
}

/// Set for the process that computes in bf16.
const OWN_PROCESS: &str = "FORGE_TEST_BF16";

#[test]
fn in_bf16() {
    if std::env::var_os(OWN_PROCESS).is_none() {
        println!("skipped: the test below runs it in a process of its own");
        return;
    }
    precision::select(Precision::Bf16).unwrap();
    for case in cases() {
        for partly in [false, true] {
            let (found, want) = (run(&case, true, partly), run(&case, false, partly));
            assert_eq!(found.len(), want.len());
            for (at, (found, want)) in found.iter().zip(&want).enumerate() {
                let top = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                // A weight that nothing came of may have zeros or no gradient.
                let zeros = vec![0.0; found.len().max(want.len())];
                let [found, want] = [found, want].map(|x| if x.is_empty() { &zeros } else { x });
                for (i, (f, w)) in found.iter().zip(want).enumerate() {
                    assert!(
                        (f - w).abs() <= 0.02 * top,
                        "{}, {at}: element {i} is {f}, not {w} (largest {top})",
                        case.0
                    );
                }
            }
        }
    }
}

#[test]
fn fused_operations_are_those_that_they_are_made_of() {
    if !tensor::isa::detect().multiplies_bf16() {
        println!("skipped: {} has no products of bf16", tensor::isa::name());
        return;
    }
    let test = std::env::current_exe().unwrap();
    let output = std::process::Command::new(test)
        .args(["--exact", "fused::in_bf16", "--nocapture"])
        .env(OWN_PROCESS, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed") && !said.contains("skipped"),
        "{said}"
    );
}
