"""The table of all settings: name, kind, default and help. Add a new setting here.

Options, environment variables, pytest's ini keys and keys in files are generated from this table.
``settings.GateSettings`` has a field for each setting.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

STAGES = ("static", "math", "checkpoint", "quality", "export")
AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
CPU, CUDA, MPS = "cpu", "cuda", "mps"
DEVICE = re.compile(rf"{AUTO}|{CPU}|{CUDA}(:(0|[1-9][0-9]?))?|{MPS}")
UNQUANTIZED = "none"
QUANTIZATIONS = (UNQUANTIZED, "nf4", "int8")
PROFILES = ("strict", "default", "smoke")
LOCAL_BACKEND = "transformers"
ENGINES = ("fast", "plain")
SERVER_PREFIX = "openai:"


class SourceKind(StrEnum):
    """The kind of place that a setting's value comes from."""

    OPTION = "option"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"
    DRAWN = "drawn"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a setting's value comes from: the kind of place, and the place itself for people."""

    kind: SourceKind
    place: str

    def __str__(self) -> str:
        return self.place


@dataclass(frozen=True, kw_only=True)
class SettingSpec:
    """One setting.

    Attributes:
        name: Its name wherever it is set.
        help: The help text of its option.
        kind: ``text``, ``path``, ``flag`` or ``number``. A path in a file is relative to the file.
        repeated: The value is a list, separated by commas in the environment.
        default: The value if it is not set.
        choices: All valid values, if they can be listed.
        validator: Returns whether a value is valid, if the valid values cannot be listed.
        description: The values that the validator accepts, in words.
        metavar: The placeholder for the value in the help text.
    """

    name: str
    help: str
    kind: str = "text"
    repeated: bool = False
    default: object = None
    choices: tuple[str, ...] = ()
    validator: Callable[[str], bool] | None = None
    description: str = ""
    metavar: str | None = None


def option(spec: SettingSpec) -> str:
    """Return the command-line option of a setting."""
    return "--phi3-" + spec.name.replace("_", "-")


def server_of(backend: str) -> str:
    """Return the URL in ``openai:URL`` without a final slash; empty for other backends.

    The URL is http or https with a host, and has no query or fragment. It must not contain a user
    or a password, since settings are written to the record.
    """
    url = backend.removeprefix(SERVER_PREFIX).rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return ""
    plain = url.isascii() and url.isprintable() and not set(url) & set(' @?#\\"<>')
    return url if usable and plain and backend.startswith(SERVER_PREFIX) else ""


def _on_by_default(name: str, text: str) -> SettingSpec:
    """Return a setting with the values on (the default) and off."""
    return SettingSpec(
        name=name, default="on", choices=("on", "off"), metavar="on|off", help=f"{text}: on or off"
    )


