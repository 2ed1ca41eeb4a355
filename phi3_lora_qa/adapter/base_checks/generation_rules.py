"""Family basemodel: what generation_config.json does to answers, besides greedy decoding."""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3_lora_qa.adapter.base_checks.base_rule import base_rule
from phi3_lora_qa.adapter.base_checks.base_view import GENERATION, BaseView
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "diversity_penalty": (0.0,),
    "length_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1.0,),
    "penalty_alpha": (0.0,),
    "stop_strings": ([],),
    "dola_layers": (),
    "watermarking_config": ({},),
}
"""The fields that change greedy decoding, with the values that do nothing, besides null."""

_ONLY_WITH_BEAMS = ("length_penalty", "diversity_penalty")


@base_rule(
    "basemodel-penalties",
    title="The base's generation_config.json has no penalties and no forced or banned tokens",
    why="transformers' generate applies all of them, and vLLM takes repetition_penalty from this "
    "file. The gate decodes greedily without them, so the answers that it judges are not the "
    "answers that will be served.",
    fix="remove the field from the base's generation_config.json, or serve without it (vLLM: "
    "--generation-config vllm)",
    severity=Severity.WARNING,
)
def no_penalties(base: BaseView) -> Iterator[Violation]:
    """Look for fields with another value than the neutral one."""
    settings = base.generation or {}
    beams = settings.get("num_beams")
    for name, neutral in _NEUTRAL.items():
        value = settings.get(name)
        if value is None or value in neutral:
            continue
        if name in _ONLY_WITH_BEAMS and beams in (None, 1):
            continue
        yield Violation(
            FieldOf(GENERATION, name),
            f"it is {value!r}, which changes answers; the gate decodes greedily without it",
        )


@base_rule(
    "basemodel-sampling",
    title="The base's generation_config.json does not sample",
    why="transformers and vLLM then sample answers by default. The gate decodes greedily, so that "
    "its result does not depend on chance.",
    fix="nothing needs to be fixed; request temperature 0 when served answers are compared with "
    "the gate's",
    severity=Severity.INFO,
)
def no_sampling(base: BaseView) -> Iterator[Violation]:
    """Look at do_sample."""
    settings = base.generation or {}
    if settings.get("do_sample"):
        names = [
            n for n in ("temperature", "top_p", "top_k", "min_p") if settings.get(n) is not None
        ]
        values = ", ".join(f"{name} {settings[name]!r}" for name in names)
        yield Violation(
            FieldOf(GENERATION, "do_sample"),
            f"a server samples answers by default{f' ({values})' if values else ''}; the gate "
            "decodes greedily",
        )
