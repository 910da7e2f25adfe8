"""The Cognate of crates/model in PyTorch, as one would write it there: whole batches, the memory in its closed
chunked form, halted rows masked. The peer of `forge bench train-step --model cognate`.

`--check FIXTURE` compares logits, gates and gradients in float64 with crates/model/tests/fixtures/cognate.json,
the same numbers that the Rust model is tested against: both are the same model. Otherwise times training steps
(forward, backward, Grokfast, Muon with Polar Express and AdamW) and prints one JSON object.

usage: cognate.py --check FIXTURE
       cognate.py --config FILE --precision f32|bf16 [--compile] [--steps N] [--batch N] [--sequence N] [--threads N]
"""

import argparse
import json
import math
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

POLAR_EXPRESS = [
    (8.156555, -22.483293, 15.878770),
    (4.042930, -2.808918, 0.500018),
    (3.891668, -2.772484, 0.506065),
    (3.285754, -2.368130, 0.464490),
    (2.346541, -1.709783, 0.423236),
]


def shapes(c):
    """Name -> shape, in the model's own names."""
    w, h, f, p = c["width"], c["heads"], c["ffn"], c["prefix"]
    s = {"embed.weight": (c["vocab"], w)}
    for i, b in enumerate(c["blocks"]):
        n = f"blocks.{i}."
        s |= {n + "norm1.weight": (w,), n + "norm2.weight": (w,)}
        s |= {n + f"attn.{m}.weight": (w, w) for m in "qkvo"}
        s |= {n + "attn.q_gain": (h,), n + "attn.k_gain": (h,)}
        if p:
            s |= {n + "attn.prefix_k": (p, w), n + "attn.prefix_v": (p, w)}
        if b["memory"]:
            s |= {n + f"memory.{m}.weight": (w, w) for m in "qkv"}
            s |= {n + f"memory.conv_{m}.weight": (w, 4) for m in "qkv"}
            s |= {n + f"memory.{m}": (h, c["slots"] // h, w // h) for m in ("keys", "values")}
            s |= {n + "memory.rates.weight": (3 * h, w), n + "memory.rates.bias": (3 * h,)}
            s |= {n + "memory.norm_attn.weight": (w,), n + "memory.norm_memory.weight": (w,)}
            s |= {n + "memory.gate.weight": (w, 2 * w), n + "memory.gate.bias": (w,)}
        s |= {n + "ffn.gate.weight": (f, w), n + "ffn.up.weight": (f, w), n + "ffn.down.weight": (w, f)}
    s |= {"core.in.weight": (w, 3 * w), "core.z0": (1, w), "core.norm.weight": (w,), "core.out.weight": (w, w)}
    s |= {"exit.weight": (c["passes"] - 1, w), "exit.bias": (c["passes"] - 1,), "norm.weight": (w,)}
    return s


def is_matrix(name, shape):
    """What Muon trains: hidden matrices."""
    other = ("embed.", "exit.", "conv_", "rates", "prefix", "core.z0")
    return len(shape) == 2 and not any(o in name for o in other)


def rms(x, eps=1e-6):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)


class Cognate(nn.Module):
    def __init__(self, config, sequence, start=0):
        super().__init__()
        self.c = config
        self.hd = config["width"] // config["heads"]
        self.p = nn.ParameterDict()
        for name, shape in shapes(config).items():
            value = torch.ones(shape) if "norm" in name or "gain" in name else torch.randn(shape) * 0.02
            self.p[name.replace(".", "/")] = nn.Parameter(value)
        half = self.hd // 2
        angle = (start + torch.arange(sequence))[:, None] * (config["rope_theta"] ** (-torch.arange(half) / half))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        at = torch.arange(sequence)
        back = at[:, None] - at[None]
        seen = (back >= 0) & ((back < config["window"]) if config["window"] else True)
        prefix = torch.ones(sequence, config["prefix"], dtype=torch.bool)
        self.register_buffer("mask", torch.cat([prefix, seen], 1), persistent=False)

    def w(self, name):
        return self.p[name.replace(".", "/")]

    def heads(self, x):
        return x.view(*x.shape[:-1], self.c["heads"], self.hd).transpose(-2, -3)

    def rotate(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)

    def qkv(self, i, n):
        w = lambda s: self.w(f"blocks.{i}.attn.{s}")
        q, k, v = (self.heads(F.linear(n, w(m + ".weight"))) for m in "qkv")
        unit = lambda x, gain: self.rotate(rms(x) * gain[:, None, None])
        return unit(q, w("q_gain")), unit(k, w("k_gain")), v

    def attention(self, i, q, k, v):
        if self.c["prefix"]:
            w = lambda x: self.heads(self.w(f"blocks.{i}.attn.prefix_{x}"))[None].expand(len(q), -1, -1, -1)
            k, v = torch.cat([w("k").to(k.dtype), k], 2), torch.cat([w("v").to(v.dtype), v], 2)
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=self.mask)
        return a.transpose(1, 2).flatten(2)

    def memory(self, i, n):
        """The closed form of crates/kernels/src/cpu/memory: reads and writes a chunk at a time."""
        c, w = self.c, lambda s: self.w(f"blocks.{i}.memory.{s}")
        h, chunk = c["heads"], c["chunk"]

        def branch(m):
            x = F.silu(F.linear(n, w(m + ".weight"))).transpose(1, 2)
            x = F.conv1d(F.pad(x, (3, 0)), w(f"conv_{m}.weight")[:, None].to(x.dtype), groups=x.shape[1])
            return self.heads(x.transpose(1, 2))

        q, k, v = (branch(m) for m in "qkv")
        q, k = (rms(x) / math.sqrt(self.hd) for x in (q, k))
        rates = torch.sigmoid(F.linear(n, w("rates.weight"), w("rates.bias"))).transpose(1, 2)
        eta, theta, alpha = rates[:, :h], rates[:, h : 2 * h] * c["theta_max"], rates[:, 2 * h :]
        base = [w("keys")[None], w("values")[None]]
        now, momentum = base, [torch.zeros_like(b) for b in base]
        out = []
        for lo in range(0, n.shape[1], chunk):
            part = slice(lo, lo + chunk)
            keys, values = now
            out.append(F.silu(q[:, :, part] @ keys.mT) @ values)
            if lo + chunk >= n.shape[1]:
                break
            kc, vc = k[:, :, part], v[:, :, part]
            hidden = kc @ keys.mT
            s = torch.sigmoid(hidden)
            active, slope = hidden * s, s * (1 + hidden * (1 - s))
            error = active @ values - vc
            error = error / error.norm(dim=-1, keepdim=True).clamp(min=1.0)
            pull = (error @ values.mT) * slope
            weights, keep, carry, decay = coefficients(eta[:, :, part], theta[:, :, part], alpha[:, :, part])
            moved, kept = [], []
            for m, m0, mom, left, right in zip(now, base, momentum, (pull, active), (kc, error)):
                to_memory, to_momentum = (left.mT @ (x[..., None] * right) for x in weights)
                moved.append(m0 + keep * (m - m0) + carry * mom + to_memory)
                kept.append(decay * mom + to_momentum)
            now, momentum = moved, kept
        return torch.cat(out, 2).transpose(1, 2).flatten(2)

    def block(self, i, h, attend):
        b, eps = self.c["blocks"][i], self.c["eps"]
        w = lambda s: self.w(f"blocks.{i}.{s}")
        n = rms(h, eps) * w("norm1.weight")
        o = attend(n)
        if b["memory"]:
            m = self.memory(i, n)
            gate = torch.sigmoid(F.linear(torch.cat([o, m], -1), w("memory.gate.weight"), w("memory.gate.bias")))
            a, m = rms(o, eps) * w("memory.norm_attn.weight"), rms(m, eps) * w("memory.norm_memory.weight")
            o = gate * a + (1 - gate) * m
        h = h + b["scale"] * F.linear(o, w("attn.o.weight"))
        n = rms(h, eps) * w("norm2.weight")
        f = F.silu(F.linear(n, w("ffn.gate.weight"))) * F.linear(n, w("ffn.up.weight"))
        return h + b["scale"] * F.linear(f, w("ffn.down.weight"))

    def forward(self, tokens, depths):
        """tokens, depths [B, T] -> hidden [B, T, W], and the gates of every pass but the last [B, T]."""
        c = self.c
        part = lambda p: [i for i, b in enumerate(c["blocks"]) if b["part"] == p]
        outer = lambda i, h: self.block(i, h, lambda n: self.attention(i, *self.qkv(i, n)))
        x = F.embedding(tokens, self.w("embed.weight"))
        for i in part("stem"):
            x = outer(i, x)
        y, z = x, self.w("core.z0").expand_as(x)
        gates, latest = [], {}
        for step in range(c["passes"]):
            runs = (depths > step)[..., None]
            h = F.linear(torch.cat([x, y, z], -1), self.w("core.in.weight"))
            for i in part("core"):

                def attend(n):
                    q, k, v = self.qkv(i, n)
                    if step:
                        k, v = (torch.where(runs[:, None], new, old) for new, old in zip((k, v), latest[i]))
                    latest[i] = (k, v)
                    return self.attention(i, q, k, v)

                h = self.block(i, h, attend)
            n = rms(h, c["eps"]) * self.w("core.norm.weight")
            y = torch.where(runs, y + F.linear(n, self.w("core.out.weight")), y)
            z = torch.where(runs, h, z)
            if step + 1 < c["passes"]:
                gates.append((n * self.w("exit.weight")[step]).sum(-1) + self.w("exit.bias")[step])
        for i in part("tail"):
            y = outer(i, y)
        return rms(y, c["eps"]) * self.w("norm.weight"), gates

    def loss(self, tokens, targets, depths):
        hidden, _ = self(tokens, depths)
        return F.cross_entropy(F.linear(hidden, self.w("embed.weight")).flatten(0, 1).float(), targets.flatten())