SPECS = (
    SettingSpec(
        name="adapter",
        kind="path",
        repeated=True,
        default=(),
        metavar="PATH",
        help="gate the LoRA adapter in this folder (repeatable); without it, the plugin does "
        "nothing",
    ),
    SettingSpec(
        name="base",
        metavar="DIR_OR_ID",
        help="the trusted base model: a folder, a hub id or a known name",
    ),
    SettingSpec(
        name="suite",
        kind="path",
        repeated=True,
        default=(),
        metavar="FILE",
        help="evaluate these items in the quality stage: a jsonl, csv or parquet file, or a "
        "data set folder (repeatable)",
    ),
    SettingSpec(
        name="suite_columns",
        repeated=True,
        default=(),
        metavar="FIELD=COLUMN",
        help="read a field from this column of the suite, such as prompt=question (repeatable)",
    ),
    SettingSpec(
        name="metric",
        repeated=True,
        default=(),
        metavar="METRIC",
        help="also measure this metric: a name, MODULE:CLASS, or the path of an evaluate module "
        "(repeatable)",
    ),
    SettingSpec(
        name="thresholds",
        kind="path",
        metavar="FILE",
        help="TOML file with the limits of the quality stage",
    ),
    SettingSpec(
        name="profile",
        default="default",
        choices=PROFILES,
        metavar="NAME",
        help=f"built-in limits: {', '.join(PROFILES)}; with strict, a regression alarm also fails",
    ),
    SettingSpec(
        name="baseline",
        kind="path",
        metavar="RECORD",
        help="record.json of the last accepted adapter; the new adapter must not be worse",
    ),
    SettingSpec(
        name="parent",
        kind="path",
        metavar="DIR",
        help="the adapter that this one was trained from, or the last one that was shipped; an "
        "adapter that equals it fails",
    ),
    SettingSpec(
        name="report",
        kind="path",
        metavar="DIR",
        help="write report.html, record.json, summary.md and items.parquet to this folder",
    ),
    SettingSpec(
        name="layers",
        kind="flag",
        default=False,
        help="test the LoRA layers of the installed peft and loralib against the definition of "
        "LoRA",
    ),
    SettingSpec(name="only", kind="flag", default=False, help="do not run your own tests"),
    SettingSpec(
        name="stage",
        repeated=True,
        default=STAGES,
        choices=STAGES,
        metavar="NAME",
        help=f"run only this stage: {', '.join(STAGES)} (repeatable)",
    ),
    SettingSpec(
        name="seed",
        kind="number",
        default=0,
        metavar="N",
        help="the seed for everything random except the evaluation order",
    ),
    SettingSpec(
        name="order",
        kind="number",
        default=0,
        metavar="N",
        help="the seed of the order in which the tuned model is evaluated on the items; by default "
        "drawn for each run and recorded, so that no adapter can be tuned to it",
    ),
    SettingSpec(
        name="backend",
        default=LOCAL_BACKEND,
        validator=lambda text: text == LOCAL_BACKEND or bool(server_of(text)),
        description=f"{LOCAL_BACKEND}, or {SERVER_PREFIX}URL with the http or https URL of a "
        f"server, such as {SERVER_PREFIX}http://localhost:8000/v1",
        metavar="NAME",
        help="what runs the models in the quality stage: transformers, or openai:URL for vLLM or "
        "another OpenAI-compatible server",
    ),
    SettingSpec(
        name="engine",
        default="fast",
        choices=ENGINES,
        metavar="NAME",
        help="the local scoring engine: fast, or plain (transformers' own generate and forward; "
        "slower); plain is also used if fast does not work with these libraries",
    ),
    SettingSpec(
        name="dtype",
        default=AUTO,
        choices=DTYPES,
        metavar="DTYPE",
        help=f"the dtype in which the models are scored: {', '.join(DTYPES)} (float32 on a CPU, "
        "bfloat16 or float16 on a GPU)",
    ),
    SettingSpec(
        name="device",
        default=AUTO,
        validator=lambda text: DEVICE.fullmatch(text) is not None,
        description=f"{AUTO}, {CPU}, {CUDA}, {CUDA}:N with the number of a GPU, or {MPS}",
        metavar="DEVICE",
        help=f"where models run: {AUTO} (a GPU if there is one), {CPU}, {CUDA} (several GPUs if "
        f"one is too small), {CUDA}:N, {MPS}",
    ),
    SettingSpec(
        name="quantization",
        default=UNQUANTIZED,
        choices=QUANTIZATIONS,
        metavar="KIND",
        help="score on the base in 4 or 8 bits, as bitsandbytes quantizes it: "
        f"{', '.join(QUANTIZATIONS)}",
    ),
    _on_by_default("cache_scores", "cache the base's scores for later runs"),
    _on_by_default(
        "early_stop", "stop evaluating the tuned model once the outcome on all items is certain"
    ),
    SettingSpec(
        name="allow_inconclusive",
        kind="flag",
        default=False,
        help="exit with 0 if the verdict is INCONCLUSIVE",
    ),
    SettingSpec(
        name="lint_select",
        repeated=True,
        default=(),
        metavar="RULE",
        help="run only this lint rule or family, or ALL (repeatable)",
    ),
    SettingSpec(
        name="lint_ignore",
        repeated=True,
        default=(),
        metavar="RULE",
        help="skip this lint rule or family (repeatable); if select and ignore conflict, the more "
        "specific one applies",
    ),
    SettingSpec(
        name="lint_levels",
        repeated=True,
        default=(),
        metavar="RULE=LEVEL",
        help="set a rule's level: error, warning or info (repeatable)",
    ),
    SettingSpec(
        name="allow_bases",
        repeated=True,
        default=(),
        metavar="ID",
        help="also trust this base id if an adapter's config names it (repeatable)",
    ),
    SettingSpec(
        name="any_base",
        kind="flag",
        default=False,
        help="accept a base that is not a Phi-3: Llama, Mistral, Qwen2, Qwen3 or Gemma",
    ),
)
