"""What the lint rules see of the text around an adapter: tokenizers and chat templates."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.chat_template.template_files import ChatTemplates, read_templates
from phi3_lora_qa.adapter.file_kind import FileKind
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.foreign_files import foreign_files, of_tokenizer
from phi3_lora_qa.adapter.required_parts import as_base_error, required
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import (
    SETTINGS,
    Tokenizer,
    read_object,
    read_tokenizer,
)
from phi3_lora_qa.adapter.tokenizer.unused_tokens import unused_tokens
from phi3_lora_qa.errors import AdapterError, shortage

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.chat_template.template_results import TemplateResults
    from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import TokenizerComparison

T = TypeVar("T")


class TextContext:
    """The parts of an adapter that turn messages into tokens, each read once.

    Attributes:
        folder: The adapter folder.
        errors: Why a part could not be read, by the part's name; one rule reports each.
    """

    def __init__(self, folder: AdapterFolder, base: BaseFiles | None) -> None:
        self.folder = folder
        self._base = base
        self.errors: dict[str, AdapterError] = {}

    @property
    def base(self) -> BaseFiles:
        """The base's files (need: base, or base weights)."""
        return required(self._base)

    @cached_property
    def foreign_files(self) -> Mapping[str, FileKind]:
        """The files that are not what their names say, of those that programs read."""
        return foreign_files(self.folder)

    @property
    def foreign_tokenizer_files(self) -> Mapping[str, FileKind]:
        """The tokenizer's files that are not what their names say; tokenizer-unreadable reports."""
        return of_tokenizer(self.folder, self.foreign_files)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The adapter's own tokenizer; None if it has none that can be read."""
        return self._tokenizer[0] if self._tokenizer else None

    @cached_property
    def base_tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer; None if it has none with a vocabulary (need: base).

        Raises:
            BaseModelError: The tokenizer cannot be read.
        """
        own = self._tokenizer
        like = (own[1], own[0].file) if own and own[0].file else None
        found = as_base_error(lambda: read_tokenizer(self.base, like))
        return found[0] if found else None

    @cached_property
    def tokenizer_settings(self) -> Mapping[str, Any]:
        """The adapter's tokenizer_config.json; empty if it is missing or cannot be read."""
        try:
            return read_object(self.folder, SETTINGS)
        except AdapterError:
            return {}  # tokenizer-unreadable reports it

    @cached_property
    def tokenizer_comparison(self) -> "TokenizerComparison | None":
        """How the tokenizer behaves next to the base's (need: tokenizer, base, base's tokenizer).

        Raises:
            AdapterError: A file that a loader reads cannot be read.
            BaseModelError: The base's tokenizer cannot be loaded.
        """
        from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import compare_tokenizers

        if self.foreign_tokenizer_files:
            return None
        leave_out = unused_tokens(self.tokenizer, self.base_tokenizer)
        return compare_tokenizers(self.folder, self.base, leave_out)

    @cached_property
    def templates(self) -> ChatTemplates | None:
        """The adapter's own chat templates; None if one cannot be read."""
        return self._try("templates", lambda: read_templates(self.folder))

    @cached_property
    def base_templates(self) -> ChatTemplates:
        """The base's chat templates (need: base).

        Raises:
            BaseModelError: A template cannot be read.
        """
        return as_base_error(lambda: read_templates(self.base))

    @cached_property
    def template_results(self) -> "TemplateResults":
        """The renderings of the adapter's chat templates, and their comparison with the base's.

        Raises:
            BaseModelError: A template of the base cannot be read.
            MachineError: The process that renders templates could not be started.
        """
        from phi3_lora_qa.adapter.chat_template.template_results import (
            TemplateResults,
            render_templates,
        )

        own = self.templates
        if own is None or not (own.active or own.shadowed):
            return TemplateResults()
        if self._base is None:
            return render_templates(own, None, (self.folder,))
        return render_templates(own, self.base_templates, (self._base, self.folder))

    @cached_property
    def _tokenizer(self) -> tuple[Tokenizer, bytes] | None:
        return self._try("tokenizer", lambda: read_tokenizer(self.folder))

    def _try(self, part: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except AdapterError as error:
            if short := shortage(error):
                raise short from error
            self.errors[part] = error
            return None
