"""Compares `forge eval` with EleutherAI's lm-evaluation-harness, item by item, on stories260K.

The harness runs its own task files (prompts, options, metrics as packaged) on the Hugging Face form of the model; only
where the records come from is changed, to the local folders of data sets, brought into the hub's columns. Forge runs
`forge eval --samples` on the same files. Compared are the log-likelihood of every option or page and every accuracy.
The model's tokenizer.json is made here from the vocabulary of llama2.c, so both programs read the same tokens.

usage: python3 bench/peers/harness.py --shared DIR [--tasks a,b] [--limit N] [--run lm-eval,forge] [--threads N]
                                      [--write-fixture FILE]

DIR holds datasets/ and models/stories260K. Needs target/peers/lmeval (python3 -m venv, then pip install lm-eval[hf]).
Each program leaves its results in target/peers/lm_eval; those that are there of both are compared in a table, so that
the two can run one after the other, as on a quiet machine. --write-fixture keeps the harness's log-likelihoods of the
first items by id (numbers only, no text of the data sets) for the test of crate forge. --write-formulas FILE keeps
what the harness's functions for DROP, SQuAD and WikiText make of sentences written here, for the test of crate data.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"
PYTHON = WORK / "lmeval" / "bin" / "python"
FORGE = ROOT / "target" / "release" / "forge"
FIXTURE_ITEMS = 12
POSITIONS = 512

# The harness's task file, the records in the hub's columns, and the split that is reported.
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "boolq": ("super_glue/boolq/default.yaml", "validation"),
    "wikitext": ("wikitext/wikitext.yaml", "test"),
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def records(task, data, size):
    """The reported split of a task, in the columns that the harness's task file reads, with the place of each record.

    The harness stops at an option of more tokens than the model has positions; such items are left out. `size` gives
    the tokens of a text."""
    for row, record in enumerate(all_records(task, data)):
        if task != "piqa" or max(size(record[option]) for option in ["sol1", "sol2"]) < POSITIONS:
            yield {**record, "row": row}


def all_records(task, data):
    if task.startswith("arc_"):
        for r in lines(data / task / "test.jsonl"):
            choices = r["question"]["choices"]
            yield {"id": r["id"], "question": r["question"]["stem"], "answerKey": r["answerKey"],
                   "choices": {"text": [c["text"] for c in choices], "label": [c["label"] for c in choices]}}
    elif task == "piqa":
        labels = (data / "piqa" / "valid-labels.lst").read_text().split()
        for r, label in zip(lines(data / "piqa" / "valid.jsonl"), labels, strict=True):
            yield {"goal": r["goal"], "sol1": r["sol1"], "sol2": r["sol2"], "label": int(label)}
    elif task == "hellaswag":
        for r in lines(data / "hellaswag" / "derived_hellaswag_val.jsonl"):
            # This form has the activity and both parts of the context in one.
            activity, context = r["ctx"].split(": ", 1)
            yield {"activity_label": activity, "ctx_a": context, "ctx_b": "", "endings": r["endings"],
                   "label": str(r["label"])}
    elif task == "boolq":
        for r in lines(data / "boolq" / "dev.jsonl"):
            yield {"passage": r["passage"], "question": r["question"], "label": int(r["answer"])}
    elif task == "wikitext":
        text = (data / "wikitext2" / "wiki.test.tokens").read_text().split("\n")
        empty = lambda i: i < 0 or i >= len(text) or not text[i].strip()
        title = lambda i: (text[i].strip().startswith("= ") and text[i].strip().endswith(" =")
                           and not text[i].strip().startswith("= =") and empty(i - 1) and empty(i + 1))
        starts = [i for i in range(len(text)) if title(i)]
        for start, end in zip(starts, [*starts[1:], len(text)]):
            yield {"page": "\n".join(text[start:end])}


def tokenizer(vocabulary):
    """llama2.c's vocabulary as tokenizer.json: byte-pair merges in the order of the scores, unknown characters as bytes."""
    raw = vocabulary.read_bytes()
    tokens, at = [], 4
    while at < len(raw):
        score, length = struct.unpack("<fi", raw[at:at + 8])
        tokens.append((raw[at + 8:at + 8 + length].decode(), score))
        at += 8 + length
    names = [t.replace(" ", "\u2581") for t, _ in tokens]
    names[0:3] = ["<unk>", "<s>", "</s>"]
    ids = {name: i for i, name in enumerate(names)}
    merges = []
    for i, name in enumerate(names[259:], 259):
        pairs = ((name[:k], name[k:]) for k in range(1, len(name)))
        merges += [(-tokens[i][1], pair) for pair in pairs if pair[0] in ids and pair[1] in ids]
    merges.sort(key=lambda m: m[0])
    special = lambda i: {"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special(1), special(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": ids, "merges": [list(pair) for _, pair in merges]},
    }


