"""Score base and tuned model on the same items: this package, lm-eval, and a plain pipeline.

Usage: python benchmarks/scoring.py --adapter DIR [--base smollm2] [--items FILE.jsonl]
           [--lm-eval PYTHON] [--item-count 200] [--notebook-items 20]

PYTHON is the interpreter of a separate environment with lm-eval 0.4.13 and peft 0.21.2, as
`make bench` creates it. Times are wall times of whole processes, which run one after another, in
float32. All programs read the same rendered prompts and generate at most 32 tokens; only items
whose reference allows that many are used. The results are compared before any time is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 32
OWN = f"""
import json, sys, time
from pathlib import Path
from phi3_lora_qa.data.suite import read_suite
from phi3_lora_qa.models.attach import attach
from phi3_lora_qa.models.checksum import checksum
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.registry import resolve_base
from phi3_lora_qa.scoring.score_cache import ScoreCache
from phi3_lora_qa.scoring.score_items import ScoringOptions, score_items

base_name, adapter, items, dtype, folder, output = sys.argv[1:]
base = load_base(resolve_base(base_name), dtype)
suite = read_suite([Path(items)])
options = ScoringOptions(max_new_tokens={LIMIT})
marks = [time.perf_counter()]
cache = ScoreCache(Path(folder), {{"base": checksum(base.model)}})
before = score_items(base.model, base.tokenizer, suite, options, cache=cache)
marks.append(time.perf_counter())
tuned = attach(base.model, Path(adapter))
after = score_items(tuned, base.tokenizer, suite, options, base_scores=before)
marks.append(time.perf_counter())
sides = [
    {{s.item_id: [s.loss, s.tokens, s.answer] for s in scores}} for scores in (before, after)
]
Path(output).write_text(json.dumps({{"sides": sides, "marks": marks}}))
"""
NOTEBOOK = f"""
import json, sys
from pathlib import Path
import evaluate
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from phi3_lora_qa.metrics.modules import RougeL

base, adapter, items = sys.argv[1:]
rows = [json.loads(line) for line in Path(items).read_text().splitlines()]
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
for tuned in (False, True):
    if tuned:
        model = PeftModel.from_pretrained(model, adapter)
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    rouge = RougeL()
    for row in rows:
        text = pipe(row["prompt"], max_new_tokens={LIMIT}, do_sample=False, return_full_text=False)
        rouge.add(prediction=text[0]["generated_text"], reference=row["reference"])
    print(rouge.compute())
"""
# lm-eval counts white space at the end of a prompt, here the template's newline, as part of the
# answer. This patch leaves it in the prompt, so that losses are of the same tokens.
LM_EVAL = """
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.model import TemplateLM

def pair(self, context, continuation):
    whole, prompt = self.tok_encode(context + continuation), self.tok_encode(context)
    return prompt, whole[len(prompt):]

TemplateLM._encode_pair = pair
cli_evaluate()
"""
TASKS: dict[str, dict[str, Any]] = {
    "own_losses": {"output_type": "loglikelihood", "doc_to_target": "{{target}}"},
    "own_answers": {
        "output_type": "generate_until",
        "doc_to_target": "{{reference}}",
        "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": LIMIT, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@dataclass(frozen=True)
class Cost:
    """The cost of a process: wall time in seconds, and the largest resident size in MiB."""

    seconds: float
    peak: float


def run(*command: str | Path) -> Cost:
    """Run a command, and print its errors only if it fails."""
    code = (
        "import resource, subprocess, sys\n"
        "r = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "sys.stderr.write(r.stderr[-3000:] if r.returncode else '')\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(r.returncode)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    return Cost(time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024)


def base_and_items(base: str, items: Path | None) -> tuple[str, Path]:
    """Return the folder of a base and the items, by default those of the base's suite."""
    from phi3_lora_qa.models.registry import bundled_suite, resolve_base

    ref = resolve_base(base)
    return str(ref.folder), items or bundled_suite(ref)


def choose_items(source: Path, base: str, count: int, folder: Path) -> tuple[Path, Path]:
    """Write the items as a suite, and rendered for the other programs; return both files."""
    from phi3_lora_qa.data.suite import read_suite
    from phi3_lora_qa.models.loading import load_tokenizer
    from phi3_lora_qa.models.registry import resolve_base
    from phi3_lora_qa.scoring.prompts import template_stop_token, tokenize_item

    tokenizer = load_tokenizer(resolve_base(base))
    template_stop = template_stop_token(tokenizer)
    own, rendered = folder / "suite.jsonl", folder / "rendered.jsonl"
    rows: list[tuple[Any, Any]] = []
    for item in read_suite([source]):
        tokenized = tokenize_item(tokenizer, template_stop, item, LIMIT)
        whole = tokenized.prompt + tokenized.reference
        prompt, target = (
            str(tokenizer.decode(list(ids))) for ids in (tokenized.prompt, tokenized.reference)
        )
        again = tokenizer(prompt + target, add_special_tokens=False)["input_ids"]
        if tokenized.answer_limit < LIMIT or tuple(again) != whole or len(whole) > 512:
            continue
        turns = [{"role": turn.role, "content": turn.content} for turn in item.prompt]
        suite = {"id": item.id, "messages": turns, "reference": item.reference}
        rows.append((suite, {"id": item.id, "prompt": prompt, "target": target,
                             "reference": item.reference}))  # fmt: skip
        if len(rows) == count:
            break
    own.write_text("".join(json.dumps(suite) + "\n" for suite, _ in rows))
    rendered.write_text("".join(json.dumps(row) + "\n" for _, row in rows))
    print(f"{len(rows)} items of real text, at most {LIMIT} new tokens each")
    return own, rendered


