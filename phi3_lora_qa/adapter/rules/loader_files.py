"""Family files, continued: no loader takes from the folder what was not checked.

transformers takes the base itself from a folder with a config.json in it, and the settings of
generation; SGLang reads every safetensors file of an adapter's folder, and vLLM up to 0.10 one with
further embeddings. An adapter that is judged on one base ships with another if these are left.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
from phi3_lora_qa.adapter.folder import GENERATION_CONFIG, MODEL_CONFIG, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.safetensors_file import open_safetensors
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError

_MAX_CONFIG = 4 << 20
_MISTRAL_CONFIG = "params.json"
_WHOLE_MODEL = re.compile(
    r"(pytorch_model|tf_model|flax_model|consolidated)\b.*\.(bin|h5|msgpack|pth|index\.json)"
    r"|.*\.safetensors(\.index\.json)?"
)
_FURTHER_EMBEDDINGS = ("new_embeddings.safetensors", "new_embeddings.bin")

# Who wrote the file and when, and how fast or in which precision to compute: no other model.
_CONFIG_WITHOUT_EFFECT = (
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
)  # fmt: skip
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_GENERATION_WITHOUT_EFFECT = (
    "transformers_version", "_from_model_config", "use_cache", "cache_implementation",
    "cache_config", "pad_token_id", "output_attentions", "output_hidden_states", "output_logits",
    "output_scores", "return_dict_in_generate", "num_return_sequences",
)  # fmt: skip
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
"""What transformers does where a field is missing, beside null, false and empty."""


@rule(
    "files-own-base",
    severity=Severity.ERROR,
    title="No loader takes the base from the adapter's folder",
    why="transformers' AutoModelForCausalLM and vLLM take a folder with a config.json for a whole "
    "model: what runs is then the model in it, and not the base that the adapter was checked with.",
    fix="remove the model's config and weights from the folder; they belong to the base",
)
def own_base(context: LintContext) -> Iterator[Violation]:
    """Find a config of a model, unless it is the base's; and weights of one beside it."""
    names = context.folder.entries
    config = next((n for n in (_MISTRAL_CONFIG, MODEL_CONFIG) if n in names), None)
    if config is None:
        return
    weights = [name for name in names if name != WEIGHTS and _WHOLE_MODEL.fullmatch(name)]
    foreign = [name for name in weights if not _is_the_bases(context, name)]
    if foreign:
        beside = f"{foreign[0]} beside it"
        yield Violation(config, f"a loader takes the base from {config} and {beside}")
    elif config == _MISTRAL_CONFIG:
        yield Violation(config, "a loader takes the folder for a model of its own")
    elif context.has("base"):
        try:
            found = _read(context.folder, MODEL_CONFIG)
        except AdapterError as error:
            what, _, fix = str(error).rpartition("; ")
            yield Violation(config, what, fix)
            return
        for field in _other_model(found, context.base.config, whole=bool(weights)):
            yield _setting(config, field, found, context.base.config)


def _other_model(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return the fields by which a config is another model's.

    Without weights beside it nobody can load a model by it; it still chooses classes and code. What
    versions of transformers add when they save a config, or call otherwise, is no matter then.
    """
    if whole:
        return _differing(ours, theirs, _CONFIG_WITHOUT_EFFECT)
    sizes = [n for n in (*_SIZES, "architectures") if ours.get(n) and theirs.get(n)]
    named = [n for n in ("auto_map", "tokenizer_class") if ours.get(n)]
    return [n for n in ("model_type", *named, *sizes) if ours.get(n) != theirs.get(n)]


@rule(
    "files-further-weights",
    severity=Severity.ERROR,
    title="No loader takes further weights for the adapter from its folder",
    why="SGLang reads every safetensors file of the folder, and vLLM up to 0.10 one called "
    "new_embeddings: what they hold is loaded into the model, and was not checked.",
    fix="remove the file, or give its adapter a folder of its own",
)
def further_weights(context: LintContext) -> Iterator[Violation]:
    """Find other files of factors, and embeddings."""
    for name in context.folder.entries:
        if name in _FURTHER_EMBEDDINGS:
            yield Violation(name, "vLLM loads these embeddings with the adapter")
        elif name.endswith(".safetensors") and name != WEIGHTS and _has_factors(context, name):
            yield Violation(name, f"this holds factors of an adapter, beside those of {WEIGHTS}")


@rule(
    "files-generation",
    severity=Severity.ERROR,
    title="The folder's settings of generation are the base's",
    why="Who loads them from the folder gets other answers than were judged: cut off, without some "
    "words, or without an end.",
    fix=f"remove {GENERATION_CONFIG}; the base has its own",
    needs=["base"],
)
def generation(context: LintContext) -> Iterator[Violation]:
    """Compare all settings that change an answer, but those of sampling."""
    try:
        ours, theirs = _generation(context)
    except AdapterError as error:
        what, _, fix = str(error).rpartition("; ")
        yield Violation(GENERATION_CONFIG, what, fix)
        return
    for field in _differing(ours, theirs, (*_GENERATION_WITHOUT_EFFECT, *_SAMPLING)):
        yield _setting(GENERATION_CONFIG, field, ours, theirs)


@rule(
    "files-sampling",
    severity=Severity.WARNING,
    title="Answers are drawn as the base's are",
    why="Who loads the settings of generation from the folder draws answers in another way; the "
    "gate judges the most likely one.",
    fix=f"remove {GENERATION_CONFIG}; the base has its own",
    needs=["base"],
)
def sampling(context: LintContext) -> Iterator[Violation]:
    """Compare the settings of sampling."""
    try:
        ours, theirs = _generation(context)
    except AdapterError:
        return  # files-generation says it
    for field in _differing(ours, theirs, ()):
        if field in _SAMPLING:
            yield _setting(GENERATION_CONFIG, field, ours, theirs)


def _setting(
    file: str, field: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Violation:
    mine, its = (f"{settings.get(field)!r:.60}" for settings in (ours, theirs))
    return Violation(file, f"{field:.60} is {mine}, in the base it is {its}")


def _generation(context: LintContext) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the folder's settings and the base's; twice the base's where the folder has none."""
    data = context.base.read_bytes(GENERATION_CONFIG, _MAX_CONFIG)
    theirs = _parsed(data, GENERATION_CONFIG) if data else dict(context.base.config)
    if not data:  # transformers makes them of the model's config then
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
    """Return a value in one form: nothing for what is done anyway, a list for a single token."""
    if not value or value == _NEUTRAL.get(field):
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


def _is_the_bases(context: LintContext, name: str) -> bool:
    """Whether a file is the base's own to the byte; a fingerprint would only be a sample."""
    entry = context.folder.file(name)
    if entry is None or entry.is_pickle or not context.has("base"):
        return False
    theirs = context.base.sha256(name, size=entry.size)
    return bool(theirs) and theirs == context.folder.sha256(name)


def _has_factors(context: LintContext, name: str) -> bool:
    try:
        found = open_safetensors(partial(context.folder.open_file, name), name)
    except AdapterError:
        return True  # nobody knows what another reader finds in it
    # As peft names them; a checkpoint of loralib beside the adapter is nothing to SGLang.
    named = (".lora_A.weight", ".lora_B.weight")
    return any(n.startswith("base_model.") or n.endswith(named) for n in found.tensors)
