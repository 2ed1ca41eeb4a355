"""Family files: what lies in the folder, before anything in it is understood."""

import math
from collections.abc import Iterator

from phi3_lora_qa.adapter.finding import Severity, Violation, rule
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
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.tensor_names import Part
from phi3_lora_qa.errors import AdapterError
from phi3_lora_qa.settings import SETTINGS_FILE

_SETTINGS = (
    SETTINGS_FILE, "pyproject.toml", "pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini",
    "tox.ini", "setup.cfg",
)  # fmt: skip

_WEIGHTS = (".safetensors", ".gguf", ".ggml", ".onnx", ".msgpack")


@rule(
    "files-not-regular",
    severity=Severity.ERROR,
    title="The folder holds only regular files and folders",
    why="A link can lead out of the folder, a pipe can hang its reader, and what was checked need "
    "not be what is loaded.",
    fix="copy the folder with `cp -rL`, which replaces links by what they point to",
)
def not_regular(context: LintContext) -> Iterator[Violation]:
    """Find links, pipes, sockets and devices, and folders where a file must be."""
    for entry in context.folder.entries.values():
        if entry.kind in (EntryKind.LINK, EntryKind.OTHER):
            yield Violation(entry.name, f"this is a {entry.kind}, which is not followed")
        elif entry.kind is EntryKind.FOLDER and entry.name in EXPECTED_FILES:
            yield Violation(entry.name, "this is a folder where a file must be")


@rule(
    "files-config-missing",
    severity=Severity.ERROR,
    title="adapter_config.json is there",
    why="Without it nobody knows rank, scaling or targets; peft refuses the folder.",
    fix=f"copy {CONFIG} from the training output; a checkpoint that is being written lacks it",
)
def config_missing(context: LintContext) -> Iterator[Violation]:
    """Find a folder without a config."""
    if CONFIG not in context.folder.entries:
        yield Violation(CONFIG, f"the folder has no {CONFIG}")


@rule(
    "files-weights-missing",
    severity=Severity.ERROR,
    title="adapter_model.safetensors is there",
    why="peft takes the path for a hub id when there are no weights, and its message misleads.",
    fix=f"copy {WEIGHTS} from the training output, to the top of the folder",
)
def weights_missing(context: LintContext) -> Iterator[Violation]:
    """Find a folder without weights of any kind."""
    names = context.folder.entries
    if WEIGHTS in names or PICKLED_WEIGHTS in names:
        return
    inside = [e.name for e in names.values() if e.kind is EntryKind.FOLDER]
    hint = f"; it may lie in {', '.join(inside[:3])}" if inside else ""
    yield Violation(WEIGHTS, f"the folder has no {WEIGHTS}{hint}")


@rule(
    "files-pickled-weights",
    severity=Severity.ERROR,
    title="The weights are no pickle",
    why="A pickle runs code when it is opened; torch's weights_only mode has been broken twice.",
    fix="save again with safe_serialization=True, peft's default since 0.6",
)
def pickled_weights(context: LintContext) -> Iterator[Violation]:
    """Find weights that are there as a pickle only."""
    names = context.folder.entries
    if PICKLED_WEIGHTS in names and WEIGHTS not in names:
        yield Violation(
            PICKLED_WEIGHTS, f"the weights are only there as {PICKLED_WEIGHTS}, a pickle"
        )


@rule(
    "files-weights-unreadable",
    severity=Severity.ERROR,
    title="adapter_model.safetensors is whole and unambiguous",
    why="A truncated or tampered file loads partly, or as something else for another reader.",
    fix="copy the file again, or save the adapter again",
)
def weights_unreadable(context: LintContext) -> Iterator[Violation]:
    """Find weights whose header does not hold."""
    if not context.has("weights") and "weights" in context.errors:
        yield Violation(WEIGHTS, *_cut(context.errors["weights"]))


@rule(
    "files-weights-empty",
    severity=Severity.ERROR,
    title="The weights file holds LoRA tensors",
    why="peft loads an empty file with a warning, and the result is the bare base model.",
    fix="gather all shards before saving: under ZeRO-3 set "
    "stage3_gather_16bit_weights_on_model_save, under FSDP use FULL_STATE_DICT",
    needs=["weights"],
)
def weights_empty(context: LintContext) -> Iterator[Violation]:
    """Find a valid file without any tensor."""
    if not context.weights.tensors:
        yield Violation(WEIGHTS, f"{WEIGHTS} is valid but holds no tensor")


@rule(
    "files-config-unreadable",
    severity=Severity.ERROR,
    title="adapter_config.json is strict JSON with one meaning",
    why="A half-written config cannot be read; one with a key twice means two things.",
    fix="copy the config again, or save the adapter again",
)
def config_unreadable(context: LintContext) -> Iterator[Violation]:
    """Find a config that is no JSON object."""
    if context.reading is None and "config" in context.errors:
        yield Violation(CONFIG, *_cut(context.errors["config"]))


@rule(
    "files-code",
    severity=Severity.WARNING,
    title="The folder holds no program",
    why="An adapter needs no code; a loader with trust_remote_code would run it.",
    fix="remove the file; it is never run here",
)
def code(context: LintContext) -> Iterator[Violation]:
    """Find programs and libraries."""
    for entry in context.folder.entries.values():
        if entry.is_code:
            yield Violation(entry.name, "this is a program, by its name")


