//! The table as a configuration file would use it: whole models in, whole tensor out, errors first.

use merge::{Error, Inputs, METHODS, Parameters, method};

const BASE: [f32; 3] = [1.0, 1.0, 1.0];
const A: [f32; 3] = [2.0, 1.0, 0.0];
const B: [f32; 3] = [1.0, 3.0, 1.0];

fn run(name: &str, models: &[&[f32]], parameters: &Parameters) -> Vec<f32> {
    let row = method(name).unwrap();
    parameters.check(row, models.len(), true).unwrap();
    (row.run)(
        &Inputs {
            tensor: "w",
            base: Some(&BASE),
            models,
        },
        parameters,
    )
}

#[test]
fn methods_on_task_vectors_add_the_base_back() {
    let half = Parameters {
        lambda: 0.5,
        drop: 0.0,
        density: 1.0,
        ..Parameters::default()
    };
    assert_eq!(run("task_arithmetic", &[&A, &B], &half), [1.5, 2.0, 0.5]);
    assert_eq!(run("dare", &[&A, &B], &half), [1.5, 2.0, 0.5]);
    assert_eq!(run("ties", &[&A, &B], &half), [1.5, 2.0, 0.5]);
    assert_eq!(
        run("passthrough", &[&B], &Parameters { scale: 2.0, ..half }),
        [2.0, 6.0, 2.0]
    );
}

#[test]
fn merging_a_model_with_itself_gives_it_back_by_every_method() {
    let exact = Parameters {
        drop: 0.0,
        density: 1.0,
        ..Parameters::default()
    };
    for row in METHODS {
        let models: &[&[f32]] = if row.models.0 == 1 { &[&A] } else { &[&A, &A] };
        assert_eq!(run(row.name, models, &exact), A, "{}", row.name);
    }
}

#[test]
fn wrong_settings_are_refused_with_what_is_allowed() {
    let defaults = Parameters::default();
    let unknown = method("tise").unwrap_err();
    assert!(
        unknown
            .to_string()
            .contains("linear, slerp, task_arithmetic, dare, ties, passthrough")
    );
    let slerp = method("slerp").unwrap();
    assert!(matches!(
        defaults.check(slerp, 4, true),
        Err(Error::Models { found: 4, .. })
    ));
    assert!(matches!(
        defaults.check(slerp, 3, true),
        Err(Error::Parameter { name: "t", .. })
    ));
    let ties = method("ties").unwrap();
    assert!(matches!(
        defaults.check(ties, 2, false),
        Err(Error::NoBase { method: "ties" })
    ));
    for (bad, key) in [
        (
            Parameters {
                density: 0.0,
                ..defaults.clone()
            },
            "density",
        ),
        (
            Parameters {
                density: f64::NAN,
                ..defaults.clone()
            },
            "density",
        ),
        (
            Parameters {
                drop: 1.0,
                ..defaults.clone()
            },
            "drop",
        ),
        (
            Parameters {
                lambda: f64::INFINITY,
                ..defaults.clone()
            },
            "lambda",
        ),
        (
            Parameters {
                weights: vec![1.0],
                ..defaults.clone()
            },
            "weight",
        ),
        (
            Parameters {
                scale: f64::NAN,
                ..defaults.clone()
            },
            "scale",
        ),
    ] {
        let message = bad.check(ties, 2, true).unwrap_err().to_string();
        assert!(
            message.contains(key) && message.contains("allowed"),
            "{message}"
        );
    }
}

#[test]
#[should_panic(expected = "different lengths [2, 3]")]
fn tensors_of_different_lengths_are_a_programmers_mistake() {
    merge::linear(&[&A[..2], &B], &[1.0, 1.0], true);
}
