"""The chat templates of a folder: those that transformers takes, and those that others would.

As in transformers 5.23 (PreTrainedTokenizerBase._from_pretrained): templates in files go before
those in tokenizer_config.json, all of them; one in the sub-folder goes before chat_template.jinja;
of two in a list the later one counts. Older versions know tokenizer_config.json alone. A processor
takes chat_template.json and processor_config.json, too; so do vLLM, which asks for a processor
first, text-generation-inference, and the converter of llama.cpp.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import TEMPLATE_FOLDER, AdapterFolder
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import SETTINGS, read_object, read_small
from phi3_lora_qa.errors import AdapterError

TEMPLATE = "chat_template.jinja"
OTHERS = ("chat_template.json", "processor_config.json")
DEFAULT = "default"
MAX_TEMPLATES = 16
_MAX_TEMPLATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template: its name, its text without the last line's end, and the file it is in."""

    name: str
    text: str
    where: str


@dataclass(frozen=True, kw_only=True)
class ChatTemplates:
    """The chat templates of a folder.

    Attributes:
        taken: Those that transformers takes, by name.
        shadowed: Others of the same names, which other readers may take.
    """

    taken: Mapping[str, ChatTemplate]
    shadowed: tuple[ChatTemplate, ...]

    @property
    def default(self) -> ChatTemplate | None:
        """The one that is taken when nobody asks for another."""
        return self.taken.get(DEFAULT)

    @property
    def main(self) -> ChatTemplate | None:
        """The default one, or where transformers takes none, one that other readers take."""
        others = (t for t in self.shadowed if t.name == DEFAULT)
        return self.default or (None if self.taken else next(others, None))


def read_templates(folder: AdapterFolder | BaseFiles) -> ChatTemplates:
    """Read every chat template of a folder.

    Raises:
        AdapterError: A file is no strict JSON, no UTF-8, too large, or holds no template.
    """
    in_files = list(_in_files(folder))
    in_settings = list(_in_json(folder, SETTINGS))
    elsewhere = [template for name in OTHERS for template in _in_json(folder, name)]
    readers = in_files or in_settings
    taken = {template.name: template for template in readers}
    every = (*in_settings, *in_files, *elsewhere)
    if len(every) > MAX_TEMPLATES:
        raise AdapterError(
            f"{len(every)} chat templates are more than {MAX_TEMPLATES}", "keep those that are used"
        )
    shadowed = [t for t in every if t is not taken.get(t.name)]
    return ChatTemplates(
        taken=taken, shadowed=tuple(t for t in shadowed if t.text != _text_of(taken, t))
    )


def chat_template(folder: AdapterFolder | BaseFiles) -> str | None:
    """Return the chat template that a tokenizer from this folder would use, or None.

    Raises:
        AdapterError: As `read_templates`.
    """
    default = read_templates(folder).default
    return default.text if default else None


def _text_of(taken: Mapping[str, ChatTemplate], template: ChatTemplate) -> str | None:
    found = taken.get(template.name) or taken.get(DEFAULT)
    return found.text if found else None


def _in_files(folder: AdapterFolder | BaseFiles) -> Iterator[ChatTemplate]:
    """Yield the templates in files of their own, the one that counts last."""
    yield from _from_file(folder, DEFAULT, TEMPLATE)
    for name in sorted(_in_folder(folder)):
        short = name.rpartition("/")[2].removesuffix(".jinja")
        yield from _from_file(folder, short, name)


def _from_file(folder: AdapterFolder | BaseFiles, name: str, path: str) -> Iterator[ChatTemplate]:
    data = read_small(folder, path, _MAX_TEMPLATE)
    if data is not None:
        try:
            yield ChatTemplate(name=name, text=_trimmed(data.decode("utf-8")), where=path)
        except UnicodeDecodeError as error:
            raise AdapterError(f"{path} is no UTF-8", "save the tokenizer again") from error


def _in_folder(folder: AdapterFolder | BaseFiles) -> list[str]:
    if isinstance(folder, BaseFiles):
        found = (folder.path / TEMPLATE_FOLDER).glob("*.jinja")
        return [f"{TEMPLATE_FOLDER}/{path.name}" for path in found]
    return list(folder.templates)


def _in_json(folder: AdapterFolder | BaseFiles, file: str) -> Iterator[ChatTemplate]:
    """Yield the templates of a JSON file: one text, or several with names."""
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
        raise AdapterError(f"{file} has no readable chat_template", "save the tokenizer again")
    for name, text in named:
        yield ChatTemplate(name=name, text=_trimmed(text), where=file)


def _trimmed(text: str) -> str:
    """Leave out the line's end at the very end, as jinja does; all else may be part of a prompt."""
    return text.removesuffix("\n").removesuffix("\r")