def model_folder(shared):
    source = shared / "models" / "stories260K"
    folder = WORK / "lm_eval" / "stories260K"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ["config.json", "model.safetensors"]:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes((source / "hf_derived" / name).read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(source / "tok512.bin")))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def harness(folder, data, tasks, limit, threads):
    """Leaves metrics, seconds and the log-likelihoods of every item of each task in a file."""
    os.environ.update(HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
                      HF_HOME=str(WORK / "lm_eval" / "home"))
    import lm_eval
    import tokenizers
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(threads)
    packaged = pathlib.Path(lm_eval.__file__).parent / "tasks"
    own = WORK / "lm_eval" / "tasks"
    own.mkdir(parents=True, exist_ok=True)
    spelling = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = lambda text: len(spelling.encode(f" {text}").ids)
    for task in tasks:
        path, split = TASKS[task]
        table = own / f"{task}.jsonl"
        table.write_text("".join(json.dumps(r) + "\n" for r in records(task, data, size)))
        (own / f"{task}.yaml").write_text(json.dumps({
            "include": str(packaged / path), "task": f"local_{task}", "tag": None, "dataset_path": "json",
            "dataset_name": None, "dataset_kwargs": {"data_files": {split: str(table)}}, "training_split": None,
            "validation_split": split if split == "validation" else None,
            "test_split": split if split == "test" else None}))
        # The default of 0.4.13 follows the tokenizer and puts <s> in front of a prompt, as a Llama was trained. Of a text
        # it then also predicts that <s> from another one before it; without it a text is scored as it is.
        model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=32,
                     **({"add_bos_token": False} if task == "wikitext" else {}))
        begun = time.perf_counter()
        got = lm_eval.simple_evaluate(model, tasks=[f"local_{task}"], task_manager=TaskManager(include_path=str(own)),
                                      limit=limit, log_samples=True, bootstrap_iters=1000, verbosity="ERROR")
        seconds = time.perf_counter() - begun
        samples = sorted(got["samples"][f"local_{task}"], key=lambda s: s["doc_id"])
        items = []
        for s in samples:
            row = s["doc"]["row"]
            if task == "wikitext":
                items.append({"row": row, "log_likelihoods": [float(s["filtered_resps"][0])]})
            else:
                texts = [a["arg_1"] for a in s["arguments"].values()] if isinstance(s["arguments"], dict) \
                    else [a[1] for a in s["arguments"]]
                items.append({"row": row, "options": texts, "log_likelihoods": [float(r[0]) for r in s["filtered_resps"]]})
        metrics = {k.split(",")[0]: v for k, v in got["results"][f"local_{task}"].items() if "," in k}
        keep("lm-eval", task, {"version": lm_eval.__version__, "metrics": metrics, "seconds": seconds, "items": items})


