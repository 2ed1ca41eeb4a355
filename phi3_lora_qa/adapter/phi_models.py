"""The models of Phi-3's architecture: their sizes, positions, chat format and stop tokens.

The facts are those of the config.json, generation_config.json and model card of each model on the
Hugging Face hub.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phi3_lora_qa.adapter.architecture import PHI3


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a model marks turns.

    Attributes:
        user: What precedes a user's turn.
        assistant: What precedes an answer.
        end: The token that ends every turn.
        stop_tokens: The ids in generation_config.json at which an answer ends.
    """

    user: str
    assistant: str
    end: str
    stop_tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PhiModel:
    """One published model. The fields are those of its config.json.

    ``window`` is ``sliding_window``, ``rotary`` is ``partial_rotary_factor``, ``context`` is
    ``max_position_embeddings``, and ``switch`` is ``original_max_position_embeddings``: a model
    with LongRoPE uses other frequencies beyond it.
    """

    name: str
    id: str
    about: str
    chat: ChatFormat
    vocabulary: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    key_heads: int
    context: int
    switch: int
    window: int | None
    theta: float = 10_000.0
    rotary: float = 1.0
    longrope: bool = False
    tied: bool = False

    @property
    def head_size(self) -> int:
        """The size of one attention head."""
        return self.hidden // self.heads

    def config(self) -> Mapping[str, object]:
        """Return the content of a config.json; the factors of LongRoPE are placeholders."""
        half = int(self.head_size * self.rotary) // 2
        factors = {"short_factor": [1.0] * half, "long_factor": [2.0] * half, "type": "longrope"}
        return {
            "model_type": PHI3.model_type,
            "architectures": [PHI3.class_name],
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "max_position_embeddings": self.context,
            "original_max_position_embeddings": self.switch,
            "sliding_window": self.window,
            "rope_theta": self.theta,
            "partial_rotary_factor": self.rotary,
            "rope_scaling": factors if self.longrope else None,
            "tie_word_embeddings": self.tied,
        }


_PHI3_CHAT = ChatFormat(
    user="<|user|>\n", assistant="<|assistant|>\n", end="<|end|>", stop_tokens=(32000, 32001, 32007)
)
_PHI4_CHAT = ChatFormat(
    user="<|im_start|>user<|im_sep|>",
    assistant="<|im_start|>assistant<|im_sep|>",
    end="<|im_end|>",
    stop_tokens=(100265,),
)
_PHI4_MINI_CHAT = ChatFormat(
    user="<|user|>", assistant="<|assistant|>", end="<|end|>", stop_tokens=(200020, 199999)
)


def _phi3_mini(name: str, model: str, about: str, *, long: bool) -> PhiModel:
    return PhiModel(
        name=name, id=f"microsoft/{model}", about=about, chat=_PHI3_CHAT, vocabulary=32064,
        hidden=3072, mlp=8192, layers=32, heads=32, key_heads=32,
        context=131072 if long else 4096, switch=4096, window=262144 if long else 2047,
        longrope=long,
    )  # fmt: skip


def _phi3_medium(name: str, model: str, about: str, *, long: bool) -> PhiModel:
    return PhiModel(
        name=name, id=f"microsoft/{model}", about=about, chat=_PHI3_CHAT, vocabulary=32064,
        hidden=5120, mlp=17920, layers=40, heads=40, key_heads=10,
        context=131072 if long else 4096, switch=4096, window=131072 if long else 2047,
        longrope=long,
    )  # fmt: skip


def _phi4(name: str, model: str, about: str, *, context: int, theta: float) -> PhiModel:
    return PhiModel(
        name=name, id=f"microsoft/{model}", about=about, chat=_PHI4_CHAT, vocabulary=100352,
        hidden=5120, mlp=17920, layers=40, heads=40, key_heads=10,
        context=context, switch=context, window=None, theta=theta,
    )  # fmt: skip


def _phi4_mini(name: str, model: str, about: str) -> PhiModel:
    return PhiModel(
        name=name, id=f"microsoft/{model}", about=about, chat=_PHI4_MINI_CHAT, vocabulary=200064,
        hidden=3072, mlp=8192, layers=32, heads=24, key_heads=8,
        context=131072, switch=4096, window=262144, rotary=0.75, longrope=True, tied=True,
    )  # fmt: skip


PHI_MODELS = (
    _phi3_mini("phi3-mini-4k", "Phi-3-mini-4k-instruct", "3.8 billion parameters", long=False),
    _phi3_mini(
        "phi3-mini-128k", "Phi-3-mini-128k-instruct", "3.8 billion, long context", long=True
    ),
    _phi3_mini("phi3.5-mini", "Phi-3.5-mini-instruct", "3.8 billion, long context", long=True),
    _phi3_medium("phi3-medium-4k", "Phi-3-medium-4k-instruct", "14 billion parameters", long=False),
    _phi3_medium(
        "phi3-medium-128k", "Phi-3-medium-128k-instruct", "14 billion, long context", long=True
    ),
    _phi4("phi4", "phi-4", "14 billion parameters", context=16384, theta=250_000.0),
    _phi4(
        "phi4-reasoning", "Phi-4-reasoning", "14 billion, reasoning", context=32768, theta=500_000.0
    ),
    _phi4(
        "phi4-reasoning-plus",
        "Phi-4-reasoning-plus",
        "14 billion, reasoning",
        context=32768,
        theta=500_000.0,
    ),
    _phi4_mini("phi4-mini", "Phi-4-mini-instruct", "3.8 billion, long context"),
    _phi4_mini("phi4-mini-reasoning", "Phi-4-mini-reasoning", "3.8 billion, reasoning"),
)
"""The models of Phi-3's architecture, which Phi-3, Phi-3.5 and Phi-4 share."""

OTHER_ARCHITECTURES: Mapping[str, str] = {
    "phi3small": "Phi-3-small",
    "phi3_v": "Phi-3-vision",
    "phimoe": "Phi-3.5-MoE",
    "phi4mm": "Phi-4-multimodal",
    "phi4_multimodal": "Phi-4-multimodal",
    "phi4flash": "Phi-4-mini-flash-reasoning",
    "phi": "Phi-1.5 or Phi-2",
}
"""Models of the Phi name with another architecture, by model type."""
