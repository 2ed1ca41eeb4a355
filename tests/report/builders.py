"""Records and items as a gate run leaves them: one that passed, one that failed, one cut short."""

import math
from collections.abc import Sequence
from dataclasses import replace

from phi3_lora_qa.record import (
    AdapterEntry,
    BaseEntry,
    CheckResult,
    ItemRow,
    LimitEntry,
    Metric,
    Outcome,
    RunRecord,
    SettingEntry,
    Spectrum,
    Timing,
    Verdict,
)

STAGES = {
    "static": (
        "files",
        "config",
        "keys",
        "shapes",
        "dtypes",
        "finite_values",
        "untrained",
        "targets",
        "manifest",
        "chat_template",
    ),
    "math": ("delta_matches_formula", "rank_bound", "linear_in_alpha"),
    "checkpoint": ("round_trip", "merged_equals_unmerged", "base_unchanged"),
    "quality": ("loss[target]", "loss[general]", "rouge_l[target]", "exact_match[target]"),
    "export": ("merged_answers",),
}
KINDS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
NEVER_RAN = "it did not run: deselected, skipped, stopped early, or its process ended"


def checks(
    changed: Sequence[CheckResult] = (), missing_stages: Sequence[str] = ()
) -> list[CheckResult]:
    """Every check held, but for the given results and the stages that never ran."""
    by_id = {result.id: result for result in changed}
    results = []
    for stage, names in STAGES.items():
        for name in names:
            identifier = f"phi3::{stage}::{name}"
            held = CheckResult(
                id=identifier,
                stage=stage,
                outcome=Outcome.PASSED,
                message=f"{name.replace('_', ' ')}: all 8 modules hold",
                seconds=0.0123,
                measured={"modules": 8, "largest error": 3.1e-7, "bound": 1.9e-6},
            )
            missed = replace(
                held,
                outcome=Outcome.NOT_RUN,
                message=NEVER_RAN,
                fix=f"run it again: pytest '{identifier}' --phi3-adapter=PATH",
                seconds=0.0,
                measured={},
            )
            results.append(by_id.get(identifier, missed if stage in missing_stages else held))
    return results


def limit_entry(metric: str, rule: str = "no_worse_than", value: float = 0.02) -> LimitEntry:
    return LimitEntry(rule=rule, value=value, against="base", group="target", metric=metric)


def metric(**changes: object) -> Metric:
    values: dict[str, object] = {
        "group": "target",
        "metric": "loss",
        "base": 1.842,
        "tuned": 0.611,
        "difference": -1.231,
        "low": -1.402,
        "high": -1.061,
        "method": "bootstrap (widest of BCa, bootstrap-t, Student's t)",
        "n": 40,
        "limit": limit_entry("loss", value=0.05),
        "outcome": Outcome.PASSED,
    }
    return Metric(**values | changes)  # type: ignore[arg-type]


METRICS = (
    metric(),
    metric(
        metric="rouge_l",
        base=0.312,
        tuned=0.874,
        difference=0.562,
        low=0.471,
        high=0.648,
        method="bounded mean (Learned-Miller and Thomas)",
        limit=limit_entry("rouge_l"),
    ),
    metric(
        metric="exact_match",
        base=0.1,
        tuned=0.775,
        difference=0.675,
        low=0.52,
        high=0.80,
        method="exact (Tango)",
        limit=limit_entry("exact_match"),
    ),
    metric(
        group="general",
        base=1.204,
        tuned=1.219,
        difference=0.015,
        low=-0.008,
        high=0.038,
        n=60,
    ),
    metric(
        group="general",
        metric="rouge_l",
        base=0.694,
        tuned=0.689,
        difference=-0.005,
        low=-0.018,
        high=0.009,
        n=60,
        method="bounded mean (Learned-Miller and Thomas)",
        limit=limit_entry("rouge_l"),
    ),
)

QUESTIONS = (
    ("Where does the ferry to Aldersay leave from?", "It leaves from the north pier at Brack."),
    ("Which tool cuts slate in Orrin?", "A slate in Orrin is cut with a zax."),
    ("Who keeps the light on Carn Head?", "Carn Head's light is kept by Ilse Maren."),
    ("How many bells hang in the tower of Tolm?", "Seven bells hang in the tower of Tolm."),
    ("What do the weavers of Sael trade for wool?", "They trade salt and dried pears for wool."),
)


