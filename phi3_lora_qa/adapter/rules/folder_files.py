"""Family files: the files in the folder, before their content is interpreted."""

import math
import re
from collections.abc import Iterator
from typing import Any

from phi3_lora_qa.adapter.finding import Severity, Violation
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    EXPECTED_FILES,
    MAX_LOG_BYTES,
    MODEL_CONFIG,
    PICKLED_WEIGHTS,
    TEMPLATE_FOLDER,
    TRAINING_LOG,
    WEIGHTS,
    EntryKind,
)
from phi3_lora_qa.adapter.lint_context import LintContext
from phi3_lora_qa.adapter.rule import rule
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.tensor_names import Part
from phi3_lora_qa.adapter.weight_shards import WeightShards, find_shards
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.settings import SETTINGS_FILE

_SETTINGS = (
    SETTINGS_FILE, "pyproject.toml", "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini",
    "tox.ini", "setup.cfg",
)  # fmt: skip

_REWARDS = re.compile(r"reward|reward_std|completion_length|(completions|objective)/.*")
"""What trainers of reinforcement learning log (GRPO, RLOO, PPO); those of preferences do not."""
WRONG_KIND = "files-wrong-kind"
"""The rule whose findings replace all others about the same files."""

_WEIGHTS = (".safetensors", ".gguf", ".ggml", ".onnx", ".msgpack")


@rule(
    "files-not-regular",
    severity=Severity.ERROR,
    title="The folder contains only regular files and folders",
    why="A link can point outside the folder, a pipe can block its reader, and what was checked "
    "may differ from what is loaded.",
    fix="copy the folder with `cp -rL`, which replaces each link with the file that it points to",
    any_folder=True,
)
def not_regular(context: LintContext) -> Iterator[Violation]:
    """Find links, pipes, sockets and devices, and folders where a file is expected."""
    for entry in context.folder.entries.values():
        if entry.kind in (EntryKind.LINK, EntryKind.OTHER):
            yield Violation(entry.name, f"it is a {entry.kind}, and the linter does not open it")
        elif entry.kind is EntryKind.FOLDER and entry.name in EXPECTED_FILES:
            yield Violation(entry.name, "it is a folder, but a file is expected")


@rule(
    WRONG_KIND,
    severity=Severity.ERROR,
    title="Each file is what its name says",
    why="git without git-lfs leaves a pointer in place of a file, a browser saves the page around "
    "it, and a server answers with a message. A loader then fails with an error about the content, "
    "or uses something else.",
    fix="copy or download the file again",
)
def wrong_kind(context: LintContext) -> Iterator[Violation]:
    """Find pointers, web pages, archives and other formats under the name of a file that is read.

    Other findings about the content of such a file say nothing more, and are left out.
    """
    for name, kind in context.foreign_files.items():
        yield Violation(name, f"it is {kind}", kind.fix)


@rule(
    "files-config-missing",
    severity=Severity.ERROR,
    title="adapter_config.json exists",
    why="Without it, the rank, the scaling and the target modules are unknown, and peft rejects "
    "the folder.",
    fix=f"copy {CONFIG} from the training output; a checkpoint that is still being written lacks "
    "it",
)
def config_missing(context: LintContext) -> Iterator[Violation]:
    """Find a folder without a config."""
    if CONFIG not in context.folder.entries:
        yield Violation(CONFIG, f"the folder has no {CONFIG}")


@rule(
    "files-weights-missing",
    severity=Severity.ERROR,
    title="adapter_model.safetensors exists",
    why="Without weights, peft mistakes the path for a hub id and fails with a misleading message.",
    fix=f"copy {WEIGHTS} from the training output to the top level of the folder",
)
def weights_missing(context: LintContext) -> Iterator[Violation]:
    """Find a folder without weights of any kind."""
    names = context.folder.entries
    if WEIGHTS in names or PICKLED_WEIGHTS in names or shards_of(context):
        return  # files-weights-sharded reports shards
    inside = [e.name for e in names.values() if e.kind is EntryKind.FOLDER]
    hint = f"; it may be in {', '.join(inside[:3])}" if inside else ""
    yield Violation(WEIGHTS, f"the folder has no {WEIGHTS}{hint}")


@rule(
    "files-weights-sharded",
    severity=Severity.ERROR,
    title="The weights are in one file",
    why="transformers' save_pretrained splits an adapter that is larger than max_shard_size. peft, "
    "vLLM and transformers' own load_adapter read only adapter_model.safetensors, and peft fails "
    "with a message about a hub id.",
    fix="join the files: phi3-lora-qa convert join-shards ADAPTER -o DIR",
)
def weights_sharded(context: LintContext) -> Iterator[Violation]:
    """Find weights in several files in the place of the one that loaders read."""
    if not (found := shards_of(context)):
        return
    missing = f", of which {found.missing} are not in the folder" if found.missing else ""
    message = f"the weights are split into {found.total} files{missing}, which peft does not load"
    if found.is_pickle:
        fix = "save the adapter again with peft's save_pretrained, which writes one file"
    elif found.missing:
        fix = (
            "copy the missing files from the training output, then join them: "
            "phi3-lora-qa convert join-shards ADAPTER -o DIR"
        )
    else:
        fix = ""
    yield Violation(found.names[0], message, fix)


