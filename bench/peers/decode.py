"""Generation by the plain decoder of `forge bench decode decoder`, in PyTorch.

8 layers, width 512, 8 heads, SwiGLU 1376, RMSNorm, RoPE, vocabulary 8192 untied (33.7M parameters), random weights. As
gpt-fast has it: a static KV cache of prompt and new tokens, one compiled graph for each next token, greedy, weights
frozen into the graph so that they are packed once. Prints one JSON object.

usage: decode.py --precision f32|bf16 [--compile] [--batch N] [--prompt N] [--new N] [--threads N]
"""

import argparse
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch._inductor import config as inductor

VOCAB, WIDTH, HEADS, FFN, LAYERS, EPS, THETA = 8192, 512, 8, 1376, 8, 1e-6, 1e4
HEAD = WIDTH // HEADS


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, batch, positions):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, EPS), nn.RMSNorm(WIDTH, EPS)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.qkv, self.o = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
        self.gate_up, self.down = linear(WIDTH, 2 * FFN), linear(FFN, WIDTH)
        for name in ["keys", "values"]:
            self.register_buffer(name, torch.zeros(batch, HEADS, positions, HEAD))

    def forward(self, x, at, cos, sin, mask):
        """x [B, T, W], the rows of the positions `at`."""
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
        self.keys.index_copy_(2, at, rotate(k, cos, sin))
        self.values.index_copy_(2, at, v)
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), self.keys, self.values, attn_mask=mask)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, WIDTH))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, batch, positions):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block(batch, positions) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, EPS)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens, at):
        """tokens [B, T] at positions `at` [T] -> the likeliest token behind the last of them [B, 1]."""
        angle = at[:, None] * THETA ** (-torch.arange(HEAD // 2) / (HEAD // 2))
        cos, sin = angle.cos(), angle.sin()
        mask = at[:, None] >= torch.arange(self.blocks[0].keys.shape[2])[None]
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, at, cos, sin, mask)
        return self.head(self.norm(x[:, -1:])).argmax(-1)


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser()
    p.add_argument("--precision", choices=["f32", "bf16"], required=True)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--new", type=int, default=64)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = Decoder(a.batch, a.prompt + a.new).eval()
    if a.precision == "bf16":
        model = model.to(torch.bfloat16)
    step = model
    if a.compile:
        inductor.freezing = True
        step = torch.compile(model)
    prompts = torch.randint(0, VOCAB, (a.batch, a.prompt))
    # Once to compile and to warm the buffers.
    token = model(prompts, torch.arange(a.prompt))
    for i in range(3):
        step(token, torch.tensor([a.prompt + i]))
    seconds = []
    for i in range(a.new):
        begun = time.perf_counter()
        token = step(token, torch.tensor([a.prompt + i]))
        token.tolist()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({
        "torch": torch.__version__,
        "params": sum(x.numel() for x in model.parameters()),
        "decode_tokens_per_second": a.batch * a.new / sum(seconds),
        "median_step_seconds": statistics.median(seconds),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


main()
