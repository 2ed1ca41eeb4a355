"""Family files: files that loaders read from the folder although no check covers them.

transformers loads the base itself from a folder with a config.json, and the generation settings.
SGLang reads every safetensors file of an adapter's folder, and vLLM up to 0.10 reads one with
additional embeddings. With such files an adapter that was judged on one base runs with another.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import GENERATION_CONFIG, MODEL_CONFIG, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.rules.folder_files import shards_of
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError

_MAX_CONFIG = 4 << 20
_MISTRAL_CONFIG = "params.json"
_WHOLE_MODEL = re.compile(
    r"(pytorch_model|tf_model|flax_model|consolidated)\b.*\.(bin|h5|msgpack|pth|index\.json)"
    r"|.*\.safetensors(\.index\.json)?"
)
_EXTRA_EMBEDDINGS = ("new_embeddings.safetensors", "new_embeddings.bin")

# These fields say who wrote the file, and in which precision to compute. The model is the same.
_CONFIG_WITHOUT_EFFECT = (
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
)  # fmt: skip
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_GENERATION_WITHOUT_EFFECT = (
    "transformers_version", "_from_model_config", "use_cache", "cache_implementation",
    "cache_config", "pad_token_id", "bos_token_id", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "return_dict_in_generate", "num_return_sequences",
)  # fmt: skip
_LONG_ANSWER = 1024
"""A limit of this many new tokens, or more, cuts off no answer of a chat."""

_SAMPLING = (
    "do_sample", "temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff",
    "eta_cutoff",
)  # fmt: skip
_NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "length_penalty": 1.0,
    "diversity_penalty": 0.0, "num_beams": 1, "num_beam_groups": 1, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "max_length": 20, "penalty_alpha": 0.0,
    "temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}  # fmt: skip
"""The defaults of transformers for missing fields, other than null, false and empty."""


@rule(
    "files-own-base",
    severity=Severity.ERROR,
    title="No program loads the base from the adapter's folder",
    why="transformers' AutoModelForCausalLM and vLLM treat a folder with a config.json as a "
    "complete model. They would run the model in the folder, not the base that the adapter was "
    "checked against.",
    fix="remove the model's config and weights from the folder; they belong to the base",
    needs=["base that the adapter is for"],
)
def own_base(context: LintContext) -> Iterator[Violation]:
    """Find the config of a model that is not the base's, and a model's weights next to it."""
    names = context.folder.entries
    config = next((n for n in (_MISTRAL_CONFIG, MODEL_CONFIG) if n in names), None)
    if config is None:
        return
    weights = [name for name in names if name != WEIGHTS and _WHOLE_MODEL.fullmatch(name)]
    foreign = [name for name in weights if not _equals_base_file(context, name)]
    if foreign:
        yield Violation(config, f"a loader would load the base from {config} and {foreign[0]}")
    elif config == _MISTRAL_CONFIG:
        yield Violation(config, "a loader treats the folder as a complete model")
    elif context.has("base"):
        try:
            found = _read(context.folder, MODEL_CONFIG)
        except AdapterError as error:
            yield Violation(config, error.what, error.fix)
            return
        for field in _other_model(found, context.base.config, whole=bool(weights)):
            yield _setting(config, field, found, context.base.config)


def _other_model(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return the fields that make a config another model's.

    Without weights in the folder, no model can be loaded with it, but it still chooses classes and
    code. Fields that versions of transformers add or rename on saving are then ignored.
    """
    if whole:
        return _differing(ours, theirs, _CONFIG_WITHOUT_EFFECT)
    sizes = [n for n in (*_SIZES, "architectures") if ours.get(n) and theirs.get(n)]
    named = [n for n in ("auto_map", "tokenizer_class") if ours.get(n)]
    return [n for n in ("model_type", *named, *sizes) if ours.get(n) != theirs.get(n)]


@rule(
    "files-further-weights",
    severity=Severity.ERROR,
    title="No program loads additional adapter weights from the folder",
    why="SGLang reads every safetensors file of the folder, and vLLM up to 0.10 reads one called "
    "new_embeddings. They load these tensors into the model, and no check has seen them.",
    fix="remove the file, or move its adapter to its own folder",
)
def further_weights(context: LintContext) -> Iterator[Violation]:
    """Find other files with factors, and additional embeddings."""
    shards = shards_of(context)
    for name in context.folder.entries:
        if shards and name in shards.names:
            continue  # files-weights-sharded reports them
        if name in _EXTRA_EMBEDDINGS:
            yield Violation(name, "vLLM loads these embeddings with the adapter")
        elif name.endswith(".safetensors") and name != WEIGHTS and _has_factors(context, name):
            yield Violation(name, f"it contains adapter factors in addition to {WEIGHTS}")


