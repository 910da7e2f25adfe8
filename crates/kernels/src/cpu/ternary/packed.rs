//! How ternary codes lie: in memory for the kernels, and in files.
//!
//! * **In memory**, 2 bits a code, rows padded to blocks of 32 columns with zero weights. Byte j of a block's 8
//!   holds columns j, j + 8, j + 16 and j + 24, so that one shift a lane unpacks a block in order. A code is
//!   0, 1 or 2 for the weight -1, 0 or 1.
//! * **Base 3** for files: 5 codes a byte, 1.6 bits a weight, rows padded to whole bytes. A byte is
//!   ceil(256 v / 243) of the five digits' value v; digit p is (((b 3^p) mod 256) 3) / 256 (llama.cpp's TQ1_0).
//! * **Two bits** for files: the memory form with rows padded to whole bytes, 4 neighbouring codes a byte.
//!
//! Files are read with checks: bytes that no code has are refused, not guessed at.

/// Columns of a block.
pub const BLOCK: usize = 32;

/// How a file holds codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// 5 codes a byte.
    Base3,
    /// 4 codes a byte.
    TwoBit,
}

impl Packing {
    /// Codes of one byte.
    pub fn codes_per_byte(self) -> usize {
        match self {
            Packing::Base3 => 5,
            Packing::TwoBit => 4,
        }
    }

    /// Bytes of a row of `cols` columns.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols.div_ceil(self.codes_per_byte())
    }

    fn encode(self, codes: &[i8]) -> u8 {
        let digit = |i: usize| (codes.get(i).copied().unwrap_or(0) + 1) as u32;
        match self {
            Packing::Base3 => {
                let v = (0..5).fold(0, |v, i| v * 3 + digit(i));
                (v * 256).div_ceil(243) as u8
            }
            Packing::TwoBit => (0..4).fold(0, |b, i| b | (digit(i) << (2 * i))) as u8,
        }
    }

    fn decode(self, byte: u8, codes: &mut [i8]) {
        match self {
            Packing::Base3 => {
                let mut b = u32::from(byte);
                for c in codes {
                    *c = ((b * 3) >> 8) as i8 - 1;
                    b = (b * 3) & 0xff;
                }
            }
            Packing::TwoBit => {
                for (i, c) in codes.iter_mut().enumerate() {
                    *c = ((byte >> (2 * i)) & 3) as i8 - 1;
                }
            }
        }
    }

    /// Codes [O, I] as the bytes of a file.
    pub fn pack(self, codes: &[i8], cols: usize) -> Vec<u8> {
        let n = self.codes_per_byte();
        codes
            .chunks(cols)
            .flat_map(|row| row.chunks(n).map(|c| self.encode(c)))
            .collect()
    }

    /// The codes [O, I] in the bytes of a file; the first byte that stands for none is named.
    pub fn unpack(self, bytes: &[u8], cols: usize) -> Result<Vec<i8>, BadByte> {
        let n = self.codes_per_byte();
        let mut codes = vec![0; bytes.len() / self.row_bytes(cols).max(1) * cols];
        for (r, (row, bytes)) in codes
            .chunks_mut(cols)
            .zip(bytes.chunks(self.row_bytes(cols)))
            .enumerate()
        {
            for (j, (c, &byte)) in row.chunks_mut(n).zip(bytes).enumerate() {
                self.decode(byte, c);
                if self.encode(c) != byte || c.iter().any(|&c| c > 1) {
                    return Err(BadByte {
                        at: r * self.row_bytes(cols) + j,
                        byte,
                    });
                }
            }
        }
        Ok(codes)
    }
}

/// A byte that no five (or four) codes pack to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadByte {
    /// Where it stands.
    pub at: usize,
    /// What it is.
    pub byte: u8,
}

/// A ternary matrix [O, I] in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    scales: Vec<f32>,
}

impl Packed {
    /// From codes [O, I] in {-1, 0, 1} and one scale a row.
    #[track_caller]
    pub fn new(codes: &[i8], scales: Vec<f32>, cols: usize) -> Self {
        assert_eq!(
            codes.len(),
            cols * scales.len(),
            "packed: codes for {} rows of {cols}",
            scales.len()
        );
        assert!(
            codes.iter().all(|c| (-1..=1).contains(c)),
            "packed: codes are -1, 0 and 1"
        );
        let stride = cols.next_multiple_of(BLOCK) / 4;
        // 0b01 four times: weight zero.
        let mut bytes = vec![0x55; stride * scales.len()];
        for (row, bytes) in codes.chunks(cols).zip(bytes.chunks_mut(stride)) {
            for (i, &c) in row.iter().enumerate() {
                let (block, at) = (i / BLOCK, i % BLOCK);
                let shift = 2 * (at / 8);
                let byte = &mut bytes[block * BLOCK / 4 + at % 8];
                *byte = (*byte & !(3 << shift)) | (((c + 1) as u8) << shift);
            }
        }
        Self {
            rows: scales.len(),
            cols,
            bytes,
            scales,
        }
    }

    /// O
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// I
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// I, filled up to whole blocks: the length of a token's activations.
    pub fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(BLOCK)
    }
    /// One a row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + 4 * self.scales.len()
    }
    /// The bytes of a row.
    pub(super) fn row(&self, r: usize) -> &[u8] {
        let stride = self.padded_cols() / 4;
        &self.bytes[r * stride..][..stride]
    }

    /// The codes [O, I].
    pub fn codes(&self) -> Vec<i8> {
        let code = |r: usize, i: usize| {
            let (block, at) = (i / BLOCK, i % BLOCK);
            ((self.row(r)[block * BLOCK / 4 + at % 8] >> (2 * (at / 8))) & 3) as i8 - 1
        };
        (0..self.rows)
            .flat_map(|r| (0..self.cols).map(move |i| code(r, i)))
            .collect()
    }
}
