"""Compares `forge merge` with PyPI's mergekit: the same results on small checkpoints, and the time and memory of large ones.

`parity` makes small Llama-shaped checkpoints (and variants of stories260K, where shared/models has it), merges them with both
programs by the same configurations, and fails where they differ: by more than 1e-6 in fp32 or one unit in the last
place in bf16. Set aside and counted are entries of equal magnitude at the cut of TIES and its like, and bf16 results that
cancelled to much less than their inputs, where a unit in the last place of the inputs is allowed. What is drawn at random is compared by kept share and
norm. `speed` makes checkpoints of 1.1 GB, merges them by turns with both, and writes docs/performance.md.

mergekit lives in a virtual environment of its own, target/peers/mergekit, made on the first run or by `install`.

usage: python3 bench/peers/merge.py install
       python3 bench/peers/merge.py parity [--forge PATH]
       python3 bench/peers/merge.py speed [--rounds N] [--only ties,slerp] [--folder DIR]    remove DIR/rounds.json to begin anew
"""

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from tables import markdown, put

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VENV = ROOT / "target" / "peers" / "mergekit"
PACKAGES = ["torch", "mergekit==0.1.5"]
STORIES = ROOT.parent / "shared" / "models" / "stories260K" / "hf_derived"

# Small checkpoints: two key-value heads, odd sizes, so that no block ends where a row does.
SMALL = dict(layers=3, width=48, ffn=112, vocab=331, heads=4, kv_heads=2)
LARGE = dict(layers=16, width=1536, ffn=4096, vocab=32000, heads=12, kv_heads=12)


def say(text):
    print(text, file=sys.stderr, flush=True)


def install():
    """Runs this script again within mergekit's environment."""
    python = VENV / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import mergekit"], capture_output=True).returncode:
        say(f"installing {PACKAGES} into {VENV}")
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if pathlib.Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])


# Checkpoints

def shapes(layers, width, ffn, vocab, heads, kv_heads, tied=False):
    yield "model.embed_tokens.weight", (vocab, width)
    for i in range(layers):
        p = f"model.layers.{i}."
        kv = width // heads * kv_heads
        yield p + "input_layernorm.weight", (width,)
        yield p + "self_attn.q_proj.weight", (width, width)
        yield p + "self_attn.k_proj.weight", (kv, width)
        yield p + "self_attn.v_proj.weight", (kv, width)
        yield p + "self_attn.o_proj.weight", (width, width)
        yield p + "post_attention_layernorm.weight", (width,)
        yield p + "mlp.gate_proj.weight", (ffn, width)
        yield p + "mlp.up_proj.weight", (ffn, width)
        yield p + "mlp.down_proj.weight", (width, ffn)
    yield "model.norm.weight", (width,)
    if not tied:
        yield "lm_head.weight", (vocab, width)


def configuration(size, dtype, tied=False):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": size["width"], "intermediate_size": size["ffn"], "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"], "num_key_value_heads": size["kv_heads"], "vocab_size": size["vocab"],
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": tied, "torch_dtype": dtype,
    }


def tokenizer(words):
    """A tokenizer.json whose tokens are whole words; two of them are special."""
    special = ["<unk>", "<s>", "</s>"]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for i, t in enumerate(special)
        ],
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": {t: i for i, t in enumerate(special + words)}, "merges": [],
        },
    }