def run_lm_eval(
    python: str, base: str, adapter: str, rendered: Path, folder: Path
) -> tuple[Cost, dict[str, Any]]:
    """Run lm-eval on base or tuned model; return its cost, and losses and answers by id."""
    for name, task in TASKS.items():
        common = {
            "task": name, "dataset_path": "json", "test_split": "test", "target_delimiter": "",
            "dataset_kwargs": {"data_files": {"test": str(rendered)}}, "doc_to_text": "{{prompt}}",
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps({**common, **task}))  # JSON is valid YAML
    output = folder / ("tuned" if adapter else "base")
    model = f"pretrained={base},dtype=float32" + (f",peft={adapter}" if adapter else "")
    cost = run(
        python, "-c", LM_EVAL, "--model", "hf", "--model_args", model,
        "--include_path", folder, "--tasks", ",".join(TASKS), "--device", "cpu",
        "--batch_size", "16", "--output_path", output, "--log_samples",
    )  # fmt: skip
    found: dict[str, Any] = {}
    for file in output.rglob("samples_*.jsonl"):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            first = row["filtered_resps"][0]
            entry = found.setdefault(row["doc"]["id"], {})
            if "own_losses" in file.name:
                entry["loss"] = -float(first[0])
            else:
                entry["answer"] = first
    return cost, found


def compare(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    """Print how far the results of two programs differ."""
    differences = [abs(ours[i][0] - theirs[i]["loss"] / ours[i][1]) for i in ours]
    equal = sum(ours[i][2].strip() == theirs[i]["answer"].strip() for i in ours)
    print(
        f"  {name}: losses differ by at most {max(differences):.1e} nats per token, "
        f"{equal} of {len(ours)} answers equal"
    )


def main() -> None:
    """Run all programs one after another and print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--items", type=Path)
    parser.add_argument("--lm-eval")
    parser.add_argument("--item-count", type=int, default=200)
    parser.add_argument("--notebook-items", type=int, default=20)
    arguments = parser.parse_args()
    base, items = base_and_items(arguments.base, arguments.items)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite, rendered = choose_items(items, base, arguments.item_count, folder)
        output = folder / "own.json"

        def own(dtype: str, cache: str) -> tuple[Cost, Any]:
            cost = run(sys.executable, "-c", OWN, base, arguments.adapter, suite, dtype,
                       folder / cache, output)  # fmt: skip
            found = json.loads(output.read_text())
            first, second, third = found["marks"]
            print(
                f"phi3-lora-qa {dtype} {cache}: {cost.seconds:.1f} s, {cost.peak:.0f} MiB "
                f"(base {second - first:.1f} s, tuned {third - second:.1f} s)", flush=True,
            )  # fmt: skip
            return cost, found["sides"]

        cold, sides = own("float32", "cached")
        warm, again = own("float32", "cached")
        assert again == sides, "a cached base score differs"
        half, drifted = own("bfloat16", "half")
        drift = [sum(row[0] for row in side.values()) / len(side) for side in (*sides, *drifted)]
        print(f"  bfloat16 changes the mean loss: base {drift[2] - drift[0]:+.4f}, "
              f"tuned {drift[3] - drift[1]:+.4f}")  # fmt: skip
        if arguments.lm_eval:
            peer = 0.0
            for which, adapter in enumerate(("", arguments.adapter)):
                cost, found = run_lm_eval(arguments.lm_eval, base, adapter, rendered, folder)
                print(f"lm-eval {'tuned' if adapter else 'base'}: {cost.seconds:.1f} s, "
                      f"{cost.peak:.0f} MiB", flush=True)  # fmt: skip
                compare(sides[which], found, "tuned" if adapter else "base")
                peer += cost.seconds
            print(f"lm-eval / phi3-lora-qa: {peer / cold.seconds:.2f} cold, "
                  f"{peer / warm.seconds:.2f} with cached base scores, "
                  f"{peer / half.seconds:.2f} in bfloat16")  # fmt: skip
        if arguments.notebook_items:
            lines = rendered.read_text().splitlines()
            few = folder / "few.jsonl"
            few.write_text("\n".join(lines[: arguments.notebook_items]) + "\n")
            cost = run(sys.executable, "-c", NOTEBOOK, base, arguments.adapter, few)
            scale = len(lines) / min(len(lines), arguments.notebook_items)
            print(f"pipeline, one prompt at a time: {cost.seconds:.1f} s for "
                  f"{arguments.notebook_items} items; for all, about {cost.seconds * scale:.0f} s, "
                  f"{cost.seconds * scale / cold.seconds:.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()
