"""Parses adapter_config.json into one typed value; no field is ignored silently."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phi3_lora_qa.adapter.config_other_fields import check_other_fields
from phi3_lora_qa.adapter.config_problem import ConfigProblem, ProblemKind
from phi3_lora_qa.adapter.config_schema import CHANGES_BASE, FIELDS
from phi3_lora_qa.adapter.folder import CONFIG, AdapterFolder
from phi3_lora_qa.adapter.lora_variants import BlockDiagonal
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.errors import AdapterError, escape

__all__ = [
    "LoraAdapterConfig",
    "ParsedConfig",
    "ProblemKind",
    "parse_config",
    "read_config",
    "read_raw_config",
]

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LoraAdapterConfig:
    """The fields of peft's LoraConfig that an accepted adapter may use.

    Every other field is null, false or empty (see `config_schema.REFUSED`), or peft ignores it
    (see `config_other_fields`). ``velora_config`` is the number of groups and
    ``monteclora_config`` the number of samples; both are 0 if the variant is not used. ``raw`` is
    the content of the file.
    """

    peft_type: str
    task_type: str | None
    peft_version: str | None
    base_model_name_or_path: str | None
    revision: str | None
    inference_mode: bool
    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...] | str
    modules_to_save: tuple[str, ...]
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    bias: str
    fan_in_fan_out: bool
    init_lora_weights: bool | str | None
    ensure_weight_tying: bool
    target_parameters: tuple[str, ...]
    trainable_token_indices: Mapping[str, tuple[int, ...]]
    use_bdlora: BlockDiagonal | None
    velora_config: int
    monteclora_config: int
    raw: Mapping[str, Any]

    @property
    def merge_refusal(self) -> str:
        """Why peft cannot merge the adapter into a Phi-3; empty if it can."""
        if self.lora_bias:
            return "lora_bias needs a bias in the base layer, and Phi-3's linear layers have none"
        return ""


@dataclass(frozen=True, kw_only=True)
class ParsedConfig:
    """The result of parsing: the config if its values are readable, and all problems."""

    config: LoraAdapterConfig | None
    problems: tuple[ConfigProblem, ...]


def parse_config(raw: Mapping[str, Any]) -> ParsedConfig:
    """Parse the content of an adapter_config.json and collect every problem with it."""
    kind = raw.get("peft_type")
    if isinstance(kind, str) and kind != "LORA":  # its other fields mean something else
        return ParsedConfig(config=None, problems=(_other_type(kind),))
    # Without a type it is not a config of peft, and its other fields are those of another program.
    problems = check_other_fields(raw) if "peft_type" in raw else []
    values: dict[str, Any] = {}
    for name, spec in FIELDS.items():
        if name == "target_modules" and raw.get(name) is None and raw.get("target_parameters"):
            values[name] = ()  # peft then adapts the parameters alone
            continue
        if name not in raw:
            values[name] = spec.default
            if spec.required:
                problems.append(_missing(name, spec.if_missing))
            continue
        try:
            values[name] = spec.read(raw[name])
        except ValueError as error:
            problems.append(_bad_value(name, raw[name], str(error)))
    if any(p.kind in (ProblemKind.MISSING, ProblemKind.VALUE) for p in problems):
        return ParsedConfig(config=None, problems=tuple(problems))
    known = LoraAdapterConfig.__dataclass_fields__
    config = LoraAdapterConfig(**{k: v for k, v in values.items() if k in known}, raw=dict(raw))
    return ParsedConfig(config=config, problems=(*problems, *_conflicts(config)))


def read_config(folder: AdapterFolder) -> LoraAdapterConfig:
    """Read a folder's adapter_config.json, and require that it is valid.

    Raises:
        AdapterError: The file is missing or unreadable, or a field is invalid; the message names
            the first such field.
    """
    parsed = parse_config(read_raw_config(folder))
    rejecting = [problem for problem in parsed.problems if problem.kind.rejects]
    if rejecting or parsed.config is None:
        first = rejecting[0]
        raise AdapterError(f"{CONFIG}: {escape(first.message)}", escape(first.fix))
    return parsed.config


def read_raw_config(folder: AdapterFolder) -> dict[str, Any]:
    """Read adapter_config.json as JSON, strictly.

    Raises:
        AdapterError: The file is missing, not a regular file, or not a strict JSON object.
    """
    data = folder.read_bytes(CONFIG, MAX_CONFIG_BYTES)
    return parse_object(data, where=CONFIG, max_bytes=MAX_CONFIG_BYTES)


def _conflicts(config: LoraAdapterConfig) -> list[ConfigProblem]:
    """Find combinations that peft refuses, and init labels that change the base."""
    found = []
    label = config.init_lora_weights
    for known, reason in CHANGES_BASE.items():
        if isinstance(label, str) and label.startswith(known):
            found.append(
                _problem(
                    ProblemKind.REFUSED,
                    "init_lora_weights",
                    f'init_lora_weights is "{label}": {reason}',
                    "save with save_pretrained(path_initial_model_for_weight_conversion=…), which "
                    "writes a plain LoRA adapter for the plain base",
                )
            )
    by_pattern = isinstance(config.target_modules, str)
    special = label not in (True, False)
    has_odd_rank = any(rank % 2 for rank in (config.r, *config.rank_pattern.values()))
    variants = [
        name
        for name, is_set in (
            ("use_dora", config.use_dora),
            ('init_lora_weights "mica"', label == "mica"),
            ("use_bdlora", config.use_bdlora),
            ("velora_config", config.velora_config),
            ("monteclora_config", config.monteclora_config),
        )
        if is_set
    ]
    saved_tokens = set(config.trainable_token_indices) & set(config.modules_to_save)
    incompatible = (*variants, *(["lora_bias"] if config.lora_bias else ()))
    pairs = (
        (label == "orthogonal" and has_odd_rank,
         "init_lora_weights", 'may be "orthogonal" only with even ranks'),
        (by_pattern and config.raw.get("layers_to_transform") is not None,
         "layers_to_transform", "works only with a list as target_modules"),
        (by_pattern and config.raw.get("layers_pattern") is not None,
         "layers_pattern", "works only with a list as target_modules"),
        (bool(config.layers_pattern) and config.layers_to_transform is None,
         "layers_pattern", "needs layers_to_transform"),
        (config.lora_bias and config.use_dora, "lora_bias", "cannot be combined with use_dora"),
        (config.lora_bias and special,
         "lora_bias", "needs init_lora_weights to be true or false"),
        (len(variants) > 1, variants[0] if variants else "",
         f"cannot be combined with {' and '.join(variants[1:])}"),
        (bool(saved_tokens), "trainable_token_indices",
         f"names {', '.join(sorted(saved_tokens))}, which modules_to_save already saves"),
        (bool(config.target_parameters) and bool(incompatible or config.lora_dropout),
         "target_parameters",
         f"cannot be combined with {' and '.join(incompatible) or 'lora_dropout'}"),
    )  # fmt: skip
    for applies, name, message in pairs:
        if applies:
            text = f"{name} {message}, so peft refuses to load the adapter"
            found.append(_problem(ProblemKind.CONFLICT, name, text, f"correct or remove {name}"))
    return found


def _missing(name: str, consequence: str) -> ConfigProblem:
    return _problem(
        ProblemKind.MISSING,
        name,
        f"{name} is missing, and {consequence}",
        "copy the complete adapter_config.json that peft wrote in training",
    )


def _other_type(kind: str) -> ConfigProblem:
    return _problem(
        ProblemKind.VALUE,
        "peft_type",
        f"peft_type is {kind!r}, and only LoRA adapters can be checked",
        "pass a LoRA adapter",
    )


def _bad_value(name: str, value: Any, requirement: str) -> ConfigProblem:
    spec = FIELDS[name]
    if value is None:
        fails = spec.if_missing if name == "target_modules" else "peft raises an error for it"
        default = dict(spec.default) if isinstance(spec.default, Mapping) else spec.default
        known = "the value used in training" if default is None else json.dumps(default)
        message, fix = f"{name} is null, and {fails}", f"set {name} to {known}"
        return _problem(ProblemKind.VALUE, name, message, fix)
    shown = value if isinstance(value, (str, int, float, bool)) else type(value).__name__
    return _problem(
        ProblemKind.VALUE,
        name,
        f"{name}{'' if requirement.startswith('[') else ' '}{requirement}: got {shown!r}",
        f"set {name} to the value used in training",
    )


def _problem(kind: ProblemKind, field: str, message: str, fix: str) -> ConfigProblem:
    return ConfigProblem(kind=kind, field=field, message=message, fix=fix)
