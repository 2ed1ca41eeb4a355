"""A tiny Phi-3 with an adapter, as PEFT creates, saves, loads and merges it."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from phi3_lora_qa.libraries import part_of
from phi3_lora_qa.lora import Array
from phi3_lora_qa.models.tensor_conversion import to_float64
from phi3_lora_qa.properties.peft_layers import quiet
from phi3_lora_qa.properties.whole_model import ModelCase, ModelUnderTest

if TYPE_CHECKING:
    from hypothesis import strategies as st

_ADAPTERS = ("lora_", "modules_to_save", "trainable_tokens")


class PeftPhi3(ModelUnderTest):
    """`Phi3ForCausalLM` in float64 with PEFT."""

    known_failures: ClassVar[Mapping[str, str]] = {
        "model_pattern_order_survives_saving": "save_pretrained sorts rank_pattern and "
        "alpha_pattern, and the first matching pattern wins; write patterns that do not overlap",
    }

    def __init__(self, model: Any, case: ModelCase) -> None:
        self.model, self.case = model, case

    @classmethod
    def cases(cls) -> "st.SearchStrategy[ModelCase]":
        """Return tiny models with any LoraConfig that is valid for them, and padded batches."""
        from hypothesis import strategies as st

        from phi3_lora_qa.strategies import batches, lora_configs, phi3_configs

        return phi3_configs().flatmap(
            lambda config: st.builds(
                ModelCase,
                phi3=st.just(config),
                lora=lora_configs(config),
                batch=batches(config, max_rows=3, max_tokens=12),
                seed=st.integers(0, 999),
            )
        )

    @classmethod
    def _base(cls, case: ModelCase) -> Any:
        import torch
        from transformers import Phi3ForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(case.seed)
            model: Any = Phi3ForCausalLM(copy.deepcopy(case.phi3))
            return model.eval()

    @classmethod
    def build(cls, case: ModelCase) -> Self:
        """Create the adapter with get_peft_model, and fill every trained parameter."""
        import torch
        from peft import get_peft_model

        with torch.random.fork_rng(), quiet():
            base = cls._base(case)
            torch.manual_seed(case.seed + 1)
            model: Any = get_peft_model(base, copy.deepcopy(case.lora))
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if any(part in name for part in _ADAPTERS):
                        # A small change, so that magnitudes and norms stay positive.
                        parameter.add_(0.05 * torch.randn_like(parameter))
        # Created in float32, because some initializations (MiCA) do not support float64.
        return cls(model.double().eval(), case)

    @classmethod
    def base_logits(cls, case: ModelCase) -> Array:
        """Run the base alone."""
        return cls(cls._base(case).double(), case).logits(
            case.batch.input_ids, case.batch.attention_mask
        )

    def logits(self, ids: Any, mask: Any) -> Array:
        """Run the model."""
        import torch

        # Positions count tokens without padding, as generate does: RoPE's angles are float32.
        positions = mask.cumsum(axis=1) - 1
        with torch.no_grad(), quiet():
            found = self.model(
                input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask),
                position_ids=torch.from_numpy(positions), use_cache=False,
            )  # fmt: skip
        return to_float64(found.logits)

    def logits_disabled(self, ids: Any, mask: Any) -> Array:
        """Run the model within disable_adapter."""
        with self.model.disable_adapter():
            return self.logits(ids, mask)

    def merge_and_unload(self) -> Self:
        """Merge with merge_and_unload."""
        with quiet():
            return type(self)(self.model.merge_and_unload(), self.case)

    def unload(self) -> Self:
        """Remove PEFT's layers with unload."""
        with quiet():
            return type(self)(self.model.unload(), self.case)

    def save_and_load(self, name: str) -> tuple[Self, bool]:
        """Call save_pretrained, from_pretrained onto a new base, and save_pretrained again."""
        from peft import PeftModel

        with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder, quiet():
            first, second = Path(folder, "first"), Path(folder, "second")
            self.model.save_pretrained(str(first))
            base = self._base(self.case)
            loaded: Any = PeftModel.from_pretrained(base, str(first), adapter_name=name)
            loaded.double().save_pretrained(str(second))
            if name != "default":
                second = second / name
            weights = "adapter_model.safetensors"
            stable = (first / weights).read_bytes() == (second / weights).read_bytes()
        return type(self)(loaded.eval(), self.case), stable

    def scalings(self) -> Mapping[str, tuple[int, float]]:
        """Return rank and scaling of PEFT's layers."""
        lora_layer = part_of("peft", "peft.tuners.lora.layer", "LoraLayer")
        return {
            name.removeprefix("base_model.model."): (m.r["default"], m.scaling["default"])
            for name, m in self.model.named_modules()
            if isinstance(m, lora_layer) and "default" in m.r
        }

    def base_before_and_after_step(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """Take one step of SGD on all parameters that require a gradient."""
        import torch

        base = {n: p for n, p in self.model.named_parameters()
                if not any(part in n for part in _ADAPTERS)}  # fmt: skip
        before = {name: to_float64(parameter) for name, parameter in base.items()}
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1.0)
        ids = torch.from_numpy(self.case.batch.input_ids)
        with quiet():
            loss = self.model(input_ids=ids).logits.square().mean()
        loss.backward()
        optimizer.step()
        return before, {name: to_float64(parameter) for name, parameter in base.items()}