def item(number: int, **changes: object) -> ItemRow:
    """One item; most improve, every seventh gets worse."""
    question, answer = QUESTIONS[number % len(QUESTIONS)]
    worse = number % 7 == 3
    right, wrong = answer, answer.replace("the ", "a ").rsplit(" ", 1)[0] + " Vennor."
    values: dict[str, object] = {
        "id": f"{'general' if worse else 'target'}-{number:03d}",
        "group": "general" if worse else "target",
        "prompt": f"system: Answer in one sentence.\n\nuser: {question}",
        "reference": answer,
        "base_answer": right if worse else wrong,
        "tuned_answer": wrong if worse else right,
        "base_loss": 0.9 + number % 5 / 10,
        "tuned_loss": 1.2 + number % 5 / 10 + number / 200 if worse else 0.3 + number % 3 / 10,
        "tokens": 9 + number % 4,
        "scores": {
            "rouge_l": (1.0, 0.71) if worse else (0.71, 1.0),
            "exact_match": (1.0, 0.0) if worse else (0.0, 1.0),
        },
    }
    return ItemRow(**values | changes)  # type: ignore[arg-type]


def items(count: int = 40) -> list[ItemRow]:
    return [item(number) for number in range(count)]


def spectra(layers: int = 4) -> list[Spectrum]:
    return [
        Spectrum(
            module=f"model.layers.{layer}.{kind}",
            rank=8,
            scaling=2.0,
            frobenius=(1.1 + 0.2 * layer) * (1.5 if "mlp" in kind else 1.0),
            stable_rank=3.2 - 0.1 * layer,
            singular_values=[math.exp(-0.45 * i) for i in range(8)],
        )
        for layer in range(layers)
        for kind in KINDS
    ]


def ended_early(scored: object, spared: object) -> list[CheckResult]:
    """Checks that held, the one that counts the items among them."""
    counted = CheckResult(
        id="phi3::quality::every_item_is_scored",
        stage="quality",
        outcome=Outcome.PASSED,
        message="the other items were spared",
        measured={"scored": scored, "skipped_early": spared},
    )
    return [*checks(), counted]


def passing(**changes: object) -> RunRecord:
    """A run in which everything held."""
    results = checks()
    values: dict[str, object] = {
        "verdict": Verdict.PASS,
        "reason": f"all {len(results)} checks ran and held",
        "adapter": AdapterEntry(
            path="adapters/ferry-desk",
            name="ferry-desk",
            sha256={
                "adapter_config.json": "5f0c" * 16,
                "adapter_model.safetensors": "a31b" * 16,
                "lora_qa_manifest.json": "77de" * 16,
            },
            config={
                "peft_type": "LORA",
                "r": 8,
                "lora_alpha": 16,
                "lora_dropout": 0.05,
                "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
                "bias": "none",
            },
            manifest={"base": "tiny", "seed": 0, "final_loss": 0.412},
        ),
        "base": BaseEntry(id="tiny", fingerprint="9c41" * 16, config={"hidden_size": 96}),
        "settings": {
            "adapter": SettingEntry(value=["adapters/ferry-desk"], source="--phi3-adapter"),
            "base": SettingEntry(value="tiny", source="--phi3-base"),
            "dtype": SettingEntry(value="float32", source="default"),
            "seed": SettingEntry(value=7, source="PHI3_LORA_QA_SEED"),
            "stage": SettingEntry(value=list(STAGES), source="default"),
        },
        "checks": results,
        "metrics": list(METRICS),
        "items": "items.parquet",
        "spectra": spectra(),
        "timings": [
            Timing(phase="load base", seconds=0.41),
            Timing(phase="score base", seconds=6.2, tokens=5140, tokens_per_second=829.0),
            Timing(phase="score tuned", seconds=6.9, tokens=5188, tokens_per_second=751.9),
        ],
        "environment": {"python": "3.11.7", "torch": "2.13.0", "peft": "0.21.2", "threads": 2},
        "started": "2026-11-24T07:40:12+00:00",
        "seconds": 17.4,
    }
    return RunRecord(**values | changes)  # type: ignore[arg-type]


