"""Forge beside PyTorch at equal wall-clock: held-out bits per byte of the same text after so many seconds of training.

Four contenders, each one step from the one before, so that the table says where a difference comes from:

  torch   PyTorch (compiled, bf16 autocast), plain decoder, AdamW
  adamw   Forge, the same decoder from the same weights on the same batches, AdamW       engine
  muon    Forge, the same decoder, Muon for hidden matrices                              optimizer
  all     Forge, the whole model with as many parameters: loops, memory, Grokfast        architecture

All see the batches of one order (`forge bench curve --export`), each as far as it comes in its time. That time is kept
by counting: `--speed` measures steps a second of all contenders by turns, the best of all timed runs counts, and a
training of N seconds is one of N times as many steps, so that neighbours on a shared machine move nobody's result. Learning
rates and schedules are chosen for each by `--scan`, at equal tokens on the selection split; the table is read off the
held-out split. Compiling and measuring count for neither. Everything that was measured is kept in target/peers/curve,
so that the work can be done in pieces: what is there is not measured again, and the table shows all that is there.

usage: python3 bench/peers/curve.py --root DIR [--run NAME] [--scan [--rates X,Y]] [--speed ROUNDS]
                                    [--check] [--contenders torch,adamw,muon,all]
                                    [--seconds 120,300] [--seeds 0,1] [--threads N]
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

from run import FORGE, HERE, TUNED, WORK, figures, install, say
from tables import markdown, put

RESULTS = WORK / "curve"
SETS = {"wikitext": "WikiText-2", "prose": "prose"}
CONTENDERS = {
    "torch": "PyTorch, plain decoder, AdamW",
    "adamw": "Forge, plain decoder, AdamW",
    "muon": "Forge, plain decoder, Muon",
    "all": "Forge, whole model, Muon and Grokfast",
}
SHARES = {"adamw": "engine", "muon": "optimizer", "all": "architecture"}
VARIANTS = {"adamw": "adamw", "muon": "plain", "all": "all"}
ADAMW, MUON = [1e-3, 2e-3, 4e-3, 8e-3], [4e-3, 8e-3, 16e-3]
RATES = {"torch": ADAMW, "adamw": ADAMW, "muon": MUON, "all": MUON}
# The share of the training over which the rate falls linearly to nothing, after a warm-up of 5%.
COOLDOWN = {"linear": 0.95, "half": 0.5}
SCHEDULES = {"torch": ["cosine", "linear"], "adamw": ["linear", "half"], "muon": ["linear", "half"], "all": ["linear", "half"]}
SCAN_STEPS = 98
SPEED_STEPS = 40
# Where nothing was scanned: what the recipe has, falling all the way as PyTorch's rate does.
UNSCANNED = {"adamw": (2e-3, "linear"), "muon": (8e-3, "linear"), "all": (8e-3, "half")}
# More than PyTorch sees in five minutes.
EXPORTED_TOKENS = 4_000_000
BYTES = 200_000


class Curves:
    def __init__(self, args):
        self.root, self.run, self.threads = args.root, args.run, args.threads
        recipe = json.loads((self.root / "runs" / self.run / "recipe.json").read_text())["recipe"]
        self.step_tokens = recipe["cognate"]["tokens_per_step"]
        self.python = install()
        RESULTS.mkdir(parents=True, exist_ok=True)

    def forge(self, variant, seed, split, *more):
        sets = [x for name in SETS for x in ("--measure", name)]
        return figures([FORGE, "bench", "curve", self.run, "--root", self.root, "--variant", variant, "--seed", seed,
                        "--split", split, "--bytes", BYTES, *sets, "--threads", self.threads, "--json", *more], {})["curves"][0]

    def export(self, seed, split):
        """The folder of what PyTorch trains on."""
        folder = RESULTS / f"{self.run}-{seed}-{split}"
        if not (folder / "end.safetensors").exists():
            say(f"exporting batches of seed {seed}")
            self.forge("adamw", seed, split, "--tokens", EXPORTED_TOKENS, "--seconds", 1e-3, "--points", 1,
                       "--export", folder)
        return folder

    def torch(self, folder, *more):
        command = [self.python, HERE / "plain.py", folder, "--threads", self.threads, *more]
        return figures(command, {"GLIBC_TUNABLES": TUNED})

    def train(self, contender, seed, split, rate, schedule, steps):
        if contender == "torch":
            return self.torch(self.export(seed, split), "--steps", steps, "--lr", rate, "--schedule", schedule)
        muon, adam = (rate, rate / 2) if contender != "adamw" else (rate, rate)
        change = [f"muon_lr={muon}", f"adam_lr={adam}", "warmup=0.05", f"cooldown={COOLDOWN[schedule]}"]
        change = [x for c in change for x in ("--set", f"cognate.optim.{c}")]
        return self.forge(VARIANTS[contender], seed, split, "--points", 1, "--tokens", steps * self.step_tokens, *change)

    def scan(self, contender, rates):
        """Chooses rate and schedule: the rates by the first schedule, then the best one by the other."""
        path = RESULTS / f"scan-{contender}.json"
        tried = json.loads(path.read_text()) if path.exists() else []

        def score(rate, schedule):
            for t in tried:
                if (t["rate"], t["schedule"]) == (rate, schedule):
                    return t["bits_per_byte"]
            got = self.train(contender, 0, "selection", rate, schedule, SCAN_STEPS)
            tried.append({"rate": rate, "schedule": schedule, **got["points"][-1]})
            path.write_text(json.dumps(tried, indent=1))
            say(f"scan: {contender}, {rate:g}, {schedule}: {tried[-1]['bits_per_byte']:.4f} bits per byte")
            return tried[-1]["bits_per_byte"]

        first, second = SCHEDULES[contender]
        for rate in rates:
            score(rate, first)
        score(min(tried, key=lambda t: t["bits_per_byte"])["rate"], second)

    def chosen(self, contender):
        path = RESULTS / f"scan-{contender}.json"
        if not path.exists() and contender in UNSCANNED:
            return UNSCANNED[contender]
        if not path.exists():
            sys.exit(f"{path} is not there; choose PyTorch's learning rate with --scan first")
        best = min(json.loads(path.read_text()), key=lambda t: t["bits_per_byte"])
        return best["rate"], best["schedule"]

    def speed(self, rounds):
        """Steps a second of every contender, by turns; what other processes took of the machine stands beside it."""
        path = RESULTS / "speed.json"
        found = json.loads(path.read_text()) if path.exists() else []
        for i in range(rounds):
            got, before = {}, processor_time()
            for contender in CONTENDERS:
                last = self.train(contender, 0, "selection", *self.chosen(contender), SPEED_STEPS)["points"][-1]
                got[contender] = last["step"] / last["seconds"]
            own, all_of_it = (b - a for a, b in zip(before, processor_time()))
            got["others"] = 1 - own / all_of_it
            say(f"round {i + 1}: {got}")
            found.append(got)
            path.write_text(json.dumps(found, indent=1))

    def steps(self, contender, seconds):
        """What so many seconds give at the best speed that any round or scan saw."""
        speeds = []
        for name in ["speed", f"scan-{contender}"]:
            path = RESULTS / f"{name}.json"
            found = json.loads(path.read_text()) if path.exists() else []
            speeds += [r[contender] if contender in r else r["step"] / r["seconds"] for r in found]
        if not speeds:
            sys.exit(f"nothing was timed for {contender}; measure steps a second with --speed first")
        return round(seconds * max(speeds))

    def measure(self, contender, seed, seconds):
        path = RESULTS / f"{contender}-{seed}-{seconds:g}.json"
        if path.exists():
            return
        rate, schedule = self.chosen(contender)
        got = self.train(contender, seed, "held-out", rate, schedule, self.steps(contender, seconds))
        path.write_text(json.dumps({**got, "contender": contender, "seed": seed, "budget": seconds, "rate": rate,
                                    "schedule": schedule}, indent=1))
        last = got["points"][-1]
        say(f"{contender}, seed {seed}: {last['seconds']:.1f} s here, {last['tokens']} tokens, {last['by_set']}")

    def check(self):
        """Weights that Forge trained give the same bits per byte in PyTorch."""
        folder = RESULTS / "check"
        ours = self.forge("plain", 0, "selection", "--tokens", 60_000, "--points", 1, "--export", folder)
        for precision in ["f32", "bf16"]:
            theirs = self.torch(folder, "--steps", 0, "--weights", "end.safetensors", "--precision", precision)
            assert ours["parameters"] == theirs["parameters"], (ours["parameters"], theirs["parameters"])
            for name, a in ours["points"][-1]["by_set"].items():
                b = theirs["points"][-1]["by_set"][name]
                print(f"{name}, PyTorch in {precision}: Forge {a:.5f}, PyTorch {b:.5f}, off by {abs(a / b - 1):.1e}")
                assert abs(a / b - 1) < 2e-3, "the models are not the same"


def processor_time():
    """Jiffies of this program and what it started, and of all that ran."""
    own = os.times()
    own = (own.user + own.system + own.children_user + own.children_system) * os.sysconf("SC_CLK_TCK")
    numbers = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return own, sum(numbers) - numbers[3] - numbers[4]


def table():
    """One row for each budget and contender, means over the seeds that all contenders of the budget have."""
    results = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("*-*-*.json"))]
    rows = []
    for budget in sorted({r["budget"] for r in results}):
        own = {c: {r["seed"]: r for r in results if (r["contender"], r["budget"]) == (c, budget)} for c in CONTENDERS}
        seeds = sorted(set.intersection(*(set(by) for by in own.values())))
        before = None
        for contender, title in CONTENDERS.items():
            if not seeds:
                break
            runs = [own[contender][s] for s in seeds]
            last = [r["points"][-1] for r in runs]
            mean = {name: statistics.mean(p["by_set"][name] for p in last) for name in SETS}
            each = lambda name: ", ".join(f"{p['by_set'][name]:.3f}" for p in last)
            shown = lambda name: f"{mean[name]:.3f}" + (f" ({each(name)})" if len(last) > 1 else "")
            moved = "" if before is None else f"{SHARES[contender]}: " + ", ".join(
                f"{mean[name] - before[name]:+.3f}" for name in SETS)
            tokens = statistics.mean(p["tokens"] for p in last)
            rows.append([f"{budget:g}", title, f"{runs[0]['rate']:g}, {runs[0]['schedule']}", f"{tokens / 1e6:.2f}M",
                         f"{tokens / budget:.0f}", *map(shown, SETS), moved])
            before = mean
    header = ["seconds", "", "rate, schedule", "tokens", "tokens/s", *SETS.values(), "against the row above"]
    return markdown(header, rows)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--root", type=pathlib.Path, required=True)
    p.add_argument("--run", default="small")
    p.add_argument("--scan", action="store_true")
    p.add_argument("--rates", help="tried by --scan instead of the usual ones")
    p.add_argument("--speed", type=int, metavar="ROUNDS")
    p.add_argument("--check", action="store_true")
    p.add_argument("--contenders", default=",".join(CONTENDERS))
    p.add_argument("--seconds", default="120,300")
    p.add_argument("--seeds", default="0,1")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    curves = Curves(a)
    contenders = a.contenders.split(",")
    if a.check:
        return curves.check()
    if a.speed:
        return curves.speed(a.speed)
    if a.scan:
        for contender in contenders:
            curves.scan(contender, [float(r) for r in a.rates.split(",")] if a.rates else RATES[contender])
        return
    for seconds in map(float, a.seconds.split(",")):
        for seed in map(int, a.seeds.split(",")):
            for contender in contenders:
                curves.measure(contender, seed, seconds)
    what = f"two threads, bf16, recipe of the run `{a.run}`; means over seeds, each in brackets"
    put("results.md", "curve", "Held-out bits per byte at equal wall-clock, beside PyTorch", what, table())


if __name__ == "__main__":
    main()
