"""The input of the lint rules: an adapter folder and optionally a base, each part read once."""

from collections.abc import Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.adapter.adapted_modules import ranks_in_file
from phi3_lora_qa.adapter.base_files import BaseFiles, estimate_norm
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
from phi3_lora_qa.adapter.folder import (
    CONFIG,
    MANIFEST,
    OTHER_VOCABULARIES,
    TOKENIZER_FILES,
    WEIGHTS,
    AdapterFolder,
)
from phi3_lora_qa.adapter.identity.adapter_identity import AdapterIdentity
from phi3_lora_qa.adapter.manifest import Manifest, read_manifest
from phi3_lora_qa.adapter.memory import require_memory_for_numpy
from phi3_lora_qa.adapter.needs import Need
from phi3_lora_qa.adapter.parent_adapter import Change, StoredAdapter
from phi3_lora_qa.adapter.required_parts import required
from phi3_lora_qa.adapter.safetensors_file import (
    READABLE,
    SafetensorsFile,
    TensorInfo,
    open_safetensors,
)
from phi3_lora_qa.adapter.target_matching import Matching
from phi3_lora_qa.adapter.tensor_names import BadKey, Part, TensorKey, parse_keys, tensor_name
from phi3_lora_qa.adapter.text_context import TextContext

if TYPE_CHECKING:
    from phi3_lora_qa.adapter.safetensors_file import Array
    from phi3_lora_qa.adapter.weight_stats import DeltaStats, TensorStats