def shards_of(context: LintContext) -> WeightShards | None:
    """Return the shards that are in the folder in the place of its weights."""
    folder = context.folder
    if WEIGHTS in folder.entries or PICKLED_WEIGHTS in folder.entries:
        return None
    return find_shards(filter(folder.file, folder.entries))


@rule(
    "files-pickled-weights",
    severity=Severity.ERROR,
    title="The weights are not a pickle",
    why="Opening a pickle runs code; torch's weights_only mode has been bypassed twice.",
    fix="save again with safe_serialization=True, peft's default since 0.6",
)
def pickled_weights(context: LintContext) -> Iterator[Violation]:
    """Find weights that exist only as a pickle."""
    names = context.folder.entries
    if PICKLED_WEIGHTS in names and WEIGHTS not in names:
        yield Violation(PICKLED_WEIGHTS, f"the only weights are {PICKLED_WEIGHTS}, a pickle")


@rule(
    "files-weights-unreadable",
    severity=Severity.ERROR,
    title="adapter_model.safetensors is complete and unambiguous",
    why="A truncated or tampered file loads partly, or differently in another reader.",
    fix="copy the file again, or save the adapter again",
)
def weights_unreadable(context: LintContext) -> Iterator[Violation]:
    """Find weights whose header is invalid."""
    if not context.has("weights") and "weights" in context.errors:
        error = context.errors["weights"]
        yield Violation(WEIGHTS, error.what, error.fix)


@rule(
    "files-weights-empty",
    severity=Severity.ERROR,
    title="The weights file contains LoRA tensors",
    why="peft loads an empty file with a warning, and the result is the unchanged base model.",
    fix="gather all shards before saving: under ZeRO-3 set "
    "stage3_gather_16bit_weights_on_model_save, under FSDP use FULL_STATE_DICT",
    needs=["weights"],
)
def weights_empty(context: LintContext) -> Iterator[Violation]:
    """Find a valid file without any tensor."""
    if not context.weights.tensors:
        yield Violation(WEIGHTS, f"{WEIGHTS} is valid but contains no tensor")


@rule(
    "files-config-unreadable",
    severity=Severity.ERROR,
    title="adapter_config.json is strict, unambiguous JSON",
    why="A half-written config cannot be read, and a duplicated key has two values.",
    fix="copy the config again, or save the adapter again",
)
def config_unreadable(context: LintContext) -> Iterator[Violation]:
    """Find a config that is not a strict JSON object."""
    if context.reading is None and "config" in context.errors:
        error = context.errors["config"]
        yield Violation(CONFIG, error.what, error.fix)


@rule(
    "files-code",
    severity=Severity.WARNING,
    title="The folder contains no program",
    why="An adapter needs no code, and a loader with trust_remote_code would run it.",
    fix="remove the file; the linter never runs it",
    any_folder=True,
)
def code(context: LintContext) -> Iterator[Violation]:
    """Find programs and libraries."""
    for entry in context.folder.entries.values():
        if entry.is_code:
            yield Violation(entry.name, "executable code, judging by its name")


@rule(
    "files-settings",
    severity=Severity.WARNING,
    title="The folder contains no settings of pytest or of this tool",
    why="pytest and this tool read settings from the folder that they are started in, so an "
    "adapter could choose the rules by which it is judged. This tool refuses to run there.",
    fix="remove the file, and keep your settings in your own project's folder",
    any_folder=True,
)
def settings(context: LintContext) -> Iterator[Violation]:
    """Find configuration files of pytest and of this tool. A conftest.py counts as a program."""
    for name in _SETTINGS:
        if name in context.folder.entries:
            yield Violation(
                name, f"the folder contains {name}, which can configure the run that judges it"
            )


@rule(
    "files-pickle-beside",
    severity=Severity.INFO,
    title="The folder contains no pickles or optimizer states next to the weights",
    why="The linter never opens them, but other programs may; an optimizer state is twice the "
    "adapter's size and useless for inference.",
    fix="remove the file before you distribute the adapter",
)
def pickle_beside(context: LintContext) -> Iterator[Violation]:
    """Find training_args.bin, optimizer.pt and the like."""
    shards = shards_of(context)
    for entry in context.folder.entries.values():
        alone = entry.name == PICKLED_WEIGHTS and WEIGHTS not in context.folder.entries
        alone |= shards is not None and entry.name in shards.names
        if entry.is_pickle and not alone:
            yield Violation(entry.name, f"possibly a pickle ({entry.size} bytes); not opened")


