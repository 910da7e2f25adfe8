"""Training steps of the plain decoder of `forge bench train-step`, in PyTorch.

8 layers, width 512, 8 heads, SwiGLU 1376, RMSNorm, no rotary embedding, vocabulary 8192 untied (33.7M
parameters), AdamW. Prints one JSON object: seconds of each timed step, and the peak of resident memory.

usage: decoder.py --precision f32|bf16 [--compile] [--steps N] [--batch N] [--sequence N] [--layers N] [--threads N]
"""

import argparse
import json
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, WIDTH, HEADS, FFN, EPS = 8192, 512, 8, 1376, 1e-6


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, EPS), nn.RMSNorm(WIDTH, EPS)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.k, self.v, self.o = (linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up, self.down = linear(WIDTH, FFN), linear(WIDTH, FFN), linear(FFN, WIDTH)

    def forward(self, x):
        b, t, _ = x.shape
        n = self.norm1(x)
        heads = lambda y: y.view(b, t, HEADS, WIDTH // HEADS).transpose(1, 2)
        a = F.scaled_dot_product_attention(heads(self.q(n)), heads(self.k(n)), heads(self.v(n)), is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, WIDTH))
        n = self.norm2(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Decoder(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.norm = nn.RMSNorm(WIDTH, EPS)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens, targets):
        h = self.embed(tokens)
        for block in self.blocks:
            h = block(h)
        return F.cross_entropy(self.head(self.norm(h)).view(-1, VOCAB).float(), targets.view(-1))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--precision", choices=["f32", "bf16"], required=True)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--sequence", type=int, default=256)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = Decoder(a.layers)
    ids = torch.randint(0, VOCAB, (a.batch, a.sequence + 1))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    step = torch.compile(model) if a.compile else model
    seconds = []
    # The first steps compile and warm the buffers.
    for _ in range(a.steps + 2):
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = step(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "seconds": seconds[2:],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


main()