def forge(folder, data, tasks, limit):
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "forge"], cwd=ROOT, check=True)
    for task in tasks:
        samples = WORK / "lm_eval" / f"{task}.forge.jsonl"
        command = [FORGE, "eval", folder, "--task", task, "--samples", samples, "--json", "--set", f"data.root={data}"]
        command += ["--items", limit] if limit else []
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"forge failed:\n{done.stderr[-2000:]}")
        got = json.loads(done.stdout)["tasks"][task]
        items = []
        for s in lines(samples):
            if task == "wikitext":
                items.append({"id": s["id"], "log_likelihoods": [s["log_likelihood"]]})
            else:
                items.append({"id": s["id"], "options": [o["option"] for o in s["options"]], "gold": s["gold"],
                              "log_likelihoods": [o["log_likelihood"] for o in s["options"]]})
        metrics = {m["metric"]: m["value"] for m in got["metrics"]}
        metrics |= {f"{m['metric']}_stderr": m["stderr"] for m in got["metrics"]}
        keep("forge", task, {"metrics": metrics, "seconds": got["seconds"], "items": items})


def result_file(program, task):
    return WORK / "lm_eval" / f"{task}.{program}.json"


def keep(program, task, result):
    result_file(program, task).write_text(json.dumps(result))
    n, seconds = len(result["items"]), result["seconds"]
    say(f"{program} {task}: {n} items in {seconds:.1f} s, {n / seconds:.1f} items/s")


def compare(task, theirs, ours):
    """The largest difference of two log-likelihoods, and the items whose best option differs."""
    worst, differ = 0.0, []
    for a in theirs["items"]:
        b = ours["items"][a["row"]]
        if task == "wikitext":
            pairs = list(zip(a["log_likelihoods"], b["log_likelihoods"]))
        else:
            assert sorted(a["options"]) == sorted(b["options"]), (a["options"], b["options"])
            mine = dict(zip(b["options"], b["log_likelihoods"]))
            pairs = [(x, mine[o]) for o, x in zip(a["options"], a["log_likelihoods"])]
            for size in SIZES.values():
                if a["options"][best(a, size)] != b["options"][best(b, size)]:
                    differ.append(b["id"])
        worst = max([worst, *(abs(x - y) for x, y in pairs)])
    return worst, differ


def best(item, size):
    """The place of the option of highest likelihood for its size."""
    values = [x / size(o) for o, x in zip(item["options"], item["log_likelihoods"])]
    return values.index(max(values))


SIZES = {"acc": lambda option: 1, "acc_norm": lambda option: len(option) - 1}


def accuracies(items):
    """Of some of Forge's items."""
    metrics = {}
    for name, size in SIZES.items():
        p = sum(best(item, size) == item["gold"] for item in items) / len(items)
        metrics |= {name: p, f"{name}_stderr": (p * (1 - p) / (len(items) - 1)) ** 0.5}
    return metrics


