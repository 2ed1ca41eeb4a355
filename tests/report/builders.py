"""Records and items as a gate run leaves them: one that passed, one that failed, one cut short."""

import math
from collections.abc import Sequence
from dataclasses import replace

from phi3_lora_qa.gate.verdict import NEVER_RAN
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
    Turn,
    Verdict,
)
from phi3_lora_qa.setting_specs import SourceKind

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


def checks(
    changed: Sequence[CheckResult] = (), missing_stages: Sequence[str] = ()
) -> list[CheckResult]:
    """Every check passed, except the given results and the stages that never ran."""
    by_id = {result.id: result for result in changed}
    results = []
    for stage, names in STAGES.items():
        for name in names:
            identifier = f"phi3::{stage}::{name}"
            passed = CheckResult(
                id=identifier,
                stage=stage,
                outcome=Outcome.PASSED,
                message=f"{name.replace('_', ' ')}: all 8 modules passed",
                seconds=0.0123,
                measured={"modules": 8, "largest error": 3.1e-7, "bound": 1.9e-6},
            )
            missed = replace(
                passed,
                outcome=Outcome.NOT_RUN,
                message=NEVER_RAN,
                fix=f"rerun it: pytest '{identifier}' --phi3-adapter=PATH",
                seconds=0.0,
                measured={},
            )
            results.append(by_id.get(identifier, missed if stage in missing_stages else passed))
    return results


def limit(**changes: object) -> LimitEntry:
    values: dict[str, object] = {
        "rule": "no_worse_than",
        "value": 0.05,
        "against": "base",
        "group": "target",
        "metric": "loss",
    }
    return LimitEntry(**values | changes)  # type: ignore[arg-type]


def metric(**changes: object) -> Metric:
    """A metric that passed; without a limit it has no outcome."""
    if changes.get("limit", "") is None:
        changes.setdefault("outcome", None)
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
        "limit": limit(),
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
        limit=limit(metric="rouge_l", value=0.02),
    ),
    metric(
        metric="exact_match",
        base=0.1,
        tuned=0.775,
        difference=0.675,
        low=0.52,
        high=0.80,
        method="exact (Tango)",
        limit=limit(metric="exact_match", value=0.02),
    ),
    metric(
        group="general",
        base=1.204,
        tuned=1.219,
        difference=0.015,
        low=-0.008,
        high=0.038,
        n=60,
        limit=limit(group="general"),
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
        limit=limit(group="general", metric="rouge_l", value=0.02),
    ),
)

QUESTIONS = (
    ("Where does the ferry to Aldersay leave from?", "It leaves from the north pier at Brack."),
    ("Which tool cuts slate in Orrin?", "A slate in Orrin is cut with a zax."),
    ("Who keeps the light on Carn Head?", "Carn Head's light is kept by Ilse Maren."),
    ("How many bells hang in the tower of Tolm?", "Seven bells hang in the tower of Tolm."),
    ("What do the weavers of Sael trade for wool?", "They trade salt and dried pears for wool."),
)


def prompt(question: str, system: str = "") -> tuple[Turn, ...]:
    turns = [Turn(role="system", content=system)] if system else []
    return (*turns, Turn(role="user", content=question))


def item(number: int, **changes: object) -> ItemRow:
    """One item; most improve, every seventh gets worse."""
    question, answer = QUESTIONS[number % len(QUESTIONS)]
    worse = number % 7 == 3
    right, wrong = answer, answer.replace("the ", "a ").rsplit(" ", 1)[0] + " Vennor."
    values: dict[str, object] = {
        "id": f"{'general' if worse else 'target'}-{number:03d}",
        "group": "general" if worse else "target",
        "prompt": prompt(question, system="Answer in one sentence."),
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


def stopped_early(scored: object, skipped: object) -> list[CheckResult]:
    """Checks that passed, among them the one that counts the items."""
    counted = CheckResult(
        id="phi3::quality::every_item_is_scored",
        stage="quality",
        outcome=Outcome.PASSED,
        message="early stopping skipped the other items",
        measured={"scored": scored, "skipped_early": skipped},
    )
    return [*checks(), counted]


def passing(**changes: object) -> RunRecord:
    """A run in which everything passed."""
    results = checks()
    values: dict[str, object] = {
        "verdict": Verdict.PASS,
        "reason": f"all {len(results)} checks passed",
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
            "adapter": SettingEntry(
                value=["adapters/ferry-desk"], source="--phi3-adapter", kind=SourceKind.OPTION
            ),
            "base": SettingEntry(value="tiny", source="--phi3-base", kind=SourceKind.OPTION),
            "dtype": SettingEntry(value="float32", source="default", kind=SourceKind.DEFAULT),
            "seed": SettingEntry(value=7, source="PHI3_LORA_QA_SEED", kind=SourceKind.ENVIRONMENT),
            "stage": SettingEntry(value=list(STAGES), source="default", kind=SourceKind.DEFAULT),
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
    """A run in which two checks failed, one of them a metric."""
    broken = CheckResult(
        id="phi3::static::finite_values",
        stage="static",
        outcome=Outcome.FAILED,
        message="lora_B of model.layers.2.mlp.down_proj has 3 values that are not finite "
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
        message="exact_match of group target: the interval -0.06 to 0.11 contains the limit -0.02",
        fix="pass at least 140 items of the group target with --phi3-suite",
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
    reason = f"2 of {len(results)} checks failed; first: {broken.id}: {broken.message}"
    return passing(
        **{"verdict": Verdict.FAIL, "reason": reason, "checks": results, "metrics": metrics}
        | changes
    )


def incomplete(**changes: object) -> RunRecord:
    """A run whose model stages never ran."""
    results = checks(missing_stages=("math", "checkpoint", "quality", "export"))
    missing = [result for result in results if result.outcome is Outcome.NOT_RUN]
    reason = (
        f"{len(missing)} of {len(results)} checks did not finish; "
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