def coefficients(eta, theta, alpha):
    """crates/kernels/src/cpu/memory/scan.rs: the weight of every row in the state at the end of its chunk, the
    products over later rows as differences of summed logarithms."""
    eta_sum, kept_sum = eta.log().cumsum(-1), torch.log1p(-alpha).cumsum(-1)
    after = (eta_sum[..., -1:] - eta_sum).exp()
    kept = (kept_sum[..., -1:] - kept_sum).exp()
    # reach_t = sum over s >= t of kept_s times the product of eta over (t, s].
    between = (eta_sum[..., None, :] - eta_sum[..., None]).masked_fill(~later(eta), -math.inf).exp()
    reach = (between @ kept[..., None])[..., 0]
    step = -theta * (1 - eta)
    whole = lambda x: x[..., None, None]
    return (
        [step * reach, step * after],
        whole(kept_sum[..., -1].exp()),
        whole(eta[..., 0] * reach[..., 0]),
        whole(eta_sum[..., -1].exp()),
    )


def later(x):
    t = x.shape[-1]
    return torch.ones(t, t, dtype=torch.bool).triu()


class Optimizer:
    """Grokfast, then Muon with cautious decay for hidden matrices and AdamW for the rest, clipped together."""

    def __init__(self, model, lr=4e-3, adam_lr=2e-3, grokfast=(0.98, 0.3), decay=0.1):
        self.lr, self.grokfast, self.decay = lr, grokfast, decay
        # The gates are fitted apart: the loss of a text does not reach them.
        named = [(n.replace("/", "."), p) for n, p in model.p.items() if not n.startswith("exit/")]
        self.all = [p for _, p in named]
        matrices = [p for n, p in named if is_matrix(n, p.shape)]
        self.groups = {}
        for p in matrices:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.slow = {p: torch.zeros_like(p) for n, p in named if n != "embed.weight"}
        self.momentum = {p: torch.zeros_like(p) for p in matrices}
        ids = {id(p) for p in matrices}
        rest = [p for p in self.all if id(p) not in ids]
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self):
        torch.nn.utils.clip_grad_norm_(self.all, 1.0, foreach=True)
        alpha, gain = self.grokfast
        slow, grads = list(self.slow.values()), [p.grad for p in self.slow]
        torch._foreach_lerp_(slow, grads, 1 - alpha)
        torch._foreach_add_(grads, slow, alpha=gain)
        self.adam.step()
        for shape, params in self.groups.items():
            momentum, grads = [self.momentum[p] for p in params], [p.grad for p in params]
            torch._foreach_lerp_(momentum, grads, 0.05)
            torch._foreach_lerp_(grads, momentum, 0.95)
            updates = orthogonal(torch.stack(grads))
            scale = 0.2 * math.sqrt(max(shape))
            for p, u in zip(params, updates):
                p -= self.lr * (scale * u + self.decay * p * (u * p >= 0))
        for p in self.all:
            p.grad = None