def save(folder, size, tensors, dtype, words=None, shards=1, tied=False):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(configuration(size, dtype, tied)))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(words or [f"w{i}" for i in range(size["vocab"] - 3)])))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "chat_template": "{% for m in messages %}" + folder.name[0] + "{{ m.content }}{% endfor %}",
    }))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    names, index = list(tensors), {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_file({n: tensors[n] for n in part}, folder / name, {"format": "pt"})
        index.update({n: name for n in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def family(folder, size, dtype, count, seed=0, fine=0.004):
    """A base and `count` models that were fine-tuned from it, as far as their weights go."""
    import torch

    kind = getattr(torch, dtype)
    random = torch.Generator().manual_seed(seed)
    base = {n: torch.randn(s, generator=random) * 0.02 + (len(s) == 1) for n, s in shapes(**size)}
    save(folder / "base", size, {n: t.to(kind) for n, t in base.items()}, dtype)
    for i in range(count):
        tuned = {n: (t + torch.randn(t.shape, generator=random) * fine).to(kind) for n, t in base.items()}
        save(folder / "abcd"[i], size, tuned, dtype, shards=1 + i % 2 if size is SMALL else 1)
        del tuned


def stories(folder):
    """stories260K and three variants of it."""
    import torch
    from safetensors.torch import load_file, save_file

    random = torch.Generator().manual_seed(1)
    weights = load_file(STORIES / "model.safetensors")
    for name in ["base", "a", "b", "c"]:
        (folder / name).mkdir(parents=True)
        shutil.copy(STORIES / "config.json", folder / name / "config.json")
        noise = lambda t: t if name == "base" else t + torch.randn(t.shape, generator=random) * t.std() * 0.1
        save_file({n: noise(t) for n, t in weights.items()}, folder / name / "model.safetensors", {"format": "pt"})


# What is merged

FILTERED = [{"filter": "self_attn", "value": [0.2, 0.9, 0.4]}, {"filter": "mlp", "value": 0.7}, {"value": 0.5}]


def models(*numbers):
    return [{"model": name, "parameters": p} if p else {"model": name} for name, p in zip("abcd", numbers)]


def weighted(*weights, **more):
    return models(*({"weight": w, **more} for w in weights))


def based(method, sources, parameters=None, **more):
    return {"merge_method": method, "base_model": "base", "models": sources, "parameters": parameters or {}, **more}


EXACT = {
    "linear": {"merge_method": "linear", "models": weighted(0.5, 1.25, 0.75)},
    "linear, a sum": {"merge_method": "linear", "models": weighted(0.5, 0.2, 0.1), "parameters": {"normalize": False}},
    "linear, gradients and filters": {
        "merge_method": "linear",
        "models": [{"model": "a", "parameters": {"weight": FILTERED}}, {"model": "b"}, {"model": "base"}],
        "parameters": {"weight": [1.0, 0.25]},
    },
    "slerp": based("slerp", [{"model": "base"}, {"model": "a"}], {"t": FILTERED}),
    "slerp, base last": based("slerp", [{"model": "b"}, {"model": "base"}], {"t": 0.3}),
    "nuslerp": {"merge_method": "nuslerp", "models": weighted(0.3, 0.5)},
    "nuslerp of task vectors": based("nuslerp", weighted(0.3, 0.5)),
    "nuslerp by rows": based("nuslerp", weighted(0.3, 0.5), {"nuslerp_flatten": False}),
    "nuslerp by columns": based("nuslerp", weighted(0.3, 0.5), {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    "multislerp": {"merge_method": "multislerp", "models": weighted(0.3, 0.5, 0.4)},
    "multislerp of task vectors": based("multislerp", weighted(0.3, 0.5, 0.4)),
    "karcher": {"merge_method": "karcher", "models": models(None, None, None)},
    "task_arithmetic": based("task_arithmetic", weighted(0.4, -0.3, 0.2), {"lambda": 0.8}),
    "task_arithmetic, normalised": based("task_arithmetic", weighted(0.4, 0.3, 0.2), {"normalize": True}),
    "ties": based("ties", weighted(0.5, 0.8, 0.3, density=0.3), {"lambda": 0.9}),
    "ties, a sum, by layer": based("ties", weighted(0.5, 0.8, density=FILTERED), {"normalize": False, "int8_mask": True}),
    "ties, rescaled": based("ties", weighted(0.5, 0.8, density=0.6), {"rescale": True}),
    "breadcrumbs": based("breadcrumbs", weighted(0.5, 0.8, density=0.6, gamma=0.05)),
    "breadcrumbs_ties": based("breadcrumbs_ties", weighted(0.5, 0.8, 0.1, density=0.9, gamma=0.2)),
    "model_stock": based("model_stock", models(None, None, None)),
    "model_stock by rows": based("model_stock", models(None, None, None), {"filter_wise": True}),
    "nearswap": based("nearswap", models(None), {"t": 0.002}),
    "sce": based("sce", models(None, None, None)),
    "sce, the most varied": based("sce", models(None, None, None), {"select_topk": 0.4}),
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2], "parameters": {"scale": [{"filter": "o_proj", "value": 0.5}, {"value": 1.0}]}}]},
            {"sources": [{"model": "b", "layer_range": [1, 3]}]},
            {"sources": [{"model": "a", "layer_range": [2, 3]}]},
        ],
    },
    "slices with gradients": {
        "merge_method": "slerp", "base_model": "a", "parameters": {"t": [0, 1]},
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [1, 3]}], "parameters": {"t": [0.1, 0.6]}},
            {"sources": [{"model": "a", "layer_range": [2, 3]}, {"model": "b", "layer_range": [2, 3]}]},
        ],
    },
}