@rule(
    "files-generation",
    severity=Severity.ERROR,
    title="The generation settings in the folder are the base's",
    why="A program that loads them from the folder does not give the answers that were judged: "
    "they are truncated, lack suppressed words, or never end.",
    fix=f"remove {GENERATION_CONFIG}; the base has its own",
    needs=["base"],
)
def generation(context: LintContext) -> Iterator[Violation]:
    """Compare all settings that change an answer, except those of sampling."""
    try:
        ours, theirs = _generation(context)
    except AdapterError as error:
        yield Violation(GENERATION_CONFIG, error.what, error.fix)
        return
    for field in _differing(ours, theirs, (*_GENERATION_WITHOUT_EFFECT, *_SAMPLING)):
        yield _setting(GENERATION_CONFIG, field, ours, theirs)


@rule(
    "files-sampling",
    severity=Severity.WARNING,
    title="The sampling settings in the folder are the base's",
    why="A program that loads them from the folder samples answers differently; the gate judges "
    "greedy decoding.",
    fix=f"remove {GENERATION_CONFIG}; the base has its own",
    needs=["base"],
)
def sampling(context: LintContext) -> Iterator[Violation]:
    """Compare the settings of sampling."""
    try:
        ours, theirs = _generation(context)
    except AdapterError:
        return  # files-generation reports it
    for field in _differing(ours, theirs, ()):
        if field in _SAMPLING:
            yield _setting(GENERATION_CONFIG, field, ours, theirs)


def _setting(
    file: str, field: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Violation:
    mine, its = (f"{settings.get(field)!r:.60}" for settings in (ours, theirs))
    return Violation(file, f"{field:.60} is {mine}, but {its} in the base")


def _generation(context: LintContext) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the folder's settings and the base's; the base's for both if the folder has none."""
    data = context.base.read_bytes(GENERATION_CONFIG, _MAX_CONFIG)
    theirs = _parsed(data, GENERATION_CONFIG) if data else dict(context.base.config)
    if not data:  # transformers then derives them from the model's config
        theirs = {n: v for n, v in theirs.items() if n.endswith("_token_id") or n in _NEUTRAL}
    if GENERATION_CONFIG not in context.folder.entries:
        return theirs, theirs
    return _read(context.folder, GENERATION_CONFIG), theirs


def _differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], without_effect: tuple[str, ...]
) -> list[str]:
    fields = [field for field in {**ours, **theirs} if field not in without_effect]
    return [f for f in fields if _meaning(f, ours.get(f)) != _meaning(f, theirs.get(f))]


def _meaning(field: str, value: Any) -> Any:
    """Normalise a value: None for the default, a list for a single token."""
    if not value or value == _NEUTRAL.get(field):
        return None
    if field == "max_new_tokens" and type(value) is int and value >= _LONG_ANSWER:
        return None
    if field.endswith("_token_id"):
        return sorted(value) if _is_list_of_ids(value) else [value]
    return value


def _is_list_of_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _read(folder: AdapterFolder, name: str) -> dict[str, Any]:
    return _parsed(folder.read_bytes(name, _MAX_CONFIG), name)


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    return parse_object(data, where=name, max_bytes=_MAX_CONFIG)


def _equals_base_file(context: LintContext, name: str) -> bool:
    """Whether a file equals the base's byte for byte; a fingerprint would only be a sample."""
    entry = context.folder.file(name)
    if entry is None or entry.is_pickle or not context.has("base"):
        return False
    theirs = context.base.sha256(name, size=entry.size)
    return bool(theirs) and theirs == context.folder.sha256(name)


def _has_factors(context: LintContext, name: str) -> bool:
    try:
        found = open_safetensors(partial(context.folder.open_file, name), name)
    except AdapterError:
        return True  # another reader may find factors in it
    # The names that peft writes; SGLang ignores a checkpoint of loralib.
    named = (".lora_A.weight", ".lora_B.weight")
    return any(n.startswith("base_model.") or n.endswith(named) for n in found.tensors)