def orthogonal(g):
    """Newton-Schulz on a stack of matrices."""
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x


def check(path):
    torch.set_default_dtype(torch.float64)
    fixture = json.load(open(path))
    c = fixture["config"]
    weights = {n: torch.tensor(v["values"]).view(v["dims"]) for n, v in fixture["weights"].items()}
    off = lambda a, b: (a - torch.tensor(b)).abs().max().item()
    found, total, at = {}, {n: torch.zeros_like(v) for n, v in weights.items()}, 0
    for kind, depths in [("full", [c["passes"]] * len(fixture["depths"])), ("per_token", fixture["depths"])]:
        logits, gates, at = [], [[] for _ in range(c["passes"] - 1)], 0
        for text, start in zip(fixture["texts"], fixture["starts"]):
            rows = slice(at, at + len(text))
            at += len(text)
            model = Cognate(c, len(text), start)
            for n, v in weights.items():
                model.w(n).data = v.clone()
            own = torch.tensor(depths[rows])
            hidden, raw = model(torch.tensor([text]), own[None])
            out = F.linear(hidden[0], model.w("embed.weight"))
            logits.append(out)
            for g, all_gates, step in zip(raw, gates, range(c["passes"])):
                all_gates.append(g[0][own > step])
            if kind == "per_token":
                targets = torch.tensor(fixture["targets"][rows])
                loss = F.cross_entropy(out, targets, reduction="sum") / len(fixture["targets"])
                loss = loss + 0.01 * sum(g[0][own > step].sum() for step, g in enumerate(raw))
                loss.backward()
                for n in total:
                    total[n] += model.w(n).grad
        found[kind] = off(torch.cat(logits).flatten(), fixture[kind]["logits"])
        for step, g in enumerate(gates):
            found[f"{kind}, gate {step}"] = off(torch.cat(g).flatten(), fixture[kind]["gates"][step])
    for n, g in total.items():
        found[f"gradient of {n}"] = off(g.flatten(), fixture["gradients"][n])
    worst = max(found, key=found.get)
    print(json.dumps({"compared": len(found), "largest_difference": found[worst], "at": worst}))
    assert found[worst] < 1e-5, f"{worst} differs by {found[worst]}"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--check", metavar="FIXTURE")
    p.add_argument("--config", metavar="FILE")
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--sequence", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if a.check:
        return check(a.check)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    config = json.load(open(a.config))
    model = Cognate(config, a.sequence)
    optimizer = Optimizer(model)
    ids = torch.randint(0, config["vocab"], (a.batch, a.sequence + 1))
    tokens, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    depths = torch.full_like(tokens, config["passes"])
    loss_of = torch.compile(model.loss) if a.compile else model.loss
    seconds = []
    # The first steps compile and warm the buffers.
    for _ in range(a.steps + 2):
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.precision == "bf16"):
            loss = loss_of(tokens, targets, depths)
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "params": sum(x.numel() for x in model.parameters()),
        "seconds": seconds[2:],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))


main()