class LintContext(TextContext):
    """One adapter, as the rules see it.

    A rule declares what it needs and runs only if `has` is true for every need. Access to a missing
    part raises LookupError, which the linter reports as its own fault.

    Attributes:
        folder: The adapter folder.
        errors: Why a part could not be read, by the part's name; one rule reports each.
    """

    def __init__(
        self,
        folder: AdapterFolder,
        base: BaseFiles | None,
        *,
        any_base: bool = False,
        parent: StoredAdapter | None = None,
    ) -> None:
        super().__init__(folder, base)
        self._any_base = any_base
        self._parent = parent

    def has(self, need: Need) -> bool:
        """Whether a part exists and could be read."""
        match need:
            case "LoRA adapter of PEFT":
                found: object = self.identity.foreign_format is None
            case "base that the adapter is for":
                found = not self.identity.foreign_format and not self.identity.base_fault
            case "config":
                found = self._config is not None
            case "weights":
                found = self._weights is not None
            case "expected tensors":
                found = self._expected is not None and self._weights is not None
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
            case "parent":
                found = self._parent is not None
        return bool(found)

    @cached_property
    def identity(self) -> AdapterIdentity:
        """What the folder is, and which base its adapter is for."""
        return AdapterIdentity(
            folder=self.folder,
            raw_config=self._raw_config,
            config=self._config,
            weights=self._weights,
            base=self._base,
            any_base=self._any_base,
        )

    @property
    def config(self) -> LoraAdapterConfig:
        """The config (need: config)."""
        return required(self._config)

    @property
    def matching(self) -> Matching:
        """The config's patterns, compiled (need: expected tensors)."""
        return required(self._matching)

    @property
    def weights(self) -> SafetensorsFile:
        """The checked header of the weights (need: weights)."""
        return required(self._weights)

    @property
    def expected(self) -> ExpectedLayout:
        """The tensors that the config implies for the base (need: expected tensors).

        Without a base, they are those for the architecture that the file seems to be for.
        """
        return required(self._expected)

    @property
    def manifest(self) -> Manifest:
        """The manifest (need: manifest)."""
        return required(self._manifest)

    @cached_property
    def parent_changes(self) -> Mapping[str, Change]:
        """What training did to each module since the parent (need: weights, parent).

        Raises:
            AdapterError: A file became shorter while it was read.
        """
        from phi3_lora_qa.adapter.parent_comparison import compare_with_parent

        scaling = self._matching.scaling if self._matching else None
        own = StoredAdapter(weights=self.weights, keys=self.keys, scaling=scaling)
        return compare_with_parent(own, required(self._parent))

    @property
    def keys(self) -> Mapping[str, TensorKey]:
        """The tensors whose names follow peft's grammar, by their canonical name."""
        return self._keys[0]

    @property
    def bad_keys(self) -> tuple[BadKey, ...]:
        """The tensors whose names do not follow peft's grammar."""
        return self._keys[1]

    def info(self, key: TensorKey) -> TensorInfo:
        """Return a tensor's entry in the file's header (need: weights)."""
        return self.weights.tensors[key.name]

    def factors(self, module: str) -> "tuple[TensorStats, TensorStats] | None":
        """Return the statistics of a module's A and B, or None unless it has both."""
        names = self.factor_names(module)
        return (self.tensor_stats[names[0]], self.tensor_stats[names[1]]) if names else None

    def factor_names(self, module: str) -> tuple[str, str] | None:
        """Return the names of a module's A and B, or None unless both have statistics."""
        for first, second in ((Part.A, Part.B), (Part.EMBEDDING_A, Part.EMBEDDING_B)):
            names = tensor_name(module, first), tensor_name(module, second)
            if all(name in self.tensor_stats for name in names):
                return names
        return None

    def tensor(self, name: str, rows: slice | None = None) -> "Array":
        """Read a tensor, or some of its rows, by its canonical name (need: weights)."""
        return self.weights.tensor(self.keys[name].name, rows)

    @cached_property
    def tensor_stats(self) -> "Mapping[str, TensorStats]":
        """The statistics of every expected tensor of a readable dtype, by its canonical name.

        (need: expected tensors)
        """
        from phi3_lora_qa.adapter.weight_stats import measure_tensor

        return {
            name: measure_tensor(self.weights, key.name, key.part)
            for name, key in self.keys.items()
            if name in self.expected.tensors and self.info(key).dtype in READABLE
        }

    @cached_property
    def delta_stats(self) -> "Mapping[str, DeltaStats]":
        """The size of delta = s · B·A for each adapted module whose factors are both finite.

        (need: expected tensors)
        """
        from phi3_lora_qa.adapter.weight_stats import measure_delta

        found = {}
        for module in self.expected.targeted:
            if (names := self.factor_names(module)) is None:
                continue
            a, b = names
            sized = measure_delta(
                self.tensor_stats[a],
                self.tensor_stats[b],
                self.matching.scaling(module),
                read=lambda a=a, b=b: (self.tensor(a), self.tensor(b)),  # type: ignore[misc]
                stacked=self.config.use_bdlora is not None,
            )
            if sized is not None:
                found[module] = sized
        return found

    @cached_property
    def base_norms(self) -> Mapping[str, float]:
        """The estimated norm of the base weight under each delta (need: base weights)."""
        return {module: estimate_norm(self.base, module) for module in self.delta_stats}

    @cached_property
    def reading(self) -> ParsedConfig | None:
        """adapter_config.json with its problems; None if it is missing or not valid JSON."""
        raw = self._raw_config
        return None if raw is None else parse_config(raw)

    @cached_property
    def _raw_config(self) -> Mapping[str, Any] | None:
        if self.folder.file(CONFIG) is None:
            return None
        return self._try("config", lambda: read_raw_config(self.folder))

    @cached_property
    def _config(self) -> LoraAdapterConfig | None:
        return self.reading.config if self.reading else None

    @cached_property
    def _matching(self) -> Matching | None:
        config, weights = self._config, self._weights
        if config is None:
            return None
        in_file = ranks_in_file(self.keys.values(), weights.tensors if weights else {})
        return self._try("matching", lambda: Matching(config, in_file))

    @cached_property
    def _weights(self) -> SafetensorsFile | None:
        if self.folder.file(WEIGHTS) is None:
            return None
        opener = partial(self.folder.open_file, WEIGHTS)
        found = self._try("weights", lambda: open_safetensors(opener, WEIGHTS))
        if found:
            require_memory_for_numpy()  # the rules read the weights with numpy
        return found

    @cached_property
    def _keys(self) -> tuple[Mapping[str, TensorKey], tuple[BadKey, ...]]:
        return parse_keys(self._weights.tensors if self._weights else ())

    @property
    def unused_patterns(self) -> tuple[tuple[str, str], ...]:
        """(field, pattern) of each rank and alpha pattern that matches no module.

        (need: expected tensors)
        """
        return required(self._matched)[1]

    @property
    def _expected(self) -> ExpectedLayout | None:
        return self._matched[0] if self._matched else None

    @cached_property
    def _matched(self) -> tuple[ExpectedLayout, tuple[tuple[str, str], ...]] | None:
        """Match all patterns in one place, so that a slow one is reported once."""
        config, matching = self._config, self._matching
        if config is None or matching is None:
            return None
        infos = self._weights.tensors if self._weights else {}
        if self._base:
            modules = self._base.modules
        else:
            architecture = self.identity.assumed_architecture
            modules = assumed_modules(config, self.keys.values(), infos, architecture)
        tied = self._base.is_tied if self._base else None

        def match() -> tuple[ExpectedLayout, tuple[tuple[str, str], ...]]:
            expected = derive_expected_tensors(config, matching, modules, tied=tied)
            matching.require_bounded_re(modules)
            return expected, tuple(matching.unused_patterns(expected.targeted))

        return self._try("matching", match)

    @property
    def _has_base_weights(self) -> bool:
        """Whether the base has weights for at least one module that was trained."""
        base, expected = self._base, self._expected
        if base is None or expected is None:
            return False
        rows = self._config.trainable_token_indices if self._config else {}
        tables = [name for name in base.modules if name.rpartition(".")[2] in rows]
        names = (*expected.targeted, *expected.saved, *tables)
        return any(base.tensor(name) is not None for name in names)

    @cached_property
    def _manifest(self) -> Manifest | None:
        if MANIFEST not in self.folder.entries:
            return None
        return self._try("manifest", lambda: read_manifest(self.folder))