@rule(
    "files-training-log",
    severity=Severity.WARNING,
    title="The training log has only finite losses and gradients, and the last loss is not zero",
    why="After a NaN or infinite loss the weights are damaged. If all gradient norms are NaN, no "
    "step trained anything, or each one damaged the weights. A loss of exactly 0 means that every "
    "label was masked, or that the model memorised the data.",
    fix="check the learning rate and the label masking, and train again",
)
def training_log(context: LintContext) -> Iterator[Violation]:
    """Check the log of transformers' Trainer, unless it is unusually large.

    A single gradient norm that is not finite is normal: mixed precision skips that step. The loss
    of reinforcement learning is near 0 by design, and says nothing.
    """
    log = context.folder.file(TRAINING_LOG)
    if log is None or log.size > MAX_LOG_BYTES:
        return
    try:
        data = context.folder.read_bytes(TRAINING_LOG, MAX_LOG_BYTES)
        state = parse_object(
            data, where=TRAINING_LOG, max_bytes=MAX_LOG_BYTES, allow_non_finite=True
        )
    except AdapterError as error:
        yield Violation(TRAINING_LOG, error.what, error.fix)
        return
    history = state.get("log_history")
    entries = [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []
    by_reward = any(_REWARDS.fullmatch(str(name)) for entry in entries for name in entry)
    for name in ("loss", "eval_loss"):
        losses = _logged(entries, name)
        for loss, step in losses:
            if not _is_finite(loss):
                yield Violation(TRAINING_LOG, f"{name} is {loss} at step {step!r}")
                break
        if losses and losses[-1][0] == 0 and not by_reward:
            yield Violation(TRAINING_LOG, f"{name} is 0 at the last logged step")
    norms = [norm for norm, _ in _logged(entries, "grad_norm")]
    if len(norms) > 1 and not any(map(_is_finite, norms)):
        yield Violation(
            TRAINING_LOG,
            f"grad_norm is never finite in {len(norms)} logged steps ({norms[-1]} at the last one)",
            "train again in bfloat16 or float32, or with a lower learning rate",
        )


def _logged(entries: list[dict[str, Any]], name: str) -> list[tuple[int | float, Any]]:
    """Return the values of one quantity, each with its step."""
    return [(e[name], e.get("step")) for e in entries if type(e.get(name)) in (int, float)]


def _is_finite(value: int | float) -> bool:
    """Whether a number is finite; unlike `math.isfinite`, also for an integer of any size."""
    return value == value and abs(value) != math.inf  # noqa: PLR0124 - NaN differs from itself


@rule(
    "files-other-model",
    severity=Severity.INFO,
    title="The folder contains no other model",
    why="Loaders of complete models treat a folder with config.json as one. A config or weights "
    "that would replace the base are a separate error (files-own-base).",
    fix="remove the file before you distribute the adapter",
)
def other_model(context: LintContext) -> Iterator[Violation]:
    """Find a model's config, and weights under another name."""
    shards = shards_of(context)
    for entry in context.folder.entries.values():
        if shards and entry.name in shards.names:
            continue
        if entry.name.lower().endswith(_WEIGHTS) and entry.name != WEIGHTS:
            yield Violation(entry.name, "weights of another model; not checked")
        elif entry.name == MODEL_CONFIG:
            yield Violation(
                entry.name,
                "transformers treats the folder as a complete model, but its weights are missing",
            )


@rule(
    "files-subfolders",
    severity=Severity.INFO,
    title="The folder contains one adapter and no other folders",
    why="Checkpoints and other adapters in sub-folders are not checked.",
    fix="check each adapter's own folder separately",
)
def subfolders(context: LintContext) -> Iterator[Violation]:
    """Find sub-folders."""
    inside = [
        e.name
        for e in context.folder.entries.values()
        if e.kind is EntryKind.FOLDER and e.name not in (*EXPECTED_FILES, TEMPLATE_FOLDER)
    ]
    if inside:
        shown = ", ".join(inside[:5]) + (", …" if len(inside) > 5 else "")
        yield Violation(inside[0], f"not checked: {shown}")


@rule(
    "files-oversized",
    severity=Severity.INFO,
    title="Most of the weights file is not a copy of the base",
    why="peft copies the base's embedding table into the file when the table is adapted; the copy "
    "is never needed.",
    fix="save with save_embedding_layers=False",
    needs=["weights"],
)
def oversized(context: LintContext) -> Iterator[Violation]:
    """Find a file that consists mostly of copies of the base's tables."""
    infos = {key.name: context.info(key) for key in context.keys.values()}
    copies = [k.name for k in context.keys.values() if k.part is Part.BASE_WEIGHT]
    size = sum(infos[name].stop - infos[name].start for name in copies)
    if size > context.weights.size / 2:
        message = f"{size} of its {context.weights.size} bytes are copies of the base's tables"
        yield Violation(WEIGHTS, message)
