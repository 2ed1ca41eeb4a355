"""The family of a model, by its hub id, by a path, or by its class in transformers."""

import re
from dataclasses import dataclass

from phi3_lora_qa.adapter.architecture import ARCHITECTURES
from phi3_lora_qa.adapter.phi_family import is_phi_name


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """A family of models.

    Attributes:
        name: The name that people use.
        model_type: Its architecture in the table, or empty if the table lacks it.
    """

    name: str
    model_type: str = ""

    @property
    def is_phi(self) -> bool:
        """Whether it is the family that this tool is for."""
        return self.model_type == PHI.model_type


UNVERSIONED_QWEN = "Qwen"
"""The name without a version: the modules' names show whether it is the first Qwen."""

PHI = ModelFamily(name="Phi-3", model_type="phi3")

_OTHER_PHI = (
    (r"phi[-_ ]?3(\.5)?[-_ ]?small", "Phi-3-small"),
    (r"phi[-_ ]?3\.5[-_ ]?moe|phi[-_]?moe|phi[-_ ]?(mini|tiny)[-_ ]?moe", "Phi-3.5-MoE"),
    (r"phi[-_ ]?3(\.5)?[-_ ]?v(ision)?\b", "Phi-3-vision"),
    (r"phi[-_ ]?4[-_ ]?(multimodal|mm\b)", "Phi-4-multimodal"),
    (r"phi[-_ ]?4[-_ ]?mini[-_ ]?flash", "Phi-4-mini-flash"),
)
_FAMILIES = (
    (r"phi[-_ ]?1[._]5(?![\d.])", "Phi-1.5", ""),
    (r"phi[-_ ]?1(?![\d.])", "Phi-1", ""),
    (r"phi[-_ ]?2(?![\d.])", "Phi-2", ""),
    (r"distill-qwen", "Qwen2", "qwen2"),
    (r"distill-llama", "Llama", "llama"),
    (r"qwen[-_]?3[._]?5|qwen[-_]?3-?(vl|omni|next|asr)|qwen3.*a\d+b", "Qwen3 of another kind", ""),
    (r"qwen[-_]?2([._]?5)?-?(vl|audio|omni)|qwen-?(vl|audio)", "Qwen-VL", ""),
    (r"qwen[-_]?3", "Qwen3", "qwen3"),
    (r"qwen[-_]?(2|1[._]5)|qwq|qvq", "Qwen2", "qwen2"),
    (r"qwen", UNVERSIONED_QWEN, ""),
    (r"codegemma", "Gemma", "gemma"),
    (r"recurrentgemma|paligemma|t5-?gemma|gemma[-_]?3n|gemma[-_]?4", "Gemma of another kind", ""),
    (r"gemma[-_]?3|medgemma|functiongemma|embeddinggemma", "Gemma 3", "gemma3_text"),
    (r"gemma[-_]?2(?!b)|shieldgemma", "Gemma 2", "gemma2"),
    (r"gemma", "Gemma", "gemma"),
    (r"mixtral", "Mixtral", ""),
    (r"pixtral|voxtral|mistral-small-3\.[1-9]|ministral-3-", "Mistral of another kind", ""),
    (r"zephyr|openhermes-2\.5|neural-chat|starling|openchat", "Mistral", "mistral"),
    (r"mistral|ministral|devstral|codestral", "Mistral", "mistral"),
    (r"llama[-_]?4|llama.*vision|mllama|llava", "Llama of another kind", ""),
    (r"(?:tiny|code|open|meta|sheared|deci)?[-_]?llama(?![-_]?(factory|adapter)|\.cpp|fied)",
     "Llama", "llama"),
    (r"vicuna|alpaca|guanaco|wizardlm|solar-10|yi-(\d|coder)|falcon-?3|deepseek-(llm|coder-\d)",
     "Llama", "llama"),
    (r"deepseek", "DeepSeek", ""),
    (r"falcon", "Falcon", ""),
    (r"bloomz?", "BLOOM", ""),
    (r"mpt-", "MPT", ""),
    (r"opt-(\d|iml)", "OPT", ""),
    (r"pythia|gpt[-_]?neox|open-calm|redpajama|dolly|stablelm-(base|tuned)", "GPT-NeoX", ""),
    (r"gpt[-_]?oss", "gpt-oss", ""),
    (r"gpt[-_]?j\b", "GPT-J", ""),
    (r"gpt[-_]?neo", "GPT-Neo", ""),
    (r"gpt-?2|distilgpt|dialogpt", "GPT-2", ""),
    (r"codegen", "CodeGen", ""),
    (r"starcoder-?2", "StarCoder2", ""),
    (r"starcoder|santacoder|bigcode", "StarCoder", ""),
    (r"chatglm|(?<![a-z])glm-?\d", "ChatGLM", ""),
    (r"baichuan", "Baichuan", ""),
    (r"internlm-?[23]", "InternLM2", ""),
    (r"internlm", "InternLM", ""),
    (r"codet5|(?:flan|m|by|long|umt)-?t5|t5-|ul2", "T5", ""),
    (r"(?:distil|m)?bart(?![a-z])|pegasus|marian|opus-mt|nllb|m2m100",
     "a sequence-to-sequence model", ""),
    (r"whisper", "Whisper", ""),
    (r"wav2vec|hubert|musicgen", "a speech model", ""),
    (r"distilbert", "DistilBERT", ""),
    (r"roberta|deberta|electra|(?<![a-z])xlm|modernbert|[a-z]*bert(?![a-z])", "BERT", ""),
    (r"vit-|clip-|siglip|dino|blip|swin-|deit", "a vision model", ""),
    (r"stable-?diffusion|sdxl|sd-?turbo|flux|pixart|wan-?2|hunyuan-?video",
     "a diffusion model", ""),
    (r"hunyuan|hy-mt", "Hunyuan", ""),
    (r"command-r|aya-|c4ai", "Cohere", ""),
    (r"granite", "Granite", ""),
    (r"olmo", "OLMo", ""),
    (r"nemotron", "Nemotron", ""),
    (r"exaone", "EXAONE", ""),
    (r"minicpm", "MiniCPM", ""),
    (r"stablelm", "StableLM", ""),
    (r"mamba|jamba|rwkv|zamba|lfm2", "a state-space model", ""),
    (r"cosmos-reason", "Qwen3-VL", ""),
    (r"minimax|kimi|dbrx|grok|arctic|ernie|seed-oss|smolvlm|idefics", "another architecture", ""),
)  # fmt: skip
_TABLE = tuple(
    (re.compile(rf"(?<![a-z])(?:{pattern})"), ModelFamily(name=name, model_type=model_type))
    for pattern, name, model_type in (*((p, n, "") for p, n in _OTHER_PHI), *_FAMILIES)
)
_OTHER_PHI_COUNT = len(_OTHER_PHI)
_MAX_NAME = 512