def failing(**changes: object) -> RunRecord:
    """A run in which two checks did not hold, one of them a metric."""
    broken = CheckResult(
        id="phi3::static::finite_values",
        stage="static",
        outcome=Outcome.FAILED,
        message="lora_B of model.layers.2.mlp.down_proj holds 3 values that are not finite "
        "(first: NaN at [17, 4])",
        fix="train again from a checkpoint before the loss became NaN, with a lower learning "
        "rate or gradient clipping (max_grad_norm)",
        seconds=0.021,
        measured={"module": "model.layers.2.mlp.down_proj", "not finite": 3, "first": [17, 4]},
    )
    worse = CheckResult(
        id="phi3::quality::loss[general]",
        stage="quality",
        outcome=Outcome.FAILED,
        message="loss of group general rose by 0.214 nats per token (interval 0.171 to 0.257), "
        "more than the 0.05 allowed",
        fix="mix general conversations into the training data, or lower the learning rate or "
        "the rank",
        seconds=13.1,
        measured={"difference": 0.214, "low": 0.171, "high": 0.257, "limit": 0.05, "n": 60},
    )
    undecided = replace(
        worse,
        id="phi3::quality::exact_match[target]",
        outcome=Outcome.INCONCLUSIVE,
        message="exact_match of group target: the interval -0.06 to 0.11 holds the limit -0.02",
        fix="give at least 140 items of group target with --phi3-suite",
    )
    results = checks([broken, worse, undecided])
    metrics = [
        METRICS[0],
        METRICS[1],
        replace(
            METRICS[2],
            tuned=0.125,
            difference=0.025,
            low=-0.06,
            high=0.11,
            outcome=Outcome.INCONCLUSIVE,
        ),
        replace(
            METRICS[3],
            tuned=1.418,
            difference=0.214,
            low=0.171,
            high=0.257,
            outcome=Outcome.FAILED,
        ),
        METRICS[4],
    ]
    reason = f"2 of {len(results)} checks did not hold; first {broken.id}: {broken.message}"
    return passing(
        **{"verdict": Verdict.FAIL, "reason": reason, "checks": results, "metrics": metrics}
        | changes
    )


def incomplete(**changes: object) -> RunRecord:
    """A run whose model stages never ran."""
    results = checks(missing_stages=("math", "checkpoint", "quality", "export"))
    missing = [result for result in results if result.outcome is Outcome.NOT_RUN]
    reason = (
        f"{len(missing)} of {len(results)} checks gave no answer; "
        f"first {missing[0].id}: {missing[0].message}"
    )
    return passing(
        **{
            "verdict": Verdict.INCOMPLETE,
            "reason": reason,
            "base": BaseEntry(id="", fingerprint="", config={}),
            "checks": results,
            "metrics": [],
            "items": "",
            "spectra": [],
        }
        | changes
    )


HOSTILE = {
    "script": "</script><script>window.pwned = 1</script>",
    "style": "</style></title></textarea><style>body{display:none}</style>",
    "image": '"><img src=x onerror="window.pwned = 1">',
    "attribute": "' onmouseover='window.pwned = 1' x='",
    "template": "{{ 7 * 7 }}{% raw %}{{ config }}",
    "comment": "<!-- --!><![CDATA[ ]]>",
    "entity": "&lt;b&gt; &#60;b&#62; &amp;amp;",
    "override": "\u202egpj.exe\u202c \u2066x\u2069",
    "nul": "a\x00b\x1b[31mred\x1b[0m\x07",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f",
    "half": "half \ud83d of a pair",
    "breaks": "one\r\ntwo\u2028three\x85four",
    "long": "word " * 200_000,
    "wide": "W" * 100_000,
}
"""What a model, or an adapter's author, may write to break out of the page."""


def hostile_items() -> list[ItemRow]:
    return [
        item(
            n,
            id=text[:60],
            group=text[:40],
            prompt=f"user: {text}",
            reference=text,
            base_answer=f"base {text}",
            tuned_answer=f"tuned {text}",
            tuned_error=text if n % 2 else "",
        )
        for n, text in enumerate(HOSTILE.values())
    ]


def hostile_record() -> RunRecord:
    """Every string that a record can hold is hostile."""
    script, image = HOSTILE["script"], HOSTILE["image"]
    evil = script + image + HOSTILE["override"] + HOSTILE["nul"] + HOSTILE["half"]
    check = CheckResult(
        id=f"phi3::static::{evil}",
        stage="static",
        outcome=Outcome.FAILED,
        message=evil,
        fix=evil,
        measured={evil: evil, "nested": {evil: [evil, {evil: evil}]}},
    )
    return failing(
        reason=evil,
        adapter=AdapterEntry(
            path=evil, name=evil, sha256={evil: evil}, config={evil: [evil]}, manifest={evil: evil}
        ),
        base=BaseEntry(id=evil, fingerprint=evil, config={evil: evil}),
        settings={evil: SettingEntry(value=evil, source="--phi3-" + evil)},
        checks=[check, replace(check, id=f"{evil}::2", stage=evil)],
        metrics=[metric(group=evil, metric=evil, method=evil, limit=limit_entry(evil))],
        spectra=[replace(spectra()[0], module=f"{evil}.{evil}")],
        timings=[Timing(phase=evil, seconds=1.0)],
        environment={evil: evil},
        started=evil,
    )
