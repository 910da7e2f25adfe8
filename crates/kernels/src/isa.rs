//! Which instruction path the kernels run on, found at run time so that one binary runs everywhere.
//!
//! The best path of the CPU is taken unless the environment variable `FORGE_ISA` names another one.
//!
//! Elementwise loops are compiled once per path from the same source by the `multiversion!` macro and
//! differ in vector width only: none of them fuses a multiplication with an addition, so their results
//! are equal bit for bit on all paths. Matrix products do fuse them, and their tiles sum in vectors of the
//! path's width; their last bits differ between paths, which is why a run records [`name`].

use std::sync::OnceLock;

/// An instruction path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every CPU of the architecture has.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// NEON, part of every arm64 CPU.
    Neon,
}

impl Isa {
    /// Every path, the best last.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512];

    /// As `FORGE_ISA`, runs and benchmarks spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU has it. arm64 has one path only: its products are the `gemm` crate's.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => !cfg!(target_arch = "aarch64"),
            Isa::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// The paths of this CPU, the best last.
pub fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// The environment variable that names a path to run on.
pub const VARIABLE: &str = "FORGE_ISA";

/// The path that `asked` names, or the best one.
///
/// # Errors
/// No such path, or this CPU does not have it: what was asked for, and what there is.
fn choose(asked: Option<&str>) -> Result<Isa, String> {
    match asked {
        None | Some("") => Ok(available().last().unwrap_or(Isa::Scalar)),
        Some(name) => available().find(|isa| isa.name() == name).ok_or_else(|| {
            let have: Vec<_> = available().map(Isa::name).collect();
            let have = have.join(", ");
            format!("{VARIABLE}={name}: the instruction paths of this CPU are {have}")
        }),
    }
}

/// The path in use, or why there is none: a program asks before it computes anything.
///
/// # Errors
/// `FORGE_ISA` names a path that this CPU does not have.
pub fn selected() -> Result<Isa, &'static str> {
    static FOUND: OnceLock<Result<Isa, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| choose(std::env::var(VARIABLE).ok().as_deref()));
    found.as_ref().map_err(String::as_str).copied()
}

/// The path in use.
///
/// # Panics
/// When there is none; see [`selected`].
pub fn detect() -> Isa {
    selected().unwrap_or_else(|why| panic!("{why}"))
}

/// The name of the path in use, as runs and benchmarks record it.
pub fn name() -> &'static str {
    detect().name()
}

/// Compiles a function once per instruction path and calls the best one.
///
/// The body must be written so that the compiler can vectorise it: plain loops over slices.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($g:ident : $bound:path),*>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(<$($g: $bound),*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::isa::detect() {
                    // SAFETY: `detect` found these features on this CPU.
                    $crate::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_best_or_the_one_asked_for() {
        let best = available().last().unwrap();
        assert_eq!(choose(None), Ok(best));
        assert_eq!(choose(Some("")), Ok(best));
        for isa in available() {
            assert_eq!(choose(Some(isa.name())), Ok(isa));
        }
        for wrong in ["sse9", "AVX2"] {
            let said = choose(Some(wrong)).unwrap_err();
            assert!(said.contains(wrong) && said.contains(best.name()), "{said}");
        }
    }
}
