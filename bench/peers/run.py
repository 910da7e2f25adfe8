"""Measures Forge beside PyTorch, candle and burn on the same work, alternating, and writes the figures into docs/performance.md.

Everything that it needs goes into target/peers: a virtual environment with PyTorch, and the
release builds.
Each round runs every contender once; figures are medians over the rounds, ratios medians of the ratios within a
round, since a shared machine changes its speed between rounds.

usage: python3 bench/peers/run.py [--rounds N] [--steps N] [--only decoder,cognate,decode,generation,scaling,ops,gemm] [--rust-peers candle,burn] [--isa NAME]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from tables import markdown, put

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"
FORGE = ROOT / "target" / "release" / "forge"
TORCH = "torch==2.15.0"
# Each with the flags that make it fastest.
RUST_PEERS = {"candle": [], "burn": ["--backend", "flex"]}
# PyTorch at its fastest on CPUs: huge pages, and an allocator that keeps what it has.
TUNED = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
# What keeps PyTorch's libraries to the same instructions.
LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def install():
    python = WORK / "venv" / "bin" / "python"
    if not python.exists():
        say(f"installing {TORCH} into {WORK}")
        subprocess.run([sys.executable, "-m", "venv", WORK / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", TORCH, "numpy"], check=True)
    subprocess.run(["cargo", "build", "--release", "-p", "forge"], cwd=ROOT, check=True)
    return python


def rust_peer(name):
    """Builds a peer in Rust; gives what runs it."""
    target = WORK / name
    manifest = HERE / name / "Cargo.toml"
    subprocess.run(["cargo", "build", "--release", "--manifest-path", manifest, "--target-dir", target], check=True)
    return [target / "release" / f"peer-{name}", *RUST_PEERS[name]]


def figures(command, env):
    done = subprocess.run([str(c) for c in command], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Bench:
    def __init__(self, args):
        self.rounds, self.steps = args.rounds, args.steps
        self.rust_peers = [name for name in args.rust_peers.split(",") if name]
        self.python = install()
        self.env = {"FORGE_ISA": args.isa} if args.isa else {}
        self.isa = self.forge("doctor")["isa"]
        self.peer_env = {"GLIBC_TUNABLES": TUNED, **LIMITS.get(self.isa, {})}
        self.precision = "bf16" if self.isa == "amx" else "f32"

    def forge(self, *arguments):
        return figures([FORGE, *arguments, "--json"], self.env)

    def torch(self, script, tokens, *arguments):
        got = figures([self.python, HERE / script, "--precision", self.precision, *arguments], self.peer_env)
        return tokens / statistics.median(got["seconds"]), got["peak_rss_mib"]

    def rust(self, command, tokens):
        got = figures([*command, "--steps", str(self.steps)], {"RAYON_NUM_THREADS": "2", "MATMUL_NUM_THREADS": "2"})
        return tokens / statistics.median(got["seconds"]), got["peak_rss_mib"]

    def rows(self, contenders):
        """Contender -> function that gives (tokens a second, MiB). Ours is the first."""
        rounds = []
        for i in range(self.rounds):
            names = list(contenders)
            order = names[i % len(names):] + names[: i % len(names)]
            got = {}
            for name in order:
                got[name] = contenders[name]()
                say(f"round {i + 1}: {name}: {got[name][0]:.0f} tokens/s, {got[name][1]:.0f} MiB")
            rounds.append(got)
        ours = next(iter(contenders))
        table = []
        for name in contenders:
            speed = statistics.median(r[name][0] for r in rounds)
            memory = statistics.median(r[name][1] for r in rounds)
            ratio = statistics.median(r[ours][0] / r[name][0] for r in rounds)
            table.append([name, f"{speed:.0f}", f"{memory:.0f}", f"{ratio:.2f}"])
        return markdown(["", "tokens/s", "peak MiB", "Forge is faster by"], table)

    def train(self, model, sequence=256, batch=8, *more):
        common = ["--steps", self.steps, "--batch", batch, "--sequence", sequence]
        got = self.forge("bench", "train-step", "--model", model, *map(str, common), *more)
        return got, (got["tokens_per_second"]["median"], got["peak_rss_mib"])

    def decoder(self):
        compiled = ["--steps", self.steps]
        peers = {name: rust_peer(name) for name in self.rust_peers}
        return "Training step of the plain decoder (33.7M parameters, 8 x 256 tokens)", self.rows({
            "Forge": lambda: self.train("decoder")[1],
            f"PyTorch compiled, {self.precision}": lambda: self.torch("decoder.py", 2048, "--compile", *compiled),
            f"PyTorch eager, {self.precision}": lambda: self.torch("decoder.py", 2048, *compiled),
            **{f"{name}, f32": lambda command=command: self.rust(command, 2048) for name, command in peers.items()},
        })

    def cognate(self):
        config = self.train("cognate", 256, 1, "--depth", "full")[0]["config"]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(config, file)
            file.flush()
            peer = ["--config", file.name, "--steps", self.steps]
            return "Training step of the Cognate (recipe base, all passes, 8 x 256 tokens)", self.rows({
                "Forge": lambda: self.train("cognate", 256, 8, "--depth", "full")[1],
                f"PyTorch compiled, {self.precision}": lambda: self.torch("cognate.py", 2048, "--compile", *peer),
                f"PyTorch eager, {self.precision}": lambda: self.torch("cognate.py", 2048, *peer),
            })

    def decode(self):
        table = []
        for model in ["decoder", "cognate"]:
            for weights in [[], ["--bf16"]]:
                for batch in [1, 8, 32]:
                    runs = [
                        self.forge("bench", "decode", model, "--batch", str(batch), "--new", "64", *weights)
                        for _ in range(self.rounds)
                    ]
                    middle = lambda key: statistics.median(r[key] for r in runs)
                    share = statistics.median(r["gigabytes_per_second"] / r["peak_gigabytes_per_second"] for r in runs)
                    table.append([
                        model, runs[0]["weights"], batch, f"{middle('decode_tokens_per_second'):.0f}",
                        f"{middle('gigabytes_per_second'):.1f}", f"{100 * share:.0f}%",
                    ])
                    say(f"decode {table[-1]}")
        header = ["model", "weights", "sequences", "tokens/s", "GB/s read", "of the bandwidth"]
        return "Generation", markdown(header, table)

    def generation(self):
        """The plain decoder beside PyTorch, by turns; the first contender has the weights that PyTorch is fastest with."""
        narrow = ["--bf16"] if self.precision == "bf16" else []

        def ours(batch, *weights):
            got = self.forge("bench", "decode", "decoder", "--batch", str(batch), "--new", "64", *weights)
            return got["decode_tokens_per_second"], got["peak_rss_mib"]

        def theirs(batch, *more):
            got = figures([self.python, HERE / "decode.py", "--precision", self.precision, "--batch", batch, *more], self.peer_env)
            return got["decode_tokens_per_second"], got["peak_rss_mib"]

        parts = []
        for batch in [1, 32]:
            parts.append(f"{batch} at once:\n\n" + self.rows({
                f"Forge, {self.precision} weights": lambda: ours(batch, *narrow),
                **({"Forge, f32 weights": lambda: ours(batch)} if narrow else {}),
                f"PyTorch compiled, {self.precision}": lambda: theirs(batch, "--compile"),
                f"PyTorch eager, {self.precision}": lambda: theirs(batch),
            }))
        return "Generation by the plain decoder (64 tokens behind 64, greedy, KV cache)", "\n\n".join(parts)

    def scaling(self):
        table = []
        for what, sequence, batch, more in [
            ("8 x 256", 256, 8, []), ("16 x 256", 256, 16, []), ("2 x 1,024", 1024, 2, []),
            ("1 x 4,096", 4096, 1, []), ("8 x 256, one thread", 256, 8, ["--threads", "1"]),
        ]:
            runs = [self.train("cognate", sequence, batch, *more)[1] for _ in range(min(3, self.rounds))]
            table.append([what, f"{statistics.median(r[0] for r in runs):.0f}", f"{statistics.median(r[1] for r in runs):.0f}"])
            say(f"scaling {table[-1]}")
        return "The Cognate at other sizes (recipe base, window 256)", markdown(["tokens", "tokens/s", "peak MiB"], table)

    def ops(self):
        got = self.forge("bench", "ops")
        table = [
            [r["op"], r["pass"], f"{r['milliseconds']:.2f}", f"{r['gflops']:.1f}", f"{r['gigabytes_per_second']:.1f}",
             r["bound"], f"{100 * r['share']:.0f}%"]
            for r in got["ops"]
        ]
        title = (
            f"Each operation alone, 2,048 tokens, width 512 (measured peaks: {got['peak_gflops']:.0f} GFLOP/s, "
            f"{got['peak_gigabytes_per_second']:.1f} GB/s; above 100% the data lay in a cache)"
        )
        return title, markdown(["operation", "pass", "ms", "GFLOP/s", "GB/s", "bound by", "share"], table)

    def gemm(self):
        table = []
        for threads in ["2", "1"]:
            for r in self.forge("bench", "gemm", "--threads", threads):
                row = [f"{r['m']} x {r['k']} x {r['n']}", threads]
                for key in ["", "packed_"]:
                    rate, share = r[key + "gflops"], r[key + "share"]
                    row += ["-", "-"] if rate is None else [f"{rate:.1f}", f"{100 * share:.0f}%"]
                table.append(row)
        header = ["m x k x n", "threads", "GFLOP/s", "of the bare tile loop", "operands packed before", "of the loop"]
        return "Matrix products", markdown(header, table)


def write(isa, name, title, table):
    """Puts one table between its markers in docs/performance.md."""
    put("performance.md", f"{isa} {name}", title, f"path {isa}", table)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--only", default="decoder,cognate,decode,generation,scaling,gemm,ops")
    p.add_argument("--rust-peers", default=",".join(RUST_PEERS), help="beside PyTorch; an empty text for none")
    p.add_argument("--isa")
    args = p.parse_args()
    bench = Bench(args)
    for name in args.only.split(","):
        title, table = getattr(bench, name)()
        write(bench.isa, name, title, table)
        print(f"{title}\n\n{table}\n", flush=True)


if __name__ == "__main__":
    main()
