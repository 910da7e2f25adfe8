"""Packs the same text with Forge and with the Python package `tokenizers`, alternating, and prints a table for docs/performance.md.

Both read one folder of JSON lines, encode it with one tokenizer.json by the same number of threads, end every document with
its token and write 16-bit tokens. Forge is timed by itself (`forge data pack --json`), Python in a process of its own from
the first byte read to the file written, and its `encode_batch` alone beside that. Both start with their tokenizer loaded. The
script stops where the two do not make the same tokens. Medians over the rounds; ratios are medians of the ratios within a
round.

usage: python3 bench/peers/pack.py --text FILE... [--rounds N] [--threads N] [--vocab N]
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"
FORGE = ROOT / "target" / "release" / "forge"
PACKAGE = "tokenizers==0.23.3"
# Characters of a document; Forge cuts texts that are much longer, which would be another text.
LONGEST = 12_000
# Documents that Python encodes at a time.
BATCH = 1_000


def records(path):
    opened = gzip.open(path, "rt") if str(path).endswith(".gz") else open(path)
    with opened as file:
        for line in file:
            yield json.loads(line)["text"]


def corpus(paths, folder):
    """The texts of the files, cut and stripped so that both programs take each as it stands."""
    folder.mkdir()
    for i, path in enumerate(paths):
        with open(folder / f"{i:03}.jsonl", "w") as out:
            for text in records(path):
                for at in range(0, len(text), LONGEST):
                    part = text[at : at + LONGEST].strip()
                    if part:
                        out.write(json.dumps({"text": part}, ensure_ascii=False) + "\n")


def python(folder, tokenizer, out):
    """One round of the package, in a process of its own: prints its figures as JSON."""
    import numpy
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer)
    end = tokenizer.token_to_id("<|end|>")
    begun, encoding, tokens, size = time.perf_counter(), 0.0, 0, 0
    with open(out, "wb") as file:

        def write(batch):
            nonlocal encoding, tokens, size
            before = time.perf_counter()
            encoded = tokenizer.encode_batch(batch, add_special_tokens=False)
            encoding += time.perf_counter() - before
            for text, one in zip(batch, encoded):
                ids = numpy.array(one.ids + [end], dtype=numpy.uint16)
                file.write(ids.tobytes())
                tokens += len(ids)
                size += len(text.encode())

        batch = []
        for path in sorted(pathlib.Path(folder).iterdir()):
            for text in records(path):
                batch.append(text)
                if len(batch) == BATCH:
                    write(batch)
                    batch = []
        write(batch)
    print(json.dumps({"seconds": time.perf_counter() - begun, "encoding": encoding, "tokens": tokens, "bytes": size}))


def run(command, **env):
    done = subprocess.run([str(c) for c in command], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--python", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()

    interpreter = WORK / "venv" / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", WORK / "venv"], check=True)
    if subprocess.run([interpreter, "-c", "import tokenizers, numpy"], capture_output=True).returncode:
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", PACKAGE, "numpy"], check=True)
    if not FORGE.exists():
        subprocess.run(["cargo", "build", "--release", "-p", "forge"], cwd=ROOT, check=True)
    package = subprocess.run(
        [interpreter, "-c", "import tokenizers; print(tokenizers.__version__)"], capture_output=True, text=True
    ).stdout.strip()

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        folder, tokenizer = scratch / "text", scratch / "tokenizer.json"
        corpus(args.text, folder)
        learned = [FORGE, "tokenizer", "train", tokenizer, "--text", folder, "--vocab", args.vocab, "--json"]
        run([*learned, "--threads", args.threads])
        rounds = []
        for i in range(args.rounds):
            row = {}
            for name, dedup in [("pack", "0"), ("pack and near duplicates", "0.8")]:
                out = scratch / f"out{i}{dedup}"
                command = [FORGE, "data", "pack", folder, "--out", out, "--tokenizer", tokenizer, "--dedup", dedup]
                found = run([*command, "--json", "--threads", args.threads])["sets"][0]
                row[name] = found["text_bytes"] / 1e6 / found["seconds"]
                if dedup == "0":
                    tokens, size = found["tokens"], found["text_bytes"]
            command = [interpreter, __file__, "--text", "-", "--python", folder, tokenizer, scratch / "python.bin"]
            peer = run(command, RAYON_NUM_THREADS=str(args.threads), TOKENIZERS_PARALLELISM="true")
            if (peer["tokens"], peer["bytes"]) != (tokens, size):
                sys.exit(f"not the same work: {peer} beside {tokens} tokens of {size} bytes")
            row["python"] = peer["bytes"] / 1e6 / peer["seconds"]
            row["python, encode_batch alone"] = peer["bytes"] / 1e6 / peer["encoding"]
            print(f"round {i + 1}: {row}", file=sys.stderr, flush=True)
            rounds.append(row)

    median = lambda values: statistics.median(values)
    names = {
        "pack": "`forge data pack`: read, encode, hash, write",
        "pack and near duplicates": "the same, near duplicates left out",
        "python": f"tokenizers {package}: read, encode_batch, write",
        "python, encode_batch alone": f"tokenizers {package}: encode_batch alone",
    }
    print(f"{size / 1e6:.1f} MB of text, {tokens} tokens of a vocabulary of {args.vocab}, {args.threads} threads, {args.rounds} rounds\n")
    print("| | MB/s | of Python's whole |\n| --- | --- | --- |")
    for name, title in names.items():
        speed, ratio = median(r[name] for r in rounds), median(r[name] / r["python"] for r in rounds)
        print(f"| {title} | {speed:.1f} | {ratio:.1f}x |")


if __name__ == "__main__":
    if "--python" in sys.argv:
        python(*sys.argv[-3:])
    else:
        main()
