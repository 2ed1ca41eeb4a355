"""What the rules look at: an adapter folder and perhaps a base, each part read once, when asked."""

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.chat_template.template_files import ChatTemplates, read_templates
from phi3_lora_qa.adapter.config import (
    LoraAdapterConfig,
    ParsedConfig,
    parse_config,
    read_raw_config,
)
from phi3_lora_qa.adapter.expected_tensors import (
    ExpectedLayout,
    assumed_modules,
    derive_expected_tensors,
)
from phi3_lora_qa.adapter.finding import Need
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MANIFEST,
    OTHER_VOCABULARIES,
    TOKENIZER_FILES,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.manifest import Manifest, read_manifest
from phi3_lora_qa.adapter.memory import require_memory_for_numpy
from phi3_lora_qa.adapter.safetensors_file import (
    READABLE,
    SafetensorsFile,
    TensorInfo,
    open_safetensors,
)
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import BadKey, Part, TensorKey, parse_keys, tensor_name
from phi3_lora_qa.adapter.tokenizer.tokenizer_files import Tokenizer, read_tokenizer
from phi3_lora_qa.errors import AdapterError, BaseModelError, shortage

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.safetensors_file import Array
    from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import TokenizerComparison
    from phi3_lora_qa.adapter.weight_stats import DeltaStats, TensorStats

T = TypeVar("T")