RANDOM = {
    "dare_linear": based("dare_linear", weighted(1.0, density=0.3)),
    "dare_ties": based("dare_ties", weighted(1.0, density=0.6)),
    "della": based("della", weighted(1.0, density=0.5, epsilon=0.2), {"normalize": False}),
    "della_linear": based("della_linear", weighted(1.0, density=0.4)),
}

TOKENIZERS = {
    "tokens of the base": based("linear", [
        {"model": m, "parameters": {"weight": w}} for m, w in [("base", 0.2), ("x", 0.5), ("y", 0.3)]], tokenizer_source="base"),
    "union of tokens": based("task_arithmetic", [
        {"model": m, "parameters": {"weight": w}} for m, w in [("x", 0.5), ("y", 0.3)]], tokenizer_source="union"),
    "tokens of one model": {"merge_method": "linear", "models": [
        {"model": m, "parameters": {"weight": 0.5}} for m in ["x", "y"]], "tokenizer_source": "y"},
    "union, padded, with a token from elsewhere": {"merge_method": "linear", "models": [
        {"model": m, "parameters": {"weight": 0.5}} for m in ["x", "y"]],
        "tokenizer": {"source": "union", "pad_to_multiple_of": 64, "tokens": {
            "w5": {"source": {"kind": "zero"}, "force": True},
            "xonly1": {"source": {"kind": "model_token", "model": "y", "token": "w7"}},
        }}},
}


def placed(value, folder):
    """A configuration with the models' folders in place of their names."""
    if isinstance(value, dict):
        return {
            k: str(folder / v) if k in ("model", "base_model") or k == "tokenizer_source" and v not in ("base", "union") else placed(v, folder)
            for k, v in value.items()
        }
    return [placed(v, folder) for v in value] if isinstance(value, list) else value


def theirs(config, out):
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    LoaderCache.loaders.clear()
    run_merge(MergeConfiguration.model_validate(config), str(out), MergeOptions(quiet=True, random_seed=5))


def ours(forge, config, out):
    path = out.with_suffix(".yml")
    path.write_text(json.dumps(config))
    done = subprocess.run([forge, "merge", path, out], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"forge merge failed: {done.stderr}\n{json.dumps(config)}")


def load(folder):
    from safetensors import safe_open

    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({n: file.get_tensor(n) for n in file.keys()})
    return tensors


def ulps(a, b):
    """Distance in units of the last place of bf16."""
    import torch

    def place(t):
        bits = t.view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -32768 - bits, bits)

    return (place(a) - place(b)).abs()


def at_cut(config, folder, name):
    """Where the magnitude of some model's task vector is that of the cut: which of the equal ones is kept is open."""
    import torch

    if "density" not in json.dumps(config) and "select_topk" not in json.dumps(config):
        return None
    base = load(folder / "base")[name]
    deltas = [load(folder / m)[name] - base for m in "abc"]
    if "select_topk" in json.dumps(config):
        deltas = [torch.var(torch.stack(deltas), dim=0, unbiased=False)]
    open_ = torch.zeros(base.shape, dtype=torch.bool)
    for delta in deltas:
        sizes, counts = delta.abs().flatten().float().unique(return_counts=True)
        common = sizes[counts > 1]
        open_ |= torch.isin(delta.abs().float(), common)
    return open_


