"""The plain decoder of `forge bench curve --variant plain`, trained in PyTorch with AdamW on the same batches.

Everything comes from the folder that `forge bench curve --export DIR` wrote: configuration, first weights, batches in
their order, held-out texts as tokens. The model is the Cognate's with one pass and no memory, so a plain pre-norm
decoder (QK-norm, RoPE, SwiGLU, sliding window, four persistent keys a layer, tied embedding) with two linear maps of
the residual stream around its middle layers, 4% of the parameters. Weights trained by Forge run here as they are;
`--weights end.safetensors --steps 0` shows that both give the same bits per byte.

Rows are laid out as it suits PyTorch: the pieces of a batch behind one another, attention over blocks of one window,
each of which sees itself and the block before, other documents masked. Shapes never change, so one graph is compiled
for training and one for evaluation. What a row computes is the same as piece by piece.

Prints one JSON object. Neither compiling nor measuring counts as training time.

usage: plain.py DIR --seconds N|--steps N --lr X [--schedule cosine|linear] [--points N] [--weights FILE] [--precision f32|bf16]
                [--no-compile] [--threads N]
"""

import argparse
import json
import math
import pathlib
import resource
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn

WARM_UP = 0.05
IGNORED = -100


def read_safetensors(path):
    """Name -> fp32 tensor."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)

    def tensor(entry):
        assert entry["dtype"] == "F32", entry
        begin, end = (8 + size + at for at in entry["data_offsets"])
        return torch.from_numpy(numpy.frombuffer(raw[begin:end], "<f4").copy()).view(entry["shape"])

    return {name: tensor(entry) for name, entry in header.items()}


class Rows:
    """Pieces as rows of one fixed length: N tokens, targets, positions in their documents, and whose rows they are."""

    def __init__(self, pieces, length):
        rows = sum(len(p["tokens"]) - 1 for p in pieces)
        assert rows <= length, f"{rows} rows where {length} fit"
        pad = [0] * (length - rows)
        tokens, targets, positions, owners = [], [], [], []
        for i, p in enumerate(pieces):
            own = list(p["tokens"][1:])
            for at in p.get("unscored", ()):
                own[at] = IGNORED
            tokens += p["tokens"][:-1]
            targets += own
            positions += range(p["start"], p["start"] + len(own))
            owners += [i] * len(own)
        self.predictions = sum(t != IGNORED for t in targets)
        ids = lambda *parts: torch.tensor(sum(parts, []))
        self.inputs = (ids(tokens, pad), ids(targets, [IGNORED] * len(pad)), ids(positions, pad), ids(owners, [-1] * len(pad)))


class Plain(nn.Module):
    def __init__(self, config, weights):
        super().__init__()
        self.c = config
        self.hd = config["width"] // config["heads"]
        self.p = nn.ParameterDict({name.replace(".", "/"): nn.Parameter(w) for name, w in weights.items()})

    def w(self, name):
        return self.p[name.replace(".", "/")]

    def rms(self, x, eps=1e-6):
        x = x.float()
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)

    def rotation(self, positions):
        half = self.hd // 2
        rate = self.c["rope_theta"] ** (-torch.arange(half) / half)
        angle = positions[:, None, None] * rate
        return angle.cos(), angle.sin()

    def mask(self, owners):
        """0 for the keys that a query sees, else -inf: [blocks, 1, window, prefix + 2 window], the block's before first."""
        size, prefix = self.c["window"], self.c["prefix"]
        own = owners.view(-1, size)
        before = torch.cat([torch.full_like(own[:1], -2), own[:-1]])
        back = size + torch.arange(size)[:, None] - torch.arange(2 * size)[None]
        seen = (own[:, :, None] == torch.cat([before, own], 1)[:, None]) & (back >= 0) & (back < size)
        always = torch.ones(len(own), size, prefix, dtype=torch.bool)
        return torch.zeros(len(own), 1, size, prefix + 2 * size).masked_fill(~torch.cat([always, seen], 2)[:, None], -math.inf)

    def attention(self, i, n, rotation, mask):
        h, size = self.c["heads"], self.c["window"]
        w = lambda name: self.w(f"blocks.{i}.attn.{name}")
        qkv = F.linear(n, torch.cat([w("q.weight"), w("k.weight"), w("v.weight")]))
        q, k, v = (x.view(len(n), h, self.hd) for x in qkv.chunk(3, -1))
        cos, sin = rotation

        def unit(x, gain):
            a, b = (self.rms(x) * gain[:, None]).chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(v.dtype)

        def keys(x, prefix):
            own = x.view(-1, size, h, self.hd)
            before = torch.cat([torch.zeros_like(own[:1]), own[:-1]])
            prefix = prefix.view(1, -1, h, self.hd).to(x.dtype).expand(len(own), -1, -1, -1)
            return torch.cat([prefix, before, own], 1)

        # Two products around a softmax, compiled, take half the time of scaled_dot_product_attention here, whose
        # backward pass is slow at a head width of 32.
        each = lambda x: x.transpose(1, 2).reshape(-1, x.shape[1], self.hd)
        q = each(unit(q, w("q_gain")).view(-1, size, h, self.hd))
        k, v = each(keys(unit(k, w("k_gain")), w("prefix_k"))), each(keys(v, w("prefix_v")))
        scores = torch.bmm(q, k.transpose(1, 2)).view(-1, h, size, k.shape[1]).float() / math.sqrt(self.hd) + mask
        a = torch.bmm(torch.softmax(scores, -1).to(v.dtype).view(-1, size, k.shape[1]), v)
        return a.view(-1, h, size, self.hd).transpose(1, 2).reshape(len(n), -1)

    def block(self, i, x, rotation, mask):
        w = lambda name: self.w(f"blocks.{i}.{name}")
        n = self.rms(x, self.c["eps"]) * w("norm1.weight")
        x = x + F.linear(self.attention(i, n, rotation, mask), w("attn.o.weight"))
        n = self.rms(x, self.c["eps"]) * w("norm2.weight")
        gate, up = F.linear(n, torch.cat([w("ffn.gate.weight"), w("ffn.up.weight")])).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, w("ffn.down.weight"))

    def forward(self, tokens, targets, positions, owners):
        """All [N] -> the sum of the negative log-likelihoods, and of each row [N]."""
        rotation, mask = self.rotation(positions), self.mask(owners)
        part = lambda name: [i for i, b in enumerate(self.c["blocks"]) if b["part"] == name]
        x = F.embedding(tokens, self.w("embed.weight"))
        for i in part("stem"):
            x = self.block(i, x, rotation, mask)
        h = F.linear(torch.cat([x, x, self.w("core.z0").expand_as(x)], -1), self.w("core.in.weight"))
        for i in part("core"):
            h = self.block(i, h, rotation, mask)
        x = x + F.linear(self.rms(h, self.c["eps"]) * self.w("core.norm.weight"), self.w("core.out.weight"))
        for i in part("tail"):
            x = self.block(i, x, rotation, mask)
        x = self.rms(x, self.c["eps"]) * self.w("norm.weight")
        logits = F.linear(x, self.w("embed.weight")).float()
        each = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        return each.sum(), each.detach()

    def optimizer(self, lr):
        """Decay for the hidden matrices alone, as usual."""
        hidden = lambda name, w: w.dim() == 2 and not any(o in name for o in ("embed", "prefix", "z0"))
        groups = ([], [])
        for name, w in self.p.items():
            groups[hidden(name, w)].append(w)
        groups = [{"params": g, "weight_decay": decay} for g, decay in zip(groups, (0.0, 0.1))]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def factor(gone, schedule):
    """Of the learning rate when a share of the training is gone: linear warm-up, then down to nothing."""
    rest = min(1.0, max(0.0, gone - WARM_UP) / (1 - WARM_UP))
    down = 0.5 + 0.5 * math.cos(math.pi * rest) if schedule == "cosine" else 1 - rest
    return min(1.0, (gone + 1e-3) / WARM_UP) * down