class LintContext:
    """One adapter under the rules.

    A rule says what it needs, and runs only where `has` holds for it; a part that is asked for and
    not there raises LookupError, which the linter reports as its own fault. ``errors`` says why a
    part could not be read: one rule reports each.
    """

    def __init__(self, folder: AdapterFolder, base: BaseFiles | None) -> None:
        self.folder = folder
        self._base = base
        self.errors: dict[str, str] = {}

    def has(self, need: Need) -> bool:
        """Whether a part is there for a rule to look at."""
        match need:
            case "config":
                found: object = self._config is not None
            case "weights":
                found = self._weights is not None
            case "implied":
                found = self._implied is not None and self._weights is not None
            case "base":
                found = self._base is not None
            case "base weights":
                found = self._has_base_weights
            case "tokenizer":
                names = (*TOKENIZER_FILES, *OTHER_VOCABULARIES)
                found = any(map(self.folder.file, names)) or bool(self.folder.templates)
            case "base's tokenizer":
                base = self._base
                found = base is not None and any(map(base.has_file, TOKENIZER_FILES))
            case "manifest":
                found = self._manifest is not None
        return bool(found)

    @property
    def base(self) -> BaseFiles:
        """The base's files (need: base, or base weights)."""
        return _there(self._base)

    @property
    def config(self) -> LoraAdapterConfig:
        """The config, where its values could be read (need: config)."""
        return _there(self._config)

    @property
    def matching(self) -> Matching:
        """The config's patterns, compiled (need: implied)."""
        return _there(self._matching)

    @property
    def weights(self) -> SafetensorsFile:
        """The checked header of the weights (need: weights)."""
        return _there(self._weights)

    @property
    def implied(self) -> ExpectedLayout:
        """What the config implies for the base, or for the Phi-3 that the file seems to be for.

        (need: implied)
        """
        return _there(self._implied)

    @property
    def manifest(self) -> Manifest:
        """The manifest, where there is a sound one (need: manifest)."""
        return _there(self._manifest)

    @property
    def keys(self) -> Mapping[str, TensorKey]:
        """The tensors whose names are in the grammar, by the name that peft writes."""
        return self._keys[0]

    @property
    def bad_keys(self) -> tuple[BadKey, ...]:
        """The tensors whose names are not."""
        return self._keys[1]

    def info(self, key: TensorKey) -> TensorInfo:
        """Return the header's entry of a tensor (need: weights)."""
        return self.weights.tensors[key.name]

    def factors(self, module: str) -> "tuple[TensorStats, TensorStats] | None":
        """Return the measures of a module's A and B, or None unless both are there."""
        names = self.factor_names(module)
        return (self.measures[names[0]], self.measures[names[1]]) if names else None

    def factor_names(self, module: str) -> tuple[str, str] | None:
        """Return the names of a module's measured A and B, or None unless both are there."""
        for first, second in ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B)):
            names = tensor_name(module, first), tensor_name(module, second)
            if all(name in self.measures for name in names):
                return names
        return None

    def tensor(self, name: str, rows: slice | None = None) -> "Array":
        """Read a tensor, or some of its rows, by the name that peft writes (need: weights)."""
        return self.weights.tensor(self.keys[name].name, rows)

    @cached_property
    def measures(self) -> "Mapping[str, TensorStats]":
        """The values of every implied tensor of a readable dtype, by the name that peft writes.

        (need: implied)
        """
        from phi3_lora_qa.adapter.weight_stats import measure_tensor

        return {
            name: measure_tensor(self.weights, key.name, key.part)
            for name, key in self.keys.items()
            if name in self.implied.tensors and self.info(key).dtype in READABLE
        }

    @cached_property
    def deltas(self) -> "Mapping[str, DeltaStats]":
        """The size of delta = s · B·A of each adapted module whose two factors are finite.

        (need: implied)
        """
        from phi3_lora_qa.adapter.weight_stats import measure_delta

        found = {}
        for module in self.implied.targeted:
            if (names := self.factor_names(module)) is None:
                continue
            a, b = names
            sized = measure_delta(
                self.measures[a],
                self.measures[b],
                self.matching.scaling(module),
                read=lambda a=a, b=b: (self.tensor(a), self.tensor(b)),  # type: ignore[misc]
                stacked=self.config.use_bdlora is not None,
            )
            if sized is not None:
                found[module] = sized
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The adapter's own tokenizer; None where there is none that can be read."""
        return self._tokenizer[0] if self._tokenizer else None

    @cached_property
    def base_tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer; None where it has none with a vocabulary (need: base).

        Raises:
            BaseModelError: It cannot be read.
        """
        own = self._tokenizer
        like = (own[1], own[0].file) if own and own[0].file else None
        found = _of_base(lambda: read_tokenizer(self.base, like))
        return found[0] if found else None

    @cached_property
    def tokenizer_trial(self) -> "TokenizerComparison | None":
        """What the tokenizer does, beside the base's (need: tokenizer, base, base's tokenizer).

        Raises:
            AdapterError: A file that a loader reads cannot be read.
            BaseModelError: The base's tokenizer cannot be made.
        """
        from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour import compare_tokenizers

        return compare_tokenizers(self.folder, self.base)

    @cached_property
    def templates(self) -> ChatTemplates | None:
        """The adapter's own chat templates; None where one cannot be read."""
        return self._try("templates", lambda: read_templates(self.folder))

    @cached_property
    def base_templates(self) -> ChatTemplates:
        """The base's chat templates (need: base).

        Raises:
            BaseModelError: One cannot be read.
        """
        return _of_base(lambda: read_templates(self.base))

    @cached_property
    def _tokenizer(self) -> tuple[Tokenizer, bytes] | None:
        return self._try("tokenizer", lambda: read_tokenizer(self.folder))

    @cached_property
    def reading(self) -> ParsedConfig | None:
        """adapter_config.json with its problems; None if it is missing or no JSON."""
        if self.folder.file(CONFIG) is None:
            return None
        return self._try("config", lambda: parse_config(read_raw_config(self.folder)))

    @cached_property
    def _config(self) -> LoraAdapterConfig | None:
        return self.reading.config if self.reading else None

    @cached_property
    def _matching(self) -> Matching | None:
        config = self._config
        return None if config is None else self._try("matching", lambda: Matching(config))

    @cached_property
    def _weights(self) -> SafetensorsFile | None:
        if self.folder.file(WEIGHTS) is None:
            return None
        opener = partial(self.folder.open_file, WEIGHTS)
        found = self._try("weights", lambda: open_safetensors(opener, WEIGHTS))
        if found:
            require_memory_for_numpy()  # with which the rules are going to read them
        return found

    @cached_property
    def _keys(self) -> tuple[Mapping[str, TensorKey], tuple[BadKey, ...]]:
        return parse_keys(self._weights.tensors if self._weights else ())

    @property
    def unused_patterns(self) -> tuple[tuple[str, str], ...]:
        """(field, pattern) of rank and alpha patterns that match no module (need: implied)."""
        return _there(self._matched)[1]

    @property
    def _implied(self) -> ExpectedLayout | None:
        return self._matched[0] if self._matched else None

    @cached_property
    def _matched(self) -> tuple[ExpectedLayout, tuple[tuple[str, str], ...]] | None:
        """All that patterns are matched for, so that one that takes too long shows in one place."""
        config, matching = self._config, self._matching
        if config is None or matching is None:
            return None
        infos = self._weights.tensors if self._weights else {}
        modules = (
            self._base.modules if self._base else assumed_modules(config, self.keys.values(), infos)
        )
        tied = bool(self._base.config.get("tie_word_embeddings")) if self._base else None

        def match() -> tuple[ExpectedLayout, tuple[tuple[str, str], ...]]:
            implied = derive_expected_tensors(config, matching, modules, tied=tied)
            return implied, tuple(matching.unused_patterns(implied.targeted))

        return self._try("matching", match)

    @property
    def _has_base_weights(self) -> bool:
        """Whether the base has weights that can be compared, of a module that was trained."""
        base, implied = self._base, self._implied
        if base is None or implied is None:
            return False
        rows = self._config.trainable_token_indices if self._config else {}
        tables = [name for name in base.modules if name.rpartition(".")[2] in rows]
        names = (*implied.targeted, *implied.saved, *tables)
        return any(base.tensor(name) is not None for name in names)

    @cached_property
    def _manifest(self) -> Manifest | None:
        if MANIFEST not in self.folder.entries:
            return None
        return self._try("manifest", lambda: read_manifest(self.folder))

    def _try(self, part: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except AdapterError as error:
            if short := shortage(error):
                raise short from error
            self.errors[part] = str(error)
            return None


def _of_base(read: Callable[[], T]) -> T:
    try:
        return read()
    except AdapterError as error:
        raise BaseModelError(f"the base's tokenizer: {error}") from error


def _there(part: T | None) -> T:
    if part is None:
        raise LookupError("a rule looks at a part that it does not declare as needed")
    return part
