//! Training steps of the plain decoder of `forge bench train-step`, in burn on the CPU.
//!
//! The same work as `../decoder.py` does in PyTorch: 8 layers, width 512, 8 heads, SwiGLU 1376, RMSNorm, causal
//! attention without rotary embedding, vocabulary 8192 untied (33.7M parameters), AdamW, fp32. It exists so that
//! Forge's step times can be read next to those of another framework in pure Rust. burn 0.22 has two such backends,
//! `ndarray`, which it deprecates, and `flex`, which takes its place.
//!
//! One warm-up step, then the timed ones; each is forward, loss, backward and update. Progress goes to stderr, one
//! JSON object to stdout: seconds of each timed step, the peak of resident memory, the number of parameters, and the
//! loss of the warm-up step, which random weights put near ln 8192 = 9.01.
//!
//! usage: peer-burn [--backend ndarray|flex] [--steps N] [--batch N] [--sequence N]
//!
//! The number of threads is the backends' own setting, RAYON_NUM_THREADS and MATMUL_NUM_THREADS.

use std::{env, fs, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig};
use burn::nn::{RmsNorm, RmsNormConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use burn::tensor::activation::silu;
use burn::tensor::module::attention;
use burn::tensor::{Distribution, ops::AttentionModuleOptions};

const VERSION: &str = "0.22.1";
const LAYERS: usize = 8;
const VOCAB: usize = 8192;
const WIDTH: usize = 512;
const HEADS: usize = 8;
const FFN: usize = 1376;
const EPS: f64 = 1e-6;
const LEARNING_RATE: f64 = 3e-4;
const INIT: Initializer = Initializer::Normal {
    mean: 0.0,
    std: 0.02,
};
const CAUSAL: AttentionModuleOptions = AttentionModuleOptions {
    scale: None,
    softcap: None,
    is_causal: true,
};

struct Options {
    backend: String,
    steps: usize,
    batch: usize,
    sequence: usize,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            backend: "ndarray".into(),
            steps: 3,
            batch: 8,
            sequence: 256,
        };
        while let Some(flag) = args.next() {
            let value = args.next();
            let value = value.with_context(|| format!("{flag} needs a value"))?;
            if flag == "--backend" {
                options.backend = value;
                continue;
            }
            let field = match flag.as_str() {
                "--steps" => &mut options.steps,
                "--batch" => &mut options.batch,
                "--sequence" => &mut options.sequence,
                _ => bail!("unknown argument {flag}"),
            };
            *field = value.parse().with_context(|| format!("{flag} {value}"))?;
            ensure!(*field > 0, "{flag} must be at least 1");
        }
        Ok(options)
    }
}

fn device(backend: &str) -> Result<Device> {
    Ok(match backend {
        #[expect(deprecated, reason = "it is measured next to its successor")]
        "ndarray" => Device::ndarray(),
        "flex" => Device::flex(),
        _ => bail!("no backend {backend}: ndarray or flex"),
    })
}

fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    let config = LinearConfig::new(inputs, outputs).with_bias(false);
    config.with_initializer(INIT).init(device)
}

fn norm(device: &Device) -> RmsNorm {
    RmsNormConfig::new(WIDTH).with_epsilon(EPS).init(device)
}

#[derive(Module, Debug)]
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
    fn new(device: &Device) -> Self {
        Self {
            norm1: norm(device),
            norm2: norm(device),
            q: linear(WIDTH, WIDTH, device),
            k: linear(WIDTH, WIDTH, device),
            v: linear(WIDTH, WIDTH, device),
            o: linear(WIDTH, WIDTH, device),
            gate: linear(WIDTH, FFN, device),
            up: linear(WIDTH, FFN, device),
            down: linear(FFN, WIDTH, device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let heads = |y: Tensor<3>| y.reshape([b, t, HEADS, WIDTH / HEADS]).swap_dims(1, 2);
        let n = self.norm1.forward(x.clone());
        let q = heads(self.q.forward(n.clone()));
        let k = heads(self.k.forward(n.clone()));
        let v = heads(self.v.forward(n));
        let a = attention(q, k, v, None, None, CAUSAL);
        let x = x + self.o.forward(a.swap_dims(1, 2).reshape([b, t, WIDTH]));
        let n = self.norm2.forward(x.clone());
        let gated = silu(self.gate.forward(n.clone())) * self.up.forward(n);
        x + self.down.forward(gated)
    }
}

#[derive(Module, Debug)]
struct Decoder {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
}

impl Decoder {
    fn new(device: &Device) -> Self {
        let embed = EmbeddingConfig::new(VOCAB, WIDTH).with_initializer(INIT);
        Self {
            embed: embed.init(device),
            blocks: (0..LAYERS).map(|_| Block::new(device)).collect(),
            norm: norm(device),
            head: linear(WIDTH, VOCAB, device),
        }
    }

    fn loss(&self, tokens: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        let device = tokens.device();
        let h = self.embed.forward(tokens);
        let h = self.blocks.iter().fold(h, |h, block| block.forward(h));
        let logits = self.head.forward(self.norm.forward(h));
        let cross_entropy = CrossEntropyLossConfig::new().init(&device);
        cross_entropy.forward(logits.flatten(0, 1), targets.flatten(0, 1))
    }
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
    let device = device(&options.backend)?.autodiff();
    device.seed(0);
    let mut model = Decoder::new(&device);
    let params = model.num_params();
    let mut optimizer = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.95)
        .with_epsilon(1e-8)
        .with_weight_decay(0.1)
        .init();

    let (batch, t) = (options.batch, options.sequence);
    let uniform = Distribution::Uniform(0.0, VOCAB as f64);
    let ids = Tensor::<2, Int>::random([batch, t + 1], uniform, &device);
    let (tokens, targets) = (ids.clone().narrow(1, 0, t), ids.narrow(1, 1, t));

    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..=options.steps {
        let begun = Instant::now();
        let loss = model.loss(tokens.clone(), targets.clone());
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LEARNING_RATE, model, grads);
        losses.push(loss.try_into_scalar::<f32>()?);
        device.sync()?;
        let took = begun.elapsed().as_secs_f64();
        eprintln!("step {step}: loss {:.4}, {took:.3} s", losses[step]);
        seconds.push(took);
    }
    println!(
        r#"{{"name": "burn {VERSION} ({})", "seconds": {:?}, "peak_rss_mib": {:.1}, "params": {params}, "loss": {:.4}}}"#,
        options.backend,
        &seconds[1..],
        peak_rss_mib()?,
        losses[0],
    );
    Ok(())
}
