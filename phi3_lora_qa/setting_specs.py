"""The table of all settings, each with its name, kind, default and help. A new one goes in here.

Options, environment variables, pytest's ini keys and the keys of files are made of the table;
``settings`` reads them and has a field for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

STAGES = ("static", "math", "checkpoint", "quality", "export")
DTYPES = ("float32", "bfloat16", "float16")
PROFILES = ("strict", "default", "smoke")
LOCAL_BACKEND = "transformers"
ENGINES = ("fast", "plain")
SERVER_PREFIX = "openai:"


@dataclass(frozen=True, kw_only=True)
class SettingSpec:
    """One setting: its name in every place, how it is read, and what it is for.

    ``kind`` is ``text``, ``path``, ``flag`` or ``number``; a ``repeated`` one is a list, separated
    by commas in the environment. A ``path`` in a file is relative to that file. ``choices`` are all
    values; where they cannot be listed, ``accepts`` tells them and ``forms`` names them in words.
    """

    name: str
    help: str
    kind: str = "text"
    repeated: bool = False
    default: object = None
    choices: tuple[str, ...] = ()
    accepts: Callable[[str], bool] | None = None
    forms: str = ""
    metavar: str | None = None


def option(spec: SettingSpec) -> str:
    """The command-line option of a setting."""
    return "--phi3-" + spec.name.replace("_", "-")


def server_of(backend: str) -> str:
    """Return the address in ``openai:URL`` without a slash at its end; empty for another backend.

    The address is http or https with a host, and nothing behind its path. User and password do not
    belong into it: settings are written into the record.
    """
    url = backend.removeprefix(SERVER_PREFIX).rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return ""
    plain = url.isascii() and url.isprintable() and not set(url) & set(' @?#\\"<>')
    return url if usable and plain and backend.startswith(SERVER_PREFIX) else ""


def _switch(name: str, does: str) -> SettingSpec:
    """A setting that is on unless it is turned off; unlike a flag's, its option takes the word."""
    return SettingSpec(
        name=name, default="on", choices=("on", "off"), metavar="on|off", help=f"{does}: on or off"
    )


SPECS = (
    SettingSpec(
        name="adapter",
        kind="path",
        repeated=True,
        default=(),
        metavar="PATH",
        help="gate the LoRA adapter in this folder (may be repeated); without it the plugin sleeps",
    ),
    SettingSpec(
        name="base", metavar="DIR_OR_ID", help="the trusted base: a folder, a hub id or a name"
    ),
    SettingSpec(
        name="suite",
        kind="path",
        repeated=True,
        default=(),
        metavar="FILE",
        help="quality items: jsonl, csv, parquet or a data set folder (may be repeated)",
    ),
    SettingSpec(
        name="suite_columns",
        repeated=True,
        default=(),
        metavar="FIELD=COLUMN",
        help="what the suite calls a field, such as prompt=question (may be repeated, or a list)",
    ),
    SettingSpec(
        name="metric",
        repeated=True,
        default=(),
        metavar="METRIC",
        help="measure this too: a metric's name, MODULE:CLASS, or the path of an evaluate module "
        "(may be repeated)",
    ),
    SettingSpec(
        name="thresholds", kind="path", metavar="FILE", help="limits for the quality stage"
    ),
    SettingSpec(
        name="profile",
        default="default",
        choices=PROFILES,
        metavar="NAME",
        help=f"built-in limits: {', '.join(PROFILES)}; with strict an alarm fails, too",
    ),
    SettingSpec(
        name="baseline",
        kind="path",
        metavar="RECORD",
        help="record.json of the last accepted adapter, to be no worse than",
    ),
    SettingSpec(
        name="report",
        kind="path",
        metavar="DIR",
        help="where report.html, record.json, summary.md and items.parquet go",
    ),
    SettingSpec(
        name="layers",
        kind="flag",
        default=False,
        help="test the LoRA layers of the installed peft and loralib against LoRA's mathematics",
    ),
    SettingSpec(name="only", kind="flag", default=False, help="leave your own tests out"),
    SettingSpec(
        name="stage",
        repeated=True,
        default=STAGES,
        choices=STAGES,
        metavar="NAME",
        help=f"only this stage ({', '.join(STAGES)}; may be repeated)",
    ),
    SettingSpec(
        name="seed", kind="number", default=0, metavar="N", help="one seed for everything random"
    ),
    SettingSpec(
        name="order",
        kind="number",
        default=0,
        metavar="N",
        help="the order in which the tuned model is asked; drawn afresh for each run and kept in "
        "its record, so that no adapter can be made to suit it",
    ),
    SettingSpec(
        name="backend",
        default=LOCAL_BACKEND,
        accepts=lambda text: text == LOCAL_BACKEND or bool(server_of(text)),
        forms=f"{LOCAL_BACKEND}, or {SERVER_PREFIX}URL with the http or https address of a server, "
        f"such as {SERVER_PREFIX}http://localhost:8000/v1",
        metavar="NAME",
        help="what runs the models of the quality stage: transformers, or openai:URL (vLLM or "
        "another OpenAI-compatible server)",
    ),
    SettingSpec(
        name="engine",
        default="fast",
        choices=ENGINES,
        metavar="NAME",
        help="what runs the models here: fast, or plain for transformers' own generate and forward "
        "(slower, for diagnosis); plain replaces fast where that does not work",
    ),
    SettingSpec(
        name="dtype",
        default="float32",
        choices=DTYPES,
        metavar="DTYPE",
        help=f"what the models are scored in: {', '.join(DTYPES)}",
    ),
    _switch("cache_scores", "keep the base's scores in the user's cache folder for the next run"),
    _switch("early_stop", "ask the tuned model no more once the outcome of all items is certain"),
    SettingSpec(
        name="allow_inconclusive",
        kind="flag",
        default=False,
        help="let INCONCLUSIVE exit with 0",
    ),
    SettingSpec(
        name="lint_select",
        repeated=True,
        default=(),
        metavar="RULE",
        help="only this rule or family of the static stage, or ALL (may be repeated, or a list)",
    ),
    SettingSpec(
        name="lint_ignore",
        repeated=True,
        default=(),
        metavar="RULE",
        help="leave this rule or family out; the closer of select and ignore counts",
    ),
    SettingSpec(
        name="lint_levels",
        repeated=True,
        default=(),
        metavar="RULE=LEVEL",
        help="give a rule's findings another level: error, warning or info (may be repeated)",
    ),
    SettingSpec(
        name="allow_bases",
        repeated=True,
        default=(),
        metavar="ID",
        help="further base ids that an adapter's config may name and the gate may then load",
    ),
)