_WITHOUT_NAME = re.compile(
    r"(checkpoint|step|epoch|iter|run|v)?[-_]?\d*|snapshots|[0-9a-f]{40}|(the[-_])?(final|merged|best|"
    r"last|latest|main|base|model|models|base[-_]model|output|outputs|hf|weights)([-_]?\d*|[-_]model)",
    re.IGNORECASE,
)
_CLASS = re.compile(
    r"([A-Za-z0-9]+?)(For[A-Z]\w*|LMHeadModel|DoubleHeadsModel|PreTrainedModel|TextModel|Model)",
    re.ASCII,
)
_NEUTRAL_CLASSES = ("Peft", "Auto", "PreTrained", "SentenceTransformer")
"""How the names of classes for any model start."""


def part_with_name(base_id: str) -> str:
    """Return the part of a hub id or a path that names the model.

    The parts at the end of a path that any model may have (``checkpoint-500``, ``merged``) are left
    out, and a folder of the hub's cache is read as the id.
    """
    parts = [part for part in re.split(r"[/\\]+", base_id[:_MAX_NAME]) if part]
    cached = [part for part in parts if part.startswith("models--")]
    if cached:
        return cached[-1].rpartition("--")[2]
    while len(parts) > 1 and _WITHOUT_NAME.fullmatch(parts[-1]):
        parts.pop()
    return parts[-1] if parts else ""


def family_of_id(base_id: str) -> ModelFamily | None:
    """Return the family that a hub id or a path names, or None if it names none.

    Example:
        >>> family_of_id("unsloth/Qwen2.5-7B-Instruct-bnb-4bit").model_type
        'qwen2'
        >>> family_of_id("/data/phi-3-mini/checkpoint-500").is_phi
        True
        >>> family_of_id("acme/helpdesk") is None
        True
    """
    name = part_with_name(base_id).lower()
    for pattern, family in _TABLE[:_OTHER_PHI_COUNT]:
        if pattern.search(name):
            return family
    if is_phi_name(name):
        return PHI
    return next((f for pattern, f in _TABLE[_OTHER_PHI_COUNT:] if pattern.search(name)), None)


def family_of_class(library: str, name: str) -> ModelFamily | None:
    """Return the family of a class of transformers, or None if any model may have that class.

    Args:
        library: The module, such as ``transformers.models.qwen2.modeling_qwen2``.
        name: The class, such as ``Qwen2ForCausalLM``.
    """
    parts = library[:_MAX_NAME].split(".")
    model_type = parts[2] if parts[:2] == ["transformers", "models"] and len(parts) > 2 else ""
    found = _CLASS.fullmatch(name[:_MAX_NAME])
    stem = found[1] if found else ""
    if stem.startswith(_NEUTRAL_CLASSES) and not model_type:
        return None
    by_class = {a.class_name.removesuffix("ForCausalLM"): a for a in ARCHITECTURES.values()}
    architecture = ARCHITECTURES.get(model_type) or by_class.get(stem)
    if architecture is not None:
        return ModelFamily(name=architecture.name, model_type=architecture.model_type)
    named = stem or model_type
    return ModelFamily(name=named) if named else None