def held_out(path, length):
    """Texts cut into pieces as crates/train/src/evaluate does, packed into rows: (rows, the text of each prediction)."""
    read = json.loads(path.read_text())
    parts, part, room = [], [], length
    for of, text in enumerate(read["texts"]):
        tokens = text["tokens"]
        for start in range(0, len(tokens) - 1, read["max_len"]):
            piece = {"tokens": tokens[start : start + read["max_len"] + 1], "start": start, "of": of}
            if len(piece["tokens"]) - 1 > room:
                parts.append(part)
                part, room = [], length
            part.append(piece)
            room -= len(piece["tokens"]) - 1
    whose = lambda part: torch.tensor([p["of"] for p in part for _ in p["tokens"][1:]])
    return read["texts"], [(Rows(part, length), whose(part)) for part in [*parts, part]]


@torch.no_grad()
def measure(loss, texts, parts, precision):
    """Bits per byte by data set, and of all."""
    nats = torch.zeros(len(texts), dtype=torch.float64)
    for rows, whose in parts:
        with precision():
            each = loss(*rows.inputs)[1]
        nats.index_add_(0, whose, each[: len(whose)].double())
    bits = lambda of: sum(nats[i].item() for i in of) / math.log(2) / sum(texts[i]["bytes"] for i in of)
    sets = sorted({t["dataset"] for t in texts})
    by_set = {s: bits([i for i, t in enumerate(texts) if t["dataset"] == s]) for s in sets}
    return {"bits_per_byte": bits(range(len(texts))), "by_set": by_set}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("dir", type=pathlib.Path)
    p.add_argument("--seconds", type=float, default=math.inf)
    p.add_argument("--steps", type=float, default=math.inf)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--schedule", choices=["cosine", "linear"], default="cosine")
    p.add_argument("--points", type=int, default=1)
    p.add_argument("--weights", default="start.safetensors")
    p.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    config = json.loads((a.dir / "config.json").read_text())
    model = Plain(config, read_safetensors(a.dir / a.weights))
    batches = [json.loads(line) for line in open(a.dir / "batches.jsonl")]
    longest = max(sum(len(p["tokens"]) - 1 for p in b) for b in batches)
    length = -(-longest // config["window"]) * config["window"]
    batches = [Rows(pieces, length) for pieces in batches]
    texts, parts = held_out(a.dir / "held_out.json", length)
    loss = model if a.no_compile else torch.compile(model)
    precision = lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16")
    optimizer = model.optimizer(a.lr)

    def pass_over(rows):
        with precision():
            total, _ = loss(*rows.inputs)
        nats = total / rows.predictions
        nats.backward()
        return nats

    begun = time.perf_counter()
    measure(loss, texts, parts[:1], precision)
    if a.steps:
        pass_over(batches[0])
        optimizer.zero_grad(set_to_none=True)
    compiled = time.perf_counter() - begun
    seconds, tokens, steps, points = 0.0, 0, 0, []
    gone = lambda: min(1.0, max(seconds / a.seconds, steps / a.steps)) if a.steps else 1.0
    while gone() < 1:
        assert steps < len(batches), f"only {len(batches)} batches were exported; export more tokens"
        begun = time.perf_counter()
        nats = pass_over(batches[steps])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = a.lr * factor(gone(), a.schedule)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        nats = nats.item()
        seconds += time.perf_counter() - begun
        tokens, steps = tokens + batches[steps].predictions, steps + 1
        if gone() * a.points >= len(points) + 1:
            measured = measure(loss, texts, parts, precision)
            points.append({"step": steps, "tokens": tokens, "seconds": seconds, "train_nats": nats, **measured})
    if not points:
        points.append({"step": 0, "tokens": 0, "seconds": 0.0, **measure(loss, texts, parts, precision)})
    print(json.dumps({
        "torch": torch.__version__,
        "parameters": sum(w.numel() for w in model.parameters()),
        "compile_seconds": compiled,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "points": points,
    }))


main()
