//! Tiles of C from packed bf16 operands, in two ways: AMX, and AVX-512 with products of pairs.
//!
//! Both read the same packed form ([`super::pack`]): per 32 steps of k a tile of A is 16 rows of 32 elements, a
//! tile of B 16 pairs of steps by 16 columns. AMX holds 2 x 2 tiles of C beside two of A and two of B, which are
//! all eight tile registers; AVX-512 holds one tile of C in 16 vectors.

use std::arch::asm;
use std::arch::x86_64::*;

/// Rows and columns of a tile of C.
pub(in crate::cpu) const SIDE: usize = 16;

/// Rows and columns of a block of tiles.
pub(in crate::cpu) const BLOCK: usize = 2 * SIDE;

/// Steps of k in a tile of A or B.
pub(in crate::cpu) const STEPS: usize = 32;

/// Elements of a tile of A or B.
pub(in crate::cpu) const TILE: usize = SIDE * STEPS;

/// A block of tiles: C `[16 high, 16 wide]` gets the product of packed operands.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Block {
    /// Tiles of A and of C downwards, 1 or 2.
    pub(in crate::cpu) high: usize,
    /// Tiles of B and of C across, 1 or 2.
    pub(in crate::cpu) wide: usize,
    /// How many times 32 steps of k.
    pub(in crate::cpu) steps: usize,
    /// `high` tiles for each of `steps`: rows `a_row` elements apart, steps `a_step`.
    pub(in crate::cpu) a: *const u16,
    pub(in crate::cpu) a_row: usize,
    pub(in crate::cpu) a_step: usize,
    /// `wide` tiles for each of `steps`.
    pub(in crate::cpu) b: *const u16,
    /// Whether it is added to what is there.
    pub(in crate::cpu) add: bool,
    pub(in crate::cpu) c: *mut f32,
    /// Elements between two rows of C.
    pub(in crate::cpu) rsc: usize,
    /// What is brought near meanwhile, 2 KiB for each of `steps`.
    pub(in crate::cpu) next: *const u8,
}

impl Block {
    /// Operands as [`super::pack`] leaves them, in place of the old C; the panels of B after this one come near.
    pub(in crate::cpu) fn packed(
        [high, wide, steps]: [usize; 3],
        a: *const u16,
        b: *const u16,
        c: *mut f32,
        rsc: usize,
    ) -> Block {
        Block {
            high,
            wide,
            steps,
            a,
            a_row: STEPS,
            a_step: high * TILE,
            b,
            add: false,
            c,
            rsc,
            next: b.cast::<u8>().wrapping_add(8192),
        }
    }
}

/// Computes a block.
///
/// # Safety
/// A, B and C have all their elements, and the CPU has the unit that [`Unit::begin`] was called for on this thread.
pub(in crate::cpu) type Kernel = unsafe fn(&Block);

/// What multiplies bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cpu) enum Unit {
    Amx,
    Pairs,
}

/// Tile registers of this thread, released when it goes out of scope: the system need not save them then.
pub(in crate::cpu) struct Begun(Unit);

impl Begun {
    pub(in crate::cpu) fn kernel(&self) -> Kernel {
        match self.0 {
            Unit::Amx => amx,
            Unit::Pairs => pairs,
        }
    }
}