def cancelled(x, y, folder, name):
    """Where a difference is within the last place of what was subtracted: the result is much smaller than the inputs."""
    import torch

    inputs = [load(folder / m).get(name) for m in ["base", *"abc"]]
    largest = torch.stack([t.float().abs() for t in inputs if t is not None]).max(dim=0).values
    last = torch.exp2(torch.floor(torch.log2(largest))) / 128
    return (x.float() - y.float()).abs() <= last


def compare(name, config, folder, mine, their, dtype):
    """The greatest difference; fails where it is too great."""
    import torch

    a, b = load(mine), load(their)
    if set(a) != set(b):
        sys.exit(f"{name}: tensors differ: {sorted(set(a) ^ set(b))}")
    worst, exact, total, aside = 0.0, 0, 0, 0
    for key in b:
        x, y = a[key], b[key]
        if x.dtype != y.dtype or x.shape != y.shape:
            sys.exit(f"{name}: {key} is {x.dtype} {tuple(x.shape)}, mergekit's {y.dtype} {tuple(y.shape)}")
        total += x.numel()
        exact += int((x == y).sum())
        apart = ulps(x, y).float() if x.dtype == torch.bfloat16 else (x.double() - y.double()).abs()
        limit = 1 if x.dtype == torch.bfloat16 else 1e-6
        if (apart > limit).any():
            open_ = at_cut(config, folder, key)
            if x.dtype == torch.bfloat16:
                small = cancelled(x, y, folder, key)
                open_ = small if open_ is None else small | open_
            if open_ is not None:
                aside += int((apart > limit)[open_].sum())
                apart = torch.where(open_, 0, apart)
        if (apart > limit).any() or not torch.isfinite(x.float()).all():
            i = apart.argmax()
            sys.exit(f"{name} {dtype}: {key}: {int((apart > limit).sum())} elements differ, such as {x.flatten()[i]} and {y.flatten()[i]}")
        worst = max(worst, float(apart.max()))
    for key in ["num_hidden_layers", "vocab_size"]:
        get = lambda f: json.loads((f / "config.json").read_text())[key]
        if get(mine) != get(their):
            sys.exit(f"{name}: {key} of config.json is {get(mine)}, mergekit's {get(their)}")
    unit = "ulp" if dtype == "bfloat16" else ""
    return [name, dtype, f"{worst:.3g} {unit}".strip(), f"{100 * exact / total:.3f}%", aside]


def drawn(name, folder, mine, their, dtype):
    """Kept share and norm of the task vectors of what was drawn at random."""
    base, a, b = load(folder / "base"), load(mine), load(their)
    kept, norm, n = [0, 0], [0.0, 0.0], 0
    for key in base:
        n += base[key].numel()
        for i, t in enumerate([a, b]):
            delta = t[key].double() - base[key].double()
            kept[i] += int((delta != 0).sum())
            norm[i] += float(delta.abs().sum())
    share, ratio = abs(kept[0] - kept[1]) / n, norm[0] / norm[1]
    if share > 0.01 or abs(ratio - 1) > 0.01:
        sys.exit(f"{name} {dtype}: kept {kept[0] / n:.4f}, mergekit {kept[1] / n:.4f}; norms' ratio {ratio:.4f}")
    return [name, dtype, f"kept {kept[0] / n:.4f} against {kept[1] / n:.4f}", f"norm x {ratio:.5f}", ""]


def by_token(folder, name):
    """Rows of the embedding by their token, since a union numbers new tokens as it likes."""
    vocab = json.loads((folder / "tokenizer.json").read_text())
    ids = dict(vocab["model"]["vocab"])
    ids.update({t["content"]: t["id"] for t in vocab["added_tokens"]})
    rows = load(folder)[name]
    return {t: rows[i] for t, i in ids.items()}, len(rows)