def formulas(path):
    """Answers and a page, written here, with what the harness makes of them."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results as wikitext, wikitext_detokenizer
    from lm_eval.tasks.drop.utils import process_results
    from lm_eval.tasks.qasper.metrics import f1_abstractive, normalize_answer
    cases = [
        ("5", ["5"]), ("5.0", ["5"]), ("five", ["5"]), ("about 5 yards", ["5"]), ("5 yards", ["5"]), ("$5", ["5"]),
        ("12,000", ["12000"]), ("-7", ["7"]), ("1e3", ["1000"]), ("the Bears", ["Bears", "Chicago Bears"]),
        ("Chicago", ["Bears", "Chicago Bears"]), ("a an the", ["the"]), ("", ["7"]), ("mid-field goal", ["mid field"]),
        ("under the age of 18 and 25 to 44", ["under the age of 18 and 25 to 44 and 45 to 64"]),
        ("3 March 1992", ["3 March 1992", "March 1992"]), ("March 3, 1992", ["3 March 1992"]), ("yes", ["yes"]),
        ("The  Quick, Brown fox!", ["quick brown fox"]), ("brown brown fox", ["brown fox"]), ("fox", ["the brown fox"]),
        ("Theatre of the absurd", ["theatre absurd"]), ("naïve café", ["Naïve Café"]), ("75%", ["75"]), (".5", ["0.5"]),
        ("U.S.", ["US"]), ("Smith's", ["Smiths"]), ("one two three four", ["two four six"]), ("nan", ["7"]),
    ]
    rows = []
    for found, right in cases:
        drop = process_results({"answers": [(r,) for r in right]}, [found])
        squad_em = max(normalize_answer(found) == normalize_answer(r) for r in right)
        squad_f1 = max(float(f1_abstractive([found], [r])) for r in right)
        rows.append({"found": found, "right": right, "drop": [float(drop["em"]), float(drop["f1"])],
                     "squad": [float(squad_em), squad_f1]})
    pages = []
    for body in [
        " In 1 @,@ 204 well @-@ known ships ' crews , 3 @.@ 5 % ( of all ) said : \" No ! \" ; it 's 20 \u00b0 N of here . \n",
        " = = Early years = = \n \n The ' old ' house [ sic ] { so } was theirs ' ( see below ) ? Yes . \n = = = End = = = \n",
        " A \" first and a ' second \" mark ' ( open \n and [ never closed . The dogs ' \n",
    ]:
        page = f" = Title = \n \n{body} \n"
        pages.append({"page": page, "text": wikitext_detokenizer({"page": page}),
                      "words": wikitext({"page": page}, (0.0,))["word_perplexity"][1],
                      "bytes": wikitext({"page": page}, (0.0,))["bits_per_byte"][1]})
    listed = lambda rows: "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]"
    path.write_text('{"reading": ' + listed(rows) + ',\n"wikitext": ' + listed(pages) + "}\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shared", type=pathlib.Path)
    p.add_argument("--tasks", default=",".join(TASKS))
    p.add_argument("--limit", type=int)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--run", default="lm-eval,forge")
    p.add_argument("--write-fixture", type=pathlib.Path)
    p.add_argument("--write-formulas", type=pathlib.Path)
    a = p.parse_args()
    if PYTHON.exists() and pathlib.Path(sys.prefix).resolve() != PYTHON.parent.parent.resolve():
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    if a.write_formulas:
        return formulas(a.write_formulas)
    shared, tasks = a.shared.resolve(), a.tasks.split(",")
    folder, data = model_folder(shared), shared / "datasets"
    run = a.run.split(",")
    if "lm-eval" in run:
        harness(folder, data, tasks, a.limit, a.threads)
    if "forge" in run:
        forge(folder, data, tasks, a.limit)
    read = lambda program, task: json.loads(result_file(program, task).read_text())
    both = [t for t in tasks if all(result_file(p, t).exists() for p in ["lm-eval", "forge"])]
    results = {task: (read("lm-eval", task), read("forge", task)) for task in both}
    print("| task | n | metric | lm-eval | stderr | Forge | stderr | largest difference of log-likelihoods | other best option |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task, (t, o) in results.items():
        worst, differ = compare(task, t, o)
        if len(t["items"]) < len(o["items"]) and "acc" in o["metrics"]:
            o["metrics"] = accuracies([o["items"][item["row"]] for item in t["items"]])
        for metric in [m for m in o["metrics"] if not m.endswith("_stderr") and m in t["metrics"]]:
            number = lambda x: f"{x:.4f}" if isinstance(x, float) else "-"
            stderr, n = f"{metric}_stderr", f"{len(t['items'])}"
            n += f" of {len(o['items'])}" if len(o["items"]) > len(t["items"]) else ""
            print(f"| {task} | {n} | {metric} | {number(t['metrics'][metric])} | {number(t['metrics'].get(stderr))} | "
                  f"{number(o['metrics'][metric])} | {number(o['metrics'].get(stderr))} | {worst:.1e} | {len(differ)} |")
        if differ:
            say(f"{task}: the best option differs for {differ}")
    if a.write_fixture:
        kept = {}
        for task, (t, o) in results.items():
            kept[task] = []
            for theirs in t["items"][:FIXTURE_ITEMS]:
                ours = o["items"][theirs["row"]]
                found = dict(zip(theirs.get("options", [0]), theirs["log_likelihoods"]))
                kept[task].append({"id": ours["id"], "log_likelihoods": [found[x] for x in ours.get("options", [0])]})
        rows = ",\n".join(f'"{task}": [\n' + ",\n".join(json.dumps(r) for r in items) + "\n]" for task, items in kept.items())
        a.write_fixture.write_text("{\n" + rows + "\n}\n")


main()
