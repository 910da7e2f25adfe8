//! Which instruction path the kernels run on, found at run time so that one binary runs everywhere.
//!
//! The best path of the CPU is taken unless the program asks for another one before it computes anything
//! ([`select`]).
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
    /// AVX-512 with products of pairs of bf16.
    Avx512Bf16,
    /// The same, and products of tiles of bf16 (AMX), which Linux grants on request.
    Amx,
    /// NEON, part of every arm64 CPU.
    Neon,
}

impl Isa {
    /// Every path, the best last.
    pub const ALL: [Isa; 6] = [
        Isa::Scalar,
        Isa::Neon,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Bf16,
        Isa::Amx,
    ];

    /// As `FORGE_ISA`, runs and benchmarks spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.available() && amx::granted(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The path of loops over vectors, and of products of fp32.
    pub fn vectors(self) -> Isa {
        match self {
            Isa::Avx512Bf16 | Isa::Amx => Isa::Avx512,
            other => other,
        }
    }

    /// Whether it has products of bf16 operands.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Avx512Bf16 | Isa::Amx)
    }

    /// Whether products of bf16 operands take less time than those of fp32: tiles do everywhere, pairs on CPUs of AMD
    /// (since Zen 4), which multiply a vector of them as fast as a vector of fp32, and not on those of Intel, which take
    /// twice as long (docs/log.md).
    pub fn multiplies_bf16_faster(self) -> bool {
        match self {
            Isa::Amx => true,
            Isa::Avx512Bf16 => made_by(b"AuthenticAMD"),
            _ => false,
        }
    }
}

/// Whether the CPU names this vendor.
#[cfg(target_arch = "x86_64")]
fn made_by(vendor: &[u8; 12]) -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    let named = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    named.as_flattened() == vendor
}

#[cfg(not(target_arch = "x86_64"))]
fn made_by(_: &[u8; 12]) -> bool {
    false
}

/// Whether the CPU has tiles of bf16 and the system lets this process use them.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::__cpuid_count;

    pub(super) fn granted() -> bool {
        // Leaf 7: bit 22 says bf16 tiles, bit 24 tiles at all.
        const NEEDED: u32 = 1 << 22 | 1 << 24;
        let there = __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED;
        there && asked()
    }

    /// The state of tiles is large, so Linux hands it out on request, once for all threads of a process.
    #[cfg(target_os = "linux")]
    fn asked() -> bool {
        const REQUEST: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: asks for a permission; changes no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
    }

    #[cfg(not(target_os = "linux"))]
    fn asked() -> bool {
        false
    }
}

/// The paths of this CPU, the best last.
pub fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

static IN_USE: OnceLock<Isa> = OnceLock::new();

/// The path of this CPU that has this name.
///
/// # Errors
/// There is none: what was asked for, and what there is.
fn named(name: &str) -> Result<Isa, String> {
    available().find(|isa| isa.name() == name).ok_or_else(|| {
        let have: Vec<_> = available().map(Isa::name).collect();
        let have = have.join(", ");
        format!("`{name}` is no instruction path of this CPU; it has {have}")
    })
}

/// Takes the path of this name instead of the best one, for as long as the process lives.
///
/// # Errors
/// This CPU has no such path, or another one is in use already.
pub fn select(name: &str) -> Result<(), String> {
    let isa = named(name)?;
    match *IN_USE.get_or_init(|| isa) {
        used if used == isa => Ok(()),
        used => Err(format!("path {} is in use already", used.name())),
    }
}

/// The path in use.
pub fn detect() -> Isa {
    *IN_USE.get_or_init(|| available().last().unwrap_or(Isa::Scalar))
}

/// The path in use for loops over vectors, and for products of fp32.
pub fn vectors() -> Isa {
    detect().vectors()
}

/// The name of the path in use, as runs and benchmarks record it.
pub fn name() -> &'static str {
    detect().name()
}

/// Compiles a function once per instruction path and calls the best one.
///
/// The body must be written so that the compiler can vectorise it: plain loops over slices.
#[macro_export]
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
                match $crate::isa::vectors() {
                    // SAFETY: `vectors` found these features on this CPU.
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
pub use multiversion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_the_one_that_the_system_names() {
        let Ok(said) = std::fs::read_to_string("/proc/cpuinfo") else {
            println!("skipped: the system names no vendor");
            return;
        };
        let names = |vendor: &str| {
            said.lines()
                .any(|l| l.starts_with("vendor_id") && l.ends_with(vendor))
        };
        let claims = [made_by(b"AuthenticAMD"), made_by(b"GenuineIntel")];
        assert_eq!(claims, [names("AuthenticAMD"), names("GenuineIntel")]);
        for isa in Isa::ALL {
            assert!(
                isa.multiplies_bf16() || !isa.multiplies_bf16_faster(),
                "{isa:?}"
            );
        }
    }

    #[test]
    fn a_path_is_found_by_its_name_or_refused_with_those_there_are() {
        let best = available().last().unwrap_or(Isa::Scalar);
        for isa in available() {
            assert_eq!(named(isa.name()), Ok(isa));
        }
        for wrong in ["sse9", "AVX2", ""] {
            let said = named(wrong).map_err(|e| e.contains(wrong) && e.contains(best.name()));
            assert_eq!(said, Err(true), "{wrong}");
        }
        assert_eq!(detect(), best);
        assert_eq!(select(best.name()), Ok(()));
        if best != Isa::Scalar && Isa::Scalar.available() {
            let said = select("scalar").map_err(|e| e.contains(best.name()));
            assert_eq!(said, Err(true));
        }
    }
}