impl Unit {
    /// Prepares this thread.
    ///
    /// # Safety
    /// The CPU has the unit, and the system lets the process use it.
    pub(in crate::cpu) unsafe fn begin(self) -> Begun {
        if self == Unit::Amx {
            // Palette 1: eight tiles of 16 rows of 64 bytes.
            #[repr(C, align(64))]
            struct Config([u8; 64]);
            let mut config = Config([0; 64]);
            config.0[0] = 1;
            for tile in 0..8 {
                config.0[16 + 2 * tile] = 64;
                config.0[48 + tile] = 16;
            }
            // SAFETY: promised by the caller; reads 64 bytes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        }
        Begun(self)
    }

    /// Adds one step of tiles to a block of C over and over; see [`crate::cpu::gemm::gemm_bare_bf16`]. With AMX nothing
    /// is loaded between.
    ///
    /// # Safety
    /// The CPU has the unit; A and B are the tiles of 32 lines over 32 steps, and C is [32, 32].
    pub(in crate::cpu) unsafe fn bare(self, times: usize, a: &[u16], b: &[u16], c: &mut [f32]) {
        let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
        if times == 0 {
            return;
        }
        // SAFETY: promised by the caller.
        unsafe {
            let begun = self.begin();
            if self == Unit::Pairs {
                let block = Block {
                    add: true,
                    ..Block::packed([2, 2, 1], a, b, c, BLOCK)
                };
                return (0..times).for_each(|_| begun.kernel()(&block));
            }
            asm!(
                "tileloadd tmm0, [{c} + {row}*1]",
                "tileloadd tmm1, [{c} + {row}*1 + 64]",
                "tileloadd tmm2, [{c} + {row}*1 + 2048]",
                "tileloadd tmm3, [{c} + {row}*1 + 2112]",
                "tileloadd tmm4, [{a} + {line}*1]",
                "tileloadd tmm5, [{a} + {line}*1 + 1024]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {times}",
                "jnz 2b",
                "tilestored [{c} + {row}*1], tmm0",
                "tilestored [{c} + {row}*1 + 64], tmm1",
                "tilestored [{c} + {row}*1 + 2048], tmm2",
                "tilestored [{c} + {row}*1 + 2112], tmm3",
                a = in(reg) a,
                b = in(reg) b,
                c = in(reg) c,
                row = in(reg) 4 * BLOCK,
                line = in(reg) 64usize,
                times = inout(reg) times => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.0 == Unit::Amx {
            // SAFETY: the unit was begun on this thread.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// A kernel of some tiles: the instructions that clear or load C, those of a step, and those that store C.
macro_rules! amx {
    ($name:ident, $b:literal, [$($clear:literal)*], [$($load:literal)*], [$($step:literal)*],
     [$($store:literal)*]) => {
        /// # Safety
        /// As [`Kernel`].
        unsafe fn $name(block: &Block) {
            let Block { steps, a, a_row, a_step, b, add, c, rsc, next, .. } = *block;
            macro_rules! with {
                ($first:expr) => {
                    asm!(
                        $first,
                        "2:",
                        $($step,)*
                        "add {a0}, {a_step}",
                        "add {a1}, {a_step}",
                        concat!("add {b}, ", $b),
                        "dec {steps}",
                        "jnz 2b",
                        $($store,)*
                        a0 = inout(reg) a => _,
                        a1 = inout(reg) a.wrapping_add(SIDE * a_row) => _,
                        a_row = in(reg) 2 * a_row,
                        a_step = in(reg) 2 * a_step,
                        b = inout(reg) b => _,
                        next = inout(reg) next => _,
                        steps = inout(reg) steps => _,
                        line = in(reg) 64usize,
                        c0 = in(reg) c,
                        c1 = in(reg) c.wrapping_add(SIDE * rsc),
                        rsc = in(reg) 4 * rsc,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    )
                };
            }
            // SAFETY: passed on from the caller; prefetches follow no pointer.
            unsafe {
                if add {
                    with!(concat!($($load, "\n",)*));
                } else {
                    with!(concat!($($clear, "\n",)*));
                }
            }
        }
    };
}

amx!(amx_2x2, "2048",
    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
    ["tileloadd tmm0, [{c0} + {rsc}*1]" "tileloadd tmm1, [{c0} + {rsc}*1 + 64]"
     "tileloadd tmm2, [{c1} + {rsc}*1]" "tileloadd tmm3, [{c1} + {rsc}*1 + 64]"],
    ["tileloadd tmm6, [{b} + {line}*1]"
     "tileloadd tmm4, [{a0} + {a_row}*1]"
     // What the next block reads comes from further away.
     "prefetcht0 [{next}]" "prefetcht0 [{next} + 64]" "prefetcht0 [{next} + 128]" "prefetcht0 [{next} + 192]"
     "prefetcht0 [{next} + 256]" "prefetcht0 [{next} + 320]" "prefetcht0 [{next} + 384]" "prefetcht0 [{next} + 448]"
     "tdpbf16ps tmm0, tmm4, tmm6"
     "tileloadd tmm7, [{b} + {line}*1 + 1024]"
     "prefetcht0 [{next} + 512]" "prefetcht0 [{next} + 576]" "prefetcht0 [{next} + 640]" "prefetcht0 [{next} + 704]"
     "prefetcht0 [{next} + 768]" "prefetcht0 [{next} + 832]" "prefetcht0 [{next} + 896]" "prefetcht0 [{next} + 960]"
     "tdpbf16ps tmm1, tmm4, tmm7"
     "tileloadd tmm5, [{a1} + {a_row}*1]"
     "prefetcht0 [{next} + 1024]" "prefetcht0 [{next} + 1088]" "prefetcht0 [{next} + 1152]" "prefetcht0 [{next} + 1216]"
     "prefetcht0 [{next} + 1280]" "prefetcht0 [{next} + 1344]" "prefetcht0 [{next} + 1408]" "prefetcht0 [{next} + 1472]"
     "tdpbf16ps tmm2, tmm5, tmm6"
     "prefetcht0 [{next} + 1536]" "prefetcht0 [{next} + 1600]" "prefetcht0 [{next} + 1664]" "prefetcht0 [{next} + 1728]"
     "prefetcht0 [{next} + 1792]" "prefetcht0 [{next} + 1856]" "prefetcht0 [{next} + 1920]" "prefetcht0 [{next} + 1984]"
     "add {next}, 2048"
     "tdpbf16ps tmm3, tmm5, tmm7"],
    ["tilestored [{c0} + {rsc}*1], tmm0" "tilestored [{c0} + {rsc}*1 + 64], tmm1"
     "tilestored [{c1} + {rsc}*1], tmm2" "tilestored [{c1} + {rsc}*1 + 64], tmm3"]);

amx!(amx_2x1, "1024",
    ["tilezero tmm0" "tilezero tmm2"],
    ["tileloadd tmm0, [{c0} + {rsc}*1]" "tileloadd tmm2, [{c1} + {rsc}*1]"],
    ["tileloadd tmm6, [{b} + {line}*1]" "tileloadd tmm4, [{a0} + {a_row}*1]"
     "prefetcht0 [{next}]" "prefetcht0 [{next} + 64]" "prefetcht0 [{next} + 128]" "prefetcht0 [{next} + 192]"
     "prefetcht0 [{next} + 256]" "prefetcht0 [{next} + 320]" "prefetcht0 [{next} + 384]" "prefetcht0 [{next} + 448]"
     "prefetcht0 [{next} + 512]" "prefetcht0 [{next} + 576]" "prefetcht0 [{next} + 640]" "prefetcht0 [{next} + 704]"
     "prefetcht0 [{next} + 768]" "prefetcht0 [{next} + 832]" "prefetcht0 [{next} + 896]" "prefetcht0 [{next} + 960]"
     "tdpbf16ps tmm0, tmm4, tmm6" "tileloadd tmm5, [{a1} + {a_row}*1]"
     "prefetcht0 [{next} + 1024]" "prefetcht0 [{next} + 1088]" "prefetcht0 [{next} + 1152]" "prefetcht0 [{next} + 1216]"
     "prefetcht0 [{next} + 1280]" "prefetcht0 [{next} + 1344]" "prefetcht0 [{next} + 1408]" "prefetcht0 [{next} + 1472]"
     "prefetcht0 [{next} + 1536]" "prefetcht0 [{next} + 1600]" "prefetcht0 [{next} + 1664]" "prefetcht0 [{next} + 1728]"
     "prefetcht0 [{next} + 1792]" "prefetcht0 [{next} + 1856]" "prefetcht0 [{next} + 1920]" "prefetcht0 [{next} + 1984]"
     "add {next}, 2048"
     "tdpbf16ps tmm2, tmm5, tmm6"],
    ["tilestored [{c0} + {rsc}*1], tmm0" "tilestored [{c1} + {rsc}*1], tmm2"]);

amx!(amx_1x2, "2048",
    ["tilezero tmm0" "tilezero tmm1"],
    ["tileloadd tmm0, [{c0} + {rsc}*1]" "tileloadd tmm1, [{c0} + {rsc}*1 + 64]"],
    ["tileloadd tmm6, [{b} + {line}*1]" "tileloadd tmm4, [{a0} + {a_row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"
     "tileloadd tmm7, [{b} + {line}*1 + 1024]" "tdpbf16ps tmm1, tmm4, tmm7"],
    ["tilestored [{c0} + {rsc}*1], tmm0" "tilestored [{c0} + {rsc}*1 + 64], tmm1"
     "/* {c1} {next} */"]);

amx!(amx_1x1, "1024",
    ["tilezero tmm0"],
    ["tileloadd tmm0, [{c0} + {rsc}*1]"],
    ["tileloadd tmm6, [{b} + {line}*1]" "tileloadd tmm4, [{a0} + {a_row}*1]" "tdpbf16ps tmm0, tmm4, tmm6"],
    ["tilestored [{c0} + {rsc}*1], tmm0" "/* {c1} {next} */"]);

/// # Safety
/// As [`Kernel`].
unsafe fn amx(block: &Block) {
    // SAFETY: passed on from the caller; prefetches follow no pointer.
    unsafe {
        if block.high + block.wide == 4 {
            // C is on its way while the tiles are computed.
            for i in 0..BLOCK {
                let c = block.c.wrapping_add(i * block.rsc).cast::<i8>();
                _mm_prefetch::<_MM_HINT_ET0>(c);
                _mm_prefetch::<_MM_HINT_ET0>(c.wrapping_add(64));
            }
        }
        match (block.high, block.wide) {
            (2, 2) => amx_2x2(block),
            (2, 1) => amx_2x1(block),
            (1, 2) => amx_1x2(block),
            _ => amx_1x1(block),
        }
    }
}

/// # Safety
/// As [`Kernel`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs(block: &Block) {
    // SAFETY: passed on from the caller.
    unsafe {
        if block.wide == 2 {
            pairs_of::<8, 2>(block);
        } else {
            pairs_of::<16, 1>(block);
        }
    }
}

/// [`pairs`], so many rows at a time over the whole width of a block, which is `WIDE` tiles. What is broadcast of A is
/// multiplied by every tile of B: a CPU that multiplies as fast as it loads would wait for loads otherwise.
///
/// # Safety
/// As [`Kernel`].
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pairs_of<const ROWS: usize, const WIDE: usize>(block: &Block) {
    let Block {
        high,
        steps,
        a,
        a_row,
        a_step,
        b,
        add,
        c,
        rsc,
        ..
    } = *block;
    for first in (0..high * SIDE).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); WIDE]; ROWS];
        // SAFETY: the caller's tiles and their part of C are there.
        unsafe {
            let (a, c) = (a.add(first * a_row), c.add(first * rsc));
            if add {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (j, s) in sums.iter_mut().enumerate() {
                        *s = _mm512_loadu_ps(c.add(row * rsc + j * SIDE));
                    }
                }
            }
            for step in 0..steps {
                let (a, b) = (a.add(step * a_step), b.add(step * WIDE * TILE));
                for pair in 0..STEPS / 2 {
                    let mut tiles = [_mm512_setzero_si512(); WIDE];
                    for (j, tile) in tiles.iter_mut().enumerate() {
                        *tile = _mm512_loadu_si512(b.add(j * TILE + pair * 2 * SIDE).cast());
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let x = a.add(row * a_row + 2 * pair).cast::<i32>();
                        let x = _mm512_set1_epi32(x.read_unaligned());
                        for (s, tile) in sums.iter_mut().zip(tiles) {
                            let [x, tile] =
                                std::mem::transmute::<[__m512i; 2], [__m512bh; 2]>([x, tile]);
                            *s = _mm512_dpbf16_ps(*s, x, tile);
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (j, s) in sums.iter().enumerate() {
                    _mm512_storeu_ps(c.add(row * rsc + j * SIDE), *s);
                }
            }
        }
    }
}

/// C `[rows, cols]` = beta C + alpha X, for X with rows `stride` apart; `cols` is at most 32. With `beta` 0 the old
/// C is not read.
///
/// # Safety
/// X and C have these elements, and the CPU AVX-512.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn merge(
    x: &[f32],
    stride: usize,
    rows: usize,
    cols: usize,
    alpha: f32,
    beta: f32,
    c: *mut f32,
    rsc: usize,
) {
    let (alpha, old) = (_mm512_set1_ps(alpha), _mm512_set1_ps(beta));
    for j in (0..cols).step_by(SIDE) {
        let mask: __mmask16 = if cols - j >= SIDE {
            !0
        } else {
            (1 << (cols - j)) - 1
        };
        for i in 0..rows {
            // SAFETY: promised by the caller; masked elements are not touched.
            unsafe {
                let at = c.add(i * rsc + j);
                let new = _mm512_mul_ps(alpha, _mm512_loadu_ps(x[i * stride + j..].as_ptr()));
                let sum = if beta == 0.0 {
                    new
                } else {
                    _mm512_fmadd_ps(old, _mm512_maskz_loadu_ps(mask, at), new)
                };
                _mm512_mask_storeu_ps(at, mask, sum);
            }
        }
    }
}
