"""Reads the chat templates of a folder: those that transformers uses, and those that others use.

As in transformers 5.23 (PreTrainedTokenizerBase._from_pretrained): templates in files replace all
of those in tokenizer_config.json; one in the sub-folder replaces chat_template.jinja; the later of
two in a list wins. Older versions read only tokenizer_config.json. A processor also reads
chat_template.json and processor_config.json; so do vLLM, which tries a processor first,
text-generation-inference, and the converter of llama.cpp.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.file_kind import HEAD_BYTES, foreign_kind
from phi3_lora_qa.adapter.folder import TEMPLATE_FOLDER, AdapterFolder
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS, read_object, read_small
from phi3_lora_qa.errors import AdapterError

TEMPLATE = "chat_template.jinja"
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
DEFAULT = "default"
MAX_TEMPLATES = 16
_MAX_TEMPLATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template: its name, its text without the final line break, and its file."""

    name: str
    text: str
    file: str


@dataclass(frozen=True, kw_only=True)
class ChatTemplates:
    """The chat templates of a folder.

    Attributes:
        active: Those that transformers uses, by name.
        shadowed: Others with the same names, which other programs may use.
    """

    active: Mapping[str, ChatTemplate]
    shadowed: tuple[ChatTemplate, ...]

    @property
    def default(self) -> ChatTemplate | None:
        """The template that is used if no other is requested."""
        return self.active.get(DEFAULT)

    @property
    def main(self) -> ChatTemplate | None:
        """The default template; if transformers uses none, one that other programs use."""
        others = (t for t in self.shadowed if t.name == DEFAULT)
        return self.default or (None if self.active else next(others, None))


def read_templates(folder: AdapterFolder | BaseFiles) -> ChatTemplates:
    """Read every chat template of a folder.

    Raises:
        AdapterError: A file is not strict JSON, not UTF-8, too large, or has no valid template.
    """
    in_files = list(_in_files(folder))
    in_settings = list(_in_json(folder, SETTINGS))
    elsewhere = [template for name in PROCESSOR_FILES for template in _in_json(folder, name)]
    active = {template.name: template for template in in_files or in_settings}
    every = (*in_settings, *in_files, *elsewhere)
    if len(every) > MAX_TEMPLATES:
        raise AdapterError(
            f"the folder has {len(every)} chat templates, at most {MAX_TEMPLATES} are allowed",
            "remove those that are not used",
        )
    shadowed = [t for t in every if t is not active.get(t.name)]
    return ChatTemplates(
        active=active, shadowed=tuple(t for t in shadowed if t.text != _active_text(active, t))
    )


def chat_template(folder: AdapterFolder | BaseFiles) -> str | None:
    """Return the chat template that transformers uses from this folder, or None.

    Raises:
        AdapterError: As `read_templates`.
    """
    default = read_templates(folder).default
    return default.text if default else None


def _active_text(active: Mapping[str, ChatTemplate], template: ChatTemplate) -> str | None:
    found = active.get(template.name) or active.get(DEFAULT)
    return found.text if found else None


def _in_files(folder: AdapterFolder | BaseFiles) -> Iterator[ChatTemplate]:
    """Yield the templates in separate files; the last one with a name wins."""
    yield from _from_file(folder, DEFAULT, TEMPLATE)
    for name in sorted(_in_folder(folder)):
        short = name.rpartition("/")[2].removesuffix(".jinja")
        yield from _from_file(folder, short, name)


def _from_file(folder: AdapterFolder | BaseFiles, name: str, path: str) -> Iterator[ChatTemplate]:
    data = read_small(folder, path, _MAX_TEMPLATE)
    if data is not None:
        if kind := foreign_kind(path, data[:HEAD_BYTES]):
            raise AdapterError(f"{path} is {kind}", kind.fix)
        try:
            yield ChatTemplate(name=name, text=_trimmed(data.decode("utf-8")), file=path)
        except UnicodeDecodeError as error:
            raise AdapterError(f"{path} is not UTF-8", "save the tokenizer again") from error


def _in_folder(folder: AdapterFolder | BaseFiles) -> list[str]:
    if isinstance(folder, BaseFiles):
        found = (folder.path / TEMPLATE_FOLDER).glob("*.jinja")
        return [f"{TEMPLATE_FOLDER}/{path.name}" for path in found]
    return list(folder.templates)


def _in_json(folder: AdapterFolder | BaseFiles, file: str) -> Iterator[ChatTemplate]:
    """Yield the templates of a JSON file: one text, or several named ones."""
    raw = read_object(folder, file).get("chat_template")
    if raw is None:
        return
    named = [(DEFAULT, raw)] if isinstance(raw, str) else raw
    if isinstance(raw, dict):
        named = list(raw.items())
    elif isinstance(raw, list):
        named = [(t.get("name"), t.get("template")) if isinstance(t, dict) else (0, 0) for t in raw]
    if not isinstance(named, list) or not all(
        isinstance(name, str) and isinstance(text, str) for name, text in named
    ):
        raise AdapterError(f"{file} has an invalid chat_template", "save the tokenizer again")
    for name, text in named:
        yield ChatTemplate(name=name, text=_trimmed(text), file=file)


def _trimmed(text: str) -> str:
    """Remove the final line break, as jinja2 does; everything else may be part of a prompt."""
    return text.removesuffix("\n").removesuffix("\r")