def vocabularies(forge, folder):
    """Models of different vocabularies: base w0.., x with some more, y with fewer and its own."""
    import torch

    random = torch.Generator().manual_seed(3)
    words = [f"w{i}" for i in range(60)]
    table = []
    for name, own in [("base", words), ("x", words + ["xonly1", "xonly2", "both"]), ("y", words[:40] + ["both", "yonly"])]:
        size = {**SMALL, "vocab": len(own) + 3 + (4 if name == "x" else 0)}
        weights = {n: torch.randn(s, generator=random) * 0.02 for n, s in shapes(**size)}
        save(folder / name, size, weights, "float32", words=own)
    for name, config in TOKENIZERS.items():
        config = placed(config, folder)
        for token in (config.get("tokenizer") or {}).get("tokens", {}).values():
            if "model" in token["source"]:
                token["source"]["model"] = str(folder / pathlib.Path(token["source"]["model"]).name)
        mine, their = folder / "ours", folder / "theirs"
        ours(forge, config, mine)
        theirs(config, their)
        worst = 0.0
        for key in ["model.embed_tokens.weight", "lm_head.weight"]:
            (a, n), (b, m) = by_token(mine, key), by_token(their, key)
            if set(a) != set(b) or n != m:
                sys.exit(f"{name}: {n} rows, mergekit's {m}; tokens {set(a) ^ set(b)}")
            worst = max(worst, max(float((a[t] - b[t]).abs().max()) for t in a))
        if worst > 1e-6:
            sys.exit(f"{name}: embeddings differ by {worst}")
        from transformers import AutoTokenizer

        text = "w1 w59 both xonly1 yonly w3"
        read = [AutoTokenizer.from_pretrained(f).tokenize(text) for f in (mine, their)]
        if read[0] != read[1]:
            sys.exit(f"{name}: the tokenizer gives {read[0]}, mergekit's {read[1]}")
        table.append([name, "float32", f"{worst:.3g}", "", ""])
        shutil.rmtree(mine)
        shutil.rmtree(their)
    return table


def parity(forge):
    sys.stdout.reconfigure(line_buffering=True)
    table = []
    with tempfile.TemporaryDirectory(prefix="merge-") as top:
        top = pathlib.Path(top)
        families = [("float32", "f32"), ("bfloat16", "bf16")]
        for dtype, name in families:
            family(top / name, SMALL, dtype, 3)
        if STORIES.exists():
            stories(top / "stories")
            families.append(("float32", "stories"))
        for dtype, family_name in families:
            folder = top / family_name
            for name, config in {**EXACT, **RANDOM}.items():
                config = placed(config, folder)
                mine, their = folder / "ours", folder / "theirs"
                try:
                    theirs(config, their)
                except Exception as why:
                    sys.exit(f"{name} {family_name}: mergekit failed: {why}")
                ours(forge, config, mine)
                if name in RANDOM:
                    row = drawn(name, folder, mine, their, dtype)
                else:
                    row = compare(name, config, folder, mine, their, dtype)
                table.append([row[0], family_name, *row[2:]])
                shutil.rmtree(mine)
                shutil.rmtree(their)
        table += vocabularies(forge, top / "vocabularies")
    print(markdown(["merge", "checkpoints", "greatest difference", "equal bits", "aside"], table))
    print(f"{len(table)} merges agree")


# Speed

SPEED = {
    "linear": ({"merge_method": "linear", "models": weighted(0.4, 0.3, 0.3)}, 4),
    "slerp": (based("slerp", [{"model": "base"}, {"model": "a"}], {"t": 0.4}), 4),
    "ties": (based("ties", weighted(0.4, 0.3, 0.3, density=0.3)), 10),
    "dare_ties": (based("dare_ties", weighted(0.4, 0.3, 0.3, density=0.3)), 8),
}


