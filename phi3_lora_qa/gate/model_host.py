"""The models of a run: at most one base and one attached adapter are in memory at a time.

A model is loaded, attached, detached or released by a method call only. The host knows files and
models; it knows nothing about lint reports, items or metrics.
"""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3_lora_qa.dataclass_json import Json
from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.gate.phase_log import PhaseLog
from phi3_lora_qa.lora import Array
from phi3_lora_qa.models.registry import BaseRef, resolve_base
from phi3_lora_qa.setting_specs import CUDA, UNQUANTIZED
from phi3_lora_qa.settings import GateSettings

if TYPE_CHECKING:
    from phi3_lora_qa.models.loading import LoadedBase
    from phi3_lora_qa.scoring.engine_choice import EngineChoice

PROBE = "The probe: 1 + 2 = 3, and so on."


class ModelHost:
    """Loads bases and attaches adapters to them, one of each at a time.

    Before anything is attached to a base, its checksum and its logits on a probe text are stored.
    A base can be loaded as it is or quantized; these are two models.
    """

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._base: LoadedBase | None = None
        self._quantization = UNQUANTIZED
        self._tuned: Any = None
        self._attached_folder: Path | None = None
        self._had_adapter = False
        self._load_errors: dict[str, str] = {}
        self._checksums: dict[tuple[str, str], str] = {}
        self._probe_logits: dict[str, Array] = {}
        self._engines: dict[tuple[str, str], EngineChoice] = {}

    def load_base(
        self, ref: BaseRef, log: PhaseLog, quantization: str = UNQUANTIZED
    ) -> "LoadedBase":
        """Return a base; load it, and release any other one, unless it is loaded already.

        Raises:
            BaseModelError: The base cannot be loaded, or its files changed during the run.
            MachineError: It does not fit into the memory.
        """
        if self._base is None or (self._base.ref, self._quantization) != (ref, quantization):
            self.release()
            self._base = self._load(ref, log, quantization)
            self._quantization = quantization
        return self._base

    def load_untouched_base(
        self, ref: BaseRef, log: PhaseLog, quantization: str = UNQUANTIZED
    ) -> "LoadedBase":
        """Return a base to which no adapter has been attached since it was loaded.

        Raises:
            BaseModelError: As `load_base`.
        """
        if self._had_adapter:
            self.release()
        return self.load_base(ref, log, quantization)

    def load_exported(self, folder: Path) -> "LoadedBase":
        """Release the base, then load a complete model from a folder. The host does not keep it.

        Raises:
            BaseModelError: The folder contains no loadable model.
        """
        from phi3_lora_qa.models.loading import load_base

        self.release()
        settings = self._settings
        return load_base(resolve_base(str(folder)), settings.dtype, settings.device)

    def attach_adapter(
        self, ref: BaseRef, folder: Path, log: PhaseLog, quantization: str = UNQUANTIZED
    ) -> Any:
        """Return the base with the adapter of a folder attached; detach any other adapter.

        Raises:
            BaseModelError: As `load_base`.
            AdapterError: The adapter cannot be attached.
        """
        from phi3_lora_qa.models.attach import attach

        base = self.load_base(ref, log, quantization)
        if self._tuned is None or self._attached_folder != folder:
            self.detach_adapter()
            self._had_adapter = True
            with log.timed("attach adapter"):
                self._tuned = attach(base.model, folder)
            self._attached_folder = folder
        return self._tuned

    def unload_adapter(self) -> Any:
        """Unload the attached adapter by PEFT's own method; return the plain model that remains."""
        plain = self._tuned.unload()
        self.detach_adapter()
        return plain

    def detach_adapter(self) -> None:
        """Drop the tuned model. The base stays loaded: the two share only tensors."""
        self._tuned = self._attached_folder = None

    def release(self) -> None:
        """Drop the base and the tuned model."""
        self.detach_adapter()
        was_loaded = self._base is not None
        self._base, self._had_adapter = None, False
        gc.collect()
        if was_loaded and self._settings.device.startswith(CUDA):
            import torch

            torch.cuda.empty_cache()

    def original_checksum(self, ref: BaseRef, quantization: str = UNQUANTIZED) -> str:
        """Return the checksum of a base, taken before anything was attached to it."""
        return self._checksums[ref.id, quantization]

    def original_probe_logits(self, ref: BaseRef) -> Array:
        """Return a base's logits on the probe, computed before anything was attached to it.

        They are float64 (tokens, vocabulary).
        """
        return self._probe_logits[ref.id]

    def engine_of(self, ref: BaseRef) -> "EngineChoice":
        """Return the engine that scores models of a base, as it was last loaded."""
        return self._engines[ref.id, self._quantization]

    def _load(self, ref: BaseRef, log: PhaseLog, quantization: str) -> "LoadedBase":
        from phi3_lora_qa.models.checksum import checksum
        from phi3_lora_qa.models.loading import load_base
        from phi3_lora_qa.scoring.engine_choice import choose_engine

        if ref.id in self._load_errors:  # each check would otherwise send requests to the hub again
            raise BaseModelError(self._load_errors[ref.id])
        log.on_progress(f"loading the base {ref.id}", 0, 0)
        device, dtype = self._settings.device, self._settings.dtype
        try:
            with log.timed("load base"):
                base = load_base(ref, dtype, device, quantization)
        except BaseModelError as error:
            self._load_errors[ref.id] = str(error)
            raise
        found = checksum(base.model)
        # A base that is loaded again (after an export) must be the one that was scored.
        if self._checksums.setdefault((ref.id, quantization), found) != found:
            raise BaseModelError(
                f"the base {ref.id} changed on disk during the run; rerun the gate, and do not "
                "change the base's files during the run"
            )
        if quantization == UNQUANTIZED and ref.id not in self._probe_logits:
            self._probe_logits[ref.id] = compute_probe_logits(base.model, base.tokenizer)
        engine = self._engines.setdefault(
            (ref.id, quantization), choose_engine(self._settings.engine, base.model)
        )
        log.add_environment(
            {**describe_hardware(base.model), **layer_products("base", base.model, engine)}
        )
        return base


def describe_hardware(model: Any) -> dict[str, Json]:
    """Return where a loaded model is, and what computes it, for the environment."""
    import torch

    from phi3_lora_qa.models.devices import devices_of, hardware_name

    devices = devices_of(model)
    names = dict.fromkeys(filter(None, map(hardware_name, devices)))
    return {
        "device": ", ".join(devices),
        **({"device_name": ", ".join(names)} if names else {}),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }


def compute_probe_logits(model: Any, tokenizer: Any) -> Array:
    """Return a model's logits on the fixed probe text, float64 (tokens, vocabulary)."""
    import torch

    from phi3_lora_qa.models.tensor_conversion import to_float64

    ids = tokenizer(PROBE, return_tensors="pt").input_ids
    with torch.inference_mode():
        return to_float64(model(input_ids=ids.to(model.device)).logits[0])


def layer_products(which: str, model: Any, engine: "EngineChoice") -> dict[str, Json]:
    """Return how the layers of ``base`` or ``tuned`` multiply, by dtype, for the environment."""
    from phi3_lora_qa.scoring.prepacked_linear import matmul_backends

    backends = matmul_backends(model, engine.name)
    return {f"products_{which}_{dtype}": how for dtype, how in backends.items()}