@rule(
    "files-settings",
    severity=Severity.WARNING,
    title="The folder holds no settings of the tools that judge it",
    why="pytest and this tool take settings from the folder that they are started in: one that is "
    "started in the adapter's would be told by it which rules to leave out. Here it is refused.",
    fix="remove the file, and keep your settings in the folder of your own project",
)
def settings(context: LintContext) -> Iterator[Violation]:
    """Find configuration of pytest and of this tool; a conftest.py is a program."""
    for name in _SETTINGS:
        if name in context.folder.entries:
            yield Violation(
                name, f"the folder holds {name}, which can set up the run that judges it"
            )


@rule(
    "files-pickle-beside",
    severity=Severity.INFO,
    title="No pickles or optimizer states lie beside the weights",
    why="They are never opened here, but others may; an optimizer state is twice the adapter's "
    "size and of no use to a reader.",
    fix="leave the file out when the adapter is handed on",
)
def pickle_beside(context: LintContext) -> Iterator[Violation]:
    """Find training_args.bin, optimizer.pt and the like."""
    for entry in context.folder.entries.values():
        alone = entry.name == PICKLED_WEIGHTS and WEIGHTS not in context.folder.entries
        if entry.is_pickle and not alone:
            yield Violation(entry.name, f"this may hold a pickle ({entry.size} bytes); not opened")


@rule(
    "files-training-log",
    severity=Severity.WARNING,
    title="Training's own log has finite losses, and does not end with one of zero",
    why="After a loss that is no number the weights are what was left of them; a loss of exactly 0 "
    "means that every label was masked, or that the data was learned by heart.",
    fix="look at the learning rate and at the data's masking, and train again",
)
def training_log(context: LintContext) -> Iterator[Violation]:
    """Look at the losses in the log of transformers' trainer, where it is of a usual size."""
    log = context.folder.file(TRAINING_LOG)
    if log is None or log.size > MAX_LOG_BYTES:
        return
    try:
        data = context.folder.read_bytes(TRAINING_LOG, MAX_LOG_BYTES)
        state = parse_object(
            data, where=TRAINING_LOG, max_bytes=MAX_LOG_BYTES, allow_non_finite=True
        )
    except AdapterError as error:
        yield Violation(TRAINING_LOG, *_cut(str(error)))
        return
    history = state.get("log_history")
    entries = [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []
    for name in ("loss", "eval_loss"):
        losses = [(e[name], e.get("step")) for e in entries if type(e.get(name)) in (int, float)]
        for loss, step in losses:
            if loss != loss or abs(loss) == math.inf:  # noqa: PLR0124 - an integer may be no float
                yield Violation(TRAINING_LOG, f"{name} is {loss} at step {step!r}")
                break
        if losses and losses[-1][0] == 0:
            yield Violation(TRAINING_LOG, f"{name} is 0 at the last step that was logged")


@rule(
    "files-other-model",
    severity=Severity.INFO,
    title="The folder holds no other model beside the adapter",
    why="A loader of whole models takes the folder for one where config.json is there. What "
    "another base would come of is an error of its own; this tells what else lies there.",
    fix="leave the file out when the adapter is handed on",
)
def other_model(context: LintContext) -> Iterator[Violation]:
    """Find a model's config and weights of another name."""
    for entry in context.folder.entries.values():
        if entry.name.lower().endswith(_WEIGHTS) and entry.name != WEIGHTS:
            yield Violation(entry.name, "these are weights of another model, and not looked at")
        elif entry.name == MODEL_CONFIG:
            yield Violation(
                entry.name,
                "transformers takes the folder for a whole model, and then finds no weights of one",
            )


@rule(
    "files-subfolders",
    severity=Severity.INFO,
    title="The folder holds one adapter and no other folders",
    why="Checkpoints and further adapters within it are not looked at.",
    fix="give each adapter's own folder to check it too",
)
def subfolders(context: LintContext) -> Iterator[Violation]:
    """Find folders within the folder."""
    inside = [
        e.name
        for e in context.folder.entries.values()
        if e.kind is EntryKind.FOLDER and e.name not in (*EXPECTED_FILES, TEMPLATE_FOLDER)
    ]
    if inside:
        shown = ", ".join(inside[:5]) + (", …" if len(inside) > 5 else "")
        yield Violation(inside[0], f"not looked at: {shown}")


@rule(
    "files-oversized",
    severity=Severity.INFO,
    title="The weights file holds little that the base has already",
    why="peft copies the base's table into the file when it is adapted; the copy is never needed.",
    fix="save with save_embedding_layers=False",
    needs=["weights"],
)
def oversized(context: LintContext) -> Iterator[Violation]:
    """Find a file that is mostly a copy of the base's tables."""
    infos = {key.name: context.info(key) for key in context.keys.values()}
    copies = [k.name for k in context.keys.values() if k.part is Part.BASE_WEIGHT]
    size = sum(infos[name].stop - infos[name].start for name in copies)
    if size > context.weights.size / 2:
        message = f"{size} of its {context.weights.size} bytes are copies of the base's tables"
        yield Violation(WEIGHTS, message)


def _cut(message: str) -> tuple[str, str]:
    """Split an error's message into what is wrong and how to mend it."""
    what, _, fix = message.rpartition("; ")
    return what or message, fix
