//! Training steps of the plain decoder of `forge bench train-step`, in candle on the CPU.
//!
//! The same work as `../decoder.py` does in PyTorch: 8 layers, width 512, 8 heads, SwiGLU 1376, RMSNorm, causal
//! attention without rotary embedding, vocabulary 8192 untied (33.7M parameters), AdamW, fp32. It exists so that
//! Forge's step times can be read next to those of another framework in pure Rust.
//!
//! One warm-up step, then the timed ones; each is forward, loss, backward and update. Progress goes to stderr, one
//! JSON object to stdout: seconds of each timed step, the peak of resident memory, the number of parameters, and the
//! loss of the warm-up step, which random weights put near ln 8192 = 9.01.
//!
//! usage: peer-candle [--steps N] [--batch N] [--sequence N]
//!
//! The number of threads is candle's own setting, RAYON_NUM_THREADS.

use std::{env, fs, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Embedding, Init, Linear, Module, Optimizer, ParamsAdamW, RmsNorm};
use candle_nn::{VarBuilder, VarMap, loss, ops, rms_norm};

const NAME: &str = "candle 0.11.1";
const LAYERS: usize = 8;
const VOCAB: usize = 8192;
const WIDTH: usize = 512;
const HEADS: usize = 8;
const FFN: usize = 1376;
const EPS: f64 = 1e-6;
const INIT: Init = Init::Randn {
    mean: 0.0,
    stdev: 0.02,
};

struct Options {
    steps: usize,
    batch: usize,
    sequence: usize,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            steps: 3,
            batch: 8,
            sequence: 256,
        };
        while let Some(flag) = args.next() {
            let field = match flag.as_str() {
                "--steps" => &mut options.steps,
                "--batch" => &mut options.batch,
                "--sequence" => &mut options.sequence,
                _ => bail!("unknown argument {flag}"),
            };
            let value = args.next();
            let value = value.with_context(|| format!("{flag} needs a number"))?;
            *field = value.parse().with_context(|| format!("{flag} {value}"))?;
            ensure!(*field > 0, "{flag} must be at least 1");
        }
        Ok(options)
    }
}

fn linear(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get_with_hints((outputs, inputs), "weight", INIT)?;
    Ok(Linear::new(weight, None))
}

struct Block {
    norm1: RmsNorm,
    norm2: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: rms_norm(WIDTH, EPS, vb.pp("norm1"))?,
            norm2: rms_norm(WIDTH, EPS, vb.pp("norm2"))?,
            q: linear(WIDTH, WIDTH, vb.pp("q"))?,
            k: linear(WIDTH, WIDTH, vb.pp("k"))?,
            v: linear(WIDTH, WIDTH, vb.pp("v"))?,
            o: linear(WIDTH, WIDTH, vb.pp("o"))?,
            gate: linear(WIDTH, FFN, vb.pp("gate"))?,
            up: linear(WIDTH, FFN, vb.pp("up"))?,
            down: linear(FFN, WIDTH, vb.pp("down"))?,
        })
    }

    /// candle's fused norm, softmax and attention have no backward pass, so these are the variants that have one.
    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (b, t, _) = x.dims3()?;
        let split = (b, t, HEADS, WIDTH / HEADS);
        let heads = |y: Tensor| y.reshape(split)?.transpose(1, 2)?.contiguous();
        let n = self.norm1.forward_diff(x)?;
        let q = (heads(self.q.forward(&n)?)? * ((WIDTH / HEADS) as f64).powf(-0.5))?;
        let k = heads(self.k.forward(&n)?)?;
        let v = heads(self.v.forward(&n)?)?;
        let scores = q.matmul(&k.t()?)?.broadcast_add(mask)?;
        let a = ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let a = a.transpose(1, 2)?.reshape((b, t, WIDTH))?;
        let x = (x + self.o.forward(&a)?)?;
        let n = self.norm2.forward_diff(&x)?;
        let gated = (ops::silu(&self.gate.forward(&n)?)? * self.up.forward(&n)?)?;
        Ok((x + self.down.forward(&gated)?)?)
    }
}

struct Decoder {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl Decoder {
    fn new(vb: VarBuilder) -> Result<Self> {
        let embeddings = vb.get_with_hints((VOCAB, WIDTH), "embed.weight", INIT)?;
        Ok(Self {
            embed: Embedding::new(embeddings, WIDTH),
            blocks: (0..LAYERS)
                .map(|i| Block::new(vb.pp(format!("blocks.{i}"))))
                .collect::<Result<_>>()?,
            norm: rms_norm(WIDTH, EPS, vb.pp("norm"))?,
            head: linear(WIDTH, VOCAB, vb.pp("head"))?,
        })
    }

    fn loss(&self, tokens: &Tensor, targets: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let mut h = self.embed.forward(tokens)?;
        for block in &self.blocks {
            h = block.forward(&h, mask)?;
        }
        let logits = self.head.forward(&self.norm.forward_diff(&h)?)?;
        let targets = targets.flatten_all()?;
        Ok(loss::cross_entropy(&logits.flatten_to(1)?, &targets)?)
    }
}

/// What is added to the scores: minus infinity where a position would look ahead.
fn causal_mask(t: usize, device: &Device) -> Result<Tensor> {
    let value = |at| {
        if at % t > at / t {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    };
    let mask = (0..t * t).map(value).collect();
    Ok(Tensor::from_vec(mask, (t, t), device)?)
}

fn peak_rss_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mut words = status.split_whitespace();
    words.find(|&word| word == "VmHWM:");
    let kib = words.next().context("no VmHWM in /proc/self/status")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

fn main() -> Result<()> {
    let options = Options::parse(env::args().skip(1))?;

    let device = Device::Cpu;
    let variables = VarMap::new();
    let model = Decoder::new(VarBuilder::from_varmap(&variables, DType::F32, &device))?;
    let variables = variables.all_vars();
    let params: usize = variables.iter().map(|v| v.elem_count()).sum();
    let adamw = ParamsAdamW {
        lr: 3e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let mut optimizer = AdamW::new(variables, adamw)?;

    let t = options.sequence;
    let ids = Tensor::rand(0.0, VOCAB as f32, (options.batch, t + 1), &device)?;
    let ids = ids.to_dtype(DType::U32)?;
    let (tokens, targets) = (ids.narrow(1, 0, t)?, ids.narrow(1, 1, t)?);
    let mask = causal_mask(t, &device)?;

    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..=options.steps {
        let begun = Instant::now();
        let loss = model.loss(&tokens, &targets, &mask)?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
        drop(loss);
        let took = begun.elapsed().as_secs_f64();
        eprintln!("step {step}: loss {:.4}, {took:.3} s", losses[step]);
        seconds.push(took);
    }
    println!(
        r#"{{"name": "{NAME}", "seconds": {:?}, "peak_rss_mib": {:.1}, "params": {params}, "loss": {:.4}}}"#,
        &seconds[1..],
        peak_rss_mib()?,
        losses[0],
    );
    Ok(())
}
