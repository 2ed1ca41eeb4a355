"""The input of the rules on a base: its files, each part read once, and the suite's prompts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from phi3_lora_qa.adapter.base_checks.added_tokens import quick_added_tokens
from phi3_lora_qa.adapter.base_checks.unseen_turns import (
    Roles,
    Shapes,
    TemplateTrial,
    try_template,
)
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.chat_template.template_files import ChatTemplate, read_templates
from phi3_lora_qa.adapter.chat_template.template_results import special_tokens
from phi3_lora_qa.adapter.strict_json import parse_object
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import Tokenizer, read_tokenizer
from phi3_lora_qa.errors import AdapterError, BaseModelError

GENERATION, CONFIG = "generation_config.json", "config.json"
_MAX_GENERATION = 1 << 20

T = TypeVar("T")


class BaseView:
    """A base, as the rules see it.

    Attributes:
        folder: The base's folder.
        shapes: The roles of the suite's prompts, and how many items have them; empty if there is no
            suite.
        is_thorough: Whether the vocabulary is read, which takes half a second.
    """

    def __init__(
        self,
        folder: Path,
        *,
        id: str = "",  # noqa: A002 - as in BaseFiles
        files: BaseFiles | None = None,
        prompts: Sequence[Roles] = (),
        is_thorough: bool = True,
    ) -> None:
        self.folder, self._id, self._files = folder, id, files
        self.is_thorough = is_thorough
        self.shapes: Shapes = Counter(prompts)

    @cached_property
    def files(self) -> BaseFiles:
        """The base's files.

        Raises:
            BaseModelError: They cannot be read.
        """
        return self._files or BaseFiles.open(self.folder, id=self._id)

    @cached_property
    def generation(self) -> Mapping[str, Any] | None:
        """The content of generation_config.json; None if there is none.

        Raises:
            BaseModelError: The file cannot be read.
        """
        data = self.files.read_bytes(GENERATION, _MAX_GENERATION)
        if data is None:
            return None
        read = partial(parse_object, data, where=GENERATION, max_bytes=_MAX_GENERATION)
        return _as_base_error("generation settings", read)

    @property
    def stop_setting(self) -> tuple[str, Any]:
        """The file that names the stop tokens, and the value of its eos_token_id.

        As in transformers, config.json counts only if there is no generation_config.json.
        """
        if self.generation is None:
            return CONFIG, self.files.config.get("eos_token_id")
        return GENERATION, self.generation.get("eos_token_id")

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template that transformers uses; None if there is none.

        Raises:
            BaseModelError: A template cannot be read.
        """
        return _as_base_error("chat template", lambda: read_templates(self.files)).default

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if there is none with a vocabulary.

        Raises:
            BaseModelError: The tokenizer cannot be read.
        """
        found = _as_base_error("tokenizer", lambda: read_tokenizer(self.files))
        return found[0] if found else None

    @cached_property
    def added_tokens(self) -> Mapping[str, int]:
        """The ids of the tokens that are split off before a text is tokenized, by their text.

        Raises:
            BaseModelError: The tokenizer cannot be read.
        """
        quick = _as_base_error("tokenizer", lambda: quick_added_tokens(self.files))
        if quick is not None:
            return quick
        added = self.tokenizer.added if self.tokenizer else {}
        return {token: entry.token_id for token, entry in added.items()}

    @cached_property
    def trial(self) -> TemplateTrial:
        """What the template does with conversations of every usual shape, and of the suite's."""
        if self.template is None:
            return TemplateTrial()
        return try_template(self.template.text, self.shapes, special_tokens((self.files,)))


def _as_base_error(what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except AdapterError as error:
        raise BaseModelError(f"the base's {what}: {error}") from error
