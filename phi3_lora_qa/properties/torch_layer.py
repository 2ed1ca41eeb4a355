"""A LoRA layer that is a torch module; its inputs and outputs are float64 numpy arrays."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.lora import Array, Factors
from phi3_lora_qa.models.tensor_conversion import to_float64, to_tensor
from phi3_lora_qa.properties.layer import Gradients, Layer

if TYPE_CHECKING:
    import torch

    from phi3_lora_qa.strategies import LayerCase


class TorchLayer(Layer):
    """Base class of layers under test that are torch modules.

    A subclass defines `make_module` and `parameter`; for layers that are not linear also the layout
    methods. The module may be on any device: inputs are moved to the device of its weight.

    Attributes:
        module: The module that is called with the inputs.
        case: The case from which the layer was built.

    Example:
        >>> import torch
        >>> class PlainLora(torch.nn.Module):
        ...     def __init__(self, out_features, in_features, rank, scaling, dtype):
        ...         super().__init__()
        ...         self.base = torch.nn.Linear(in_features, out_features, bias=False, dtype=dtype)
        ...         self.down = torch.nn.Linear(in_features, rank, bias=False, dtype=dtype)
        ...         self.up = torch.nn.Linear(rank, out_features, bias=False, dtype=dtype)
        ...         self.scaling = scaling
        ...     def forward(self, x):
        ...         return self.base(x) + self.scaling * self.up(self.down(x))
        >>> class PlainLayer(TorchLayer):
        ...     @classmethod
        ...     def cases(cls):
        ...         from phi3_lora_qa.strategies import linear_cases
        ...         return linear_cases(base_bias=False)
        ...     def make_module(self, case, dropout):
        ...         f, dtype = case.factors, getattr(torch, case.dtype)
        ...         return PlainLora(*case.weight.shape, f.rank, f.scaling, dtype)
        ...     def parameter(self, part):
        ...         names = {"weight": "base", "A": "down", "B": "up"}
        ...         return getattr(self.module, names[part]).weight
        >>> forward = {prop.id: prop for prop in all_properties()}["forward_adds_the_delta"]
        >>> run_property(forward, PlainLayer, examples=5).ratio <= 1
        True
    """

    module: "torch.nn.Module"

    def __init__(self, case: "LayerCase", dropout: float = 0.0) -> None:
        self.case = case
        self.module = self.make_module(case, dropout)
        self.fill("weight", case.weight)
        if case.base_bias is not None:
            self.fill("base_bias", case.base_bias)
        self.module.eval()

    @abstractmethod
    def make_module(self, case: "LayerCase", dropout: float) -> "torch.nn.Module":
        """Return the module; its weight need not be filled, its factors are as initialized."""

    @abstractmethod
    def parameter(self, part: str) -> "torch.Tensor":
        """Return a parameter: weight, base_bias, A, B, magnitude or bias."""

    def scaling(self) -> float:
        """Return the scaling that the layer uses."""
        return self.case.factors.scaling

    # Layouts: how the library stores the matrices that the properties compare.

    def to_parameter_layout(self, part: str, values: Array) -> Array:
        """Return values in the layout of the library's parameter; reshapes by default."""
        return values.reshape(self.parameter(part).shape)

    def from_parameter_layout(self, part: str, values: Array) -> Array:
        """Return the values of a parameter as the matrix or vector that the properties compare."""
        shapes = {"weight": self.case.weight.shape, "A": (len(values), -1), "B": (len(values), -1)}
        return values.reshape(shapes.get(part, (-1,)))

    def to_module_input(self, x: Array) -> "torch.Tensor":
        """Return inputs (batch, in) as the module takes them."""
        return to_tensor(x, self.case.dtype, self.parameter("weight").device)

    # Layer

    @classmethod
    def build(cls, case: "LayerCase") -> Self:
        """Build the module and fill in the case's factors."""
        return cls._filled(case, 0.0)

    @classmethod
    def build_with_dropout(cls, case: "LayerCase", rate: float) -> Self:
        """Build the module with dropout, and fill in the case's factors."""
        return cls._filled(case, rate)

    @classmethod
    def _filled(cls, case: "LayerCase", dropout: float) -> Self:
        built = cls(case, dropout)
        f = case.factors
        for part, values in (("A", f.A), ("B", f.B), ("magnitude", f.magnitude), ("bias", f.bias)):
            if values is not None:
                built.fill(part, values)
        return built

    @classmethod
    def build_initialized(cls, case: "LayerCase") -> Self:
        """Build the module with the factors that the library initializes."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(0)
            return cls(case)

    def fill(self, part: str, values: Array) -> None:
        """Write values into the parameter of a part.

        Raises:
            InputError: The layer has no such parameter.
        """
        try:
            tensor = self.parameter(part)
        except (KeyError, AttributeError) as error:
            raise InputError(
                f"{type(self).__name__} has no parameter {part!r} ({error}); return it from "
                "parameter(), or let cases() draw layers without it"
            ) from error
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensor.data = to_tensor(self.to_parameter_layout(part, values), dtype, tensor.device)

    def read(self, part: str) -> Array:
        """Return the values of a part."""
        return self.from_parameter_layout(part, to_float64(self.parameter(part)))

    def factors(self) -> Factors:
        """Return the module's factors."""
        f = self.case.factors
        return Factors(
            A=self.read("A"),
            B=self.read("B"),
            scaling=self.scaling(),
            magnitude=None if f.magnitude is None else self.read("magnitude"),
            bias=None if f.bias is None else self.read("bias"),
        )

    def weight(self) -> Array:
        """Return the base's weight."""
        return self.read("weight")

    def forward(self, x: Array) -> Array:
        """Return the module's outputs (batch, out)."""
        import torch

        with torch.no_grad():
            return to_float64(self.module(self.to_module_input(x))).reshape(len(x), -1)

    def gradients(self, x: Array, g: Array) -> Gradients:
        """Return the gradients of one backward pass from g."""
        self.train()
        self.module.zero_grad(set_to_none=True)
        y = self.module(self.to_module_input(x))
        y.backward(gradient=to_tensor(g, self.case.dtype, y.device).reshape(y.shape))
        self.module.eval()
        f = self.case.factors
        return Gradients(
            A=self._gradient("A"),
            B=self._gradient("B"),
            magnitude=None if f.magnitude is None else self._gradient("magnitude"),
            bias=None if f.bias is None else self._gradient("bias"),
            frozen=tuple(n for n, p in self.base_parameters() if p.grad is not None),
        )

    def train(self) -> None:
        """Switch to training mode."""
        self.module.train()

    def eval(self) -> None:
        """Switch to eval mode."""
        self.module.eval()

    def trainable_base_parameters(self) -> tuple[str, ...]:
        """Return the base's parameters that require a gradient."""
        return tuple(name for name, p in self.base_parameters() if p.requires_grad)

    def output_dtype(self, x: Array, dtype: str) -> str:
        """Return the output's dtype."""
        return str(self.module(self.to_module_input(x)).dtype).removeprefix("torch.")

    def base_parameters(self) -> Iterator[tuple[str, "torch.nn.Parameter"]]:
        """Yield the base's own parameters by name: those without ``lora`` in their names."""
        return ((n, p) for n, p in self.module.named_parameters() if "lora" not in n.lower())

    def _gradient(self, part: str) -> Array | None:
        found = self.parameter(part).grad
        return None if found is None else self.from_parameter_layout(part, to_float64(found))