def anonymous(pid):
    """Anonymous memory of a process in MiB, now."""
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def timed(command):
    """Seconds, peak of anonymous memory in MiB, and seconds of all cores together."""
    peak, over = [0.0], threading.Event()
    busy = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = busy()
    begun = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def watch():
        while not over.is_set():
            peak[0] = max(peak[0], anonymous(process.pid))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, said = process.communicate()
    seconds = time.perf_counter() - begun
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{command} failed: {said[-2000:]}")
    return seconds, peak[0], busy() - before


def speed(forge, rounds, only, folder):
    """Rounds add up in a file beside the checkpoints, so that a comparison can be made in pieces."""
    kept = folder / "rounds.json"
    past = json.loads(kept.read_text()) if kept.exists() else {}
    if not folder.exists():
        say(f"making checkpoints in {folder}")
        family(folder, LARGE, "bfloat16", 3)
    size = (folder / "a" / "model.safetensors").stat().st_size
    for path in folder.glob("*/model.safetensors"):
        subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    table = []
    for name in [n for n in SPEED if n in only or n in past]:
        config, goal = SPEED[name]
        path = folder / f"{name}.yml"
        path.write_text(json.dumps(placed(config, folder)))
        out, got = folder / "out", past.setdefault(name, [])
        inputs = len(config["models"]) + ("base_model" in config and name != "slerp")
        runs = {
            "forge": [forge, "merge", path, out],
            "mergekit": [VENV / "bin" / "mergekit-yaml", path, out, "--quiet"],
            "dd": ["dd", f"if={folder / 'a' / 'model.safetensors'}", f"of={out}", "bs=1M", "conv=fsync"],
        }
        for i in range(len(got), len(got) + (rounds if name in only else 0)):
            order = list(runs)[i % 3:] + list(runs)[: i % 3]
            round_ = {}
            for program in order:
                # What the program before left to be written would be written during this one.
                os.sync()
                round_[program] = timed(runs[program])
                shutil.rmtree(out) if out.is_dir() else out.unlink()
                say(f"{name} round {i + 1}: {program} {round_[program][0]:.2f} s, {round_[program][1]:.0f} MiB")
            got.append(round_)
            kept.write_text(json.dumps(past))
        middle = lambda program, at: statistics.median(r[program][at] for r in got)
        ratio = statistics.median(r["mergekit"][0] / r["forge"][0] for r in got)
        # Bytes read and written a second, against those of dd, which reads and writes one checkpoint.
        rate = statistics.median(((inputs + 1) / r["forge"][0]) / (2 / r["dd"][0]) for r in got)
        table.append([
            f"{name} of {inputs}", f"{middle('forge', 0):.2f}", f"{middle('mergekit', 0):.1f}", f"{ratio:.1f} ({goal})",
            f"{middle('forge', 2):.1f}", f"{middle('mergekit', 2):.1f}", f"{middle('forge', 1):.0f}",
            f"{middle('mergekit', 1):.0f}", f"{middle('dd', 0):.2f}", f"{100 * rate:.0f}%",
        ])
    title = f"Merging checkpoints of {size / 1e9:.2f} GB in bf16 (551M parameters; files in the page cache, results synced to the disk)"
    header = ["merge", "Forge s", "mergekit s", "faster by (goal)", "Forge CPU s", "mergekit CPU s", "Forge MiB", "mergekit MiB", "dd of one checkpoint s", "of dd's rate"]
    return title, markdown(header, table)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["install", "parity", "speed"])
    p.add_argument("--forge", default=ROOT / "target" / "release" / "forge", type=pathlib.Path)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", default=",".join(SPEED))
    p.add_argument("--folder", default=ROOT / "target" / "peers" / "merge", type=pathlib.Path)
    args = p.parse_args()
    install()
    if args.what == "install":
        return
    if args.what == "parity":
        return parity(args.forge.resolve())
    title, table = speed(args.forge.resolve(), args.rounds, args.only.split(","), args.folder.resolve())
    put("performance.md", "merge", title, "memory is the peak of anonymous memory; mergekit 0.1.5", table)
    print(f"{title}\n\n{table}")


main()
