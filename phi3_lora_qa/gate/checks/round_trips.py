"""Checkpoint stage, saving and loading: by every path that PEFT and transformers offer.

Each check saves the attached adapter into a private folder and loads it from there, onto a second
module tree over the base's own tensors. So the base is in memory once, whatever is loaded.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phi3_lora_qa.adapter.folder import CONFIG, PICKLED_WEIGHTS, WEIGHTS, AdapterFolder
from phi3_lora_qa.adapter.tensor_names import PREFIX, Part
from phi3_lora_qa.errors import escape
from phi3_lora_qa.gate.adapter_factors import weights_of
from phi3_lora_qa.gate.bench import Bench
from phi3_lora_qa.gate.check import Check, CheckFailedError, Held, check_of
from phi3_lora_qa.models.tensor_conversion import to_float64

if TYPE_CHECKING:
    from torch import Tensor

FIRST, SECOND = "first", "second"
MEND_PEFT = "train, save and serve with one version of peft, one that passes this check"
MEND_TRANSFORMERS = "load the adapter with peft.PeftModel.from_pretrained, which holds it as saved"


def checks() -> tuple[Check, ...]:
    """Return the checks on saving and loading."""
    return tuple(
        check_of("checkpoint", function)
        for function in (
            saved_and_loaded_is_bit_exact,
            saving_again_is_byte_stable,
            another_name_changes_nothing,
            two_adapters_are_kept_apart,
            transformers_loads_the_same,
        )
    )


def saved_and_loaded_is_bit_exact(bench: Bench) -> Held:
    """What PEFT saves again, as safetensors and as a pickle, holds the same tensors.

    Values are compared in the dtype that PEFT holds them in. Copies of the base's own tables are
    left out: whether PEFT writes them is an option of saving. The pickle is our own, and read
    without running anything.
    """
    with saved(bench.tuned) as folder:
        again = weights_of(AdapterFolder.open(folder))
        count = _require_as_on_file(bench, again.tensors, again.tensor, f"saving {WEIGHTS}")
    with saved(bench.tuned, safe_serialization=False) as folder:
        import torch

        pickled = torch.load(folder / PICKLED_WEIGHTS, map_location="cpu", weights_only=True)
        _require_as_on_file(
            bench, pickled, lambda name: to_float64(pickled[name]), f"saving {PICKLED_WEIGHTS}"
        )
    return Held(
        message=f"{count} tensors came back value for value from {WEIGHTS} and {PICKLED_WEIGHTS}"
    )


def saving_again_is_byte_stable(bench: Bench) -> Held:
    """Saved, loaded and saved once more, the weights are the same bytes, the config the same JSON.

    Lists in which PEFT keeps a set are compared as sets.
    """
    act = "saving, loading and saving again"
    with (
        saved(bench.tuned) as first,
        saved(_attached(bench, first, act)) as second,
    ):
        before, after = ((folder / WEIGHTS).read_bytes() for folder in (first, second))
        if before != after:
            once, twice = (weights_of(AdapterFolder.open(folder)) for folder in (first, second))
            _require_same_names(once.tensors, twice.tensors, act)
            for name in once.tensors:
                _require_same_values(once.tensor(name), twice.tensor(name), name, act)
            raise CheckFailedError(
                f"{act} changes the header of {WEIGHTS}: the tensors' order, dtypes or metadata",
                MEND_PEFT,
            )
        one, two = (_config(folder) for folder in (first, second))
        if changed := sorted(key for key in one.keys() | two if one.get(key) != two.get(key)):
            raise CheckFailedError(
                f"{act} changes {changed[0]} in {CONFIG} from {one.get(changed[0])!r} to "
                f"{two.get(changed[0])!r}",
                MEND_PEFT,
                {"fields": changed},
            )
    return Held(message=f"{act} gives the same {len(before)} bytes and the same {CONFIG}")


def another_name_changes_nothing(bench: Bench) -> Held:
    """Under another name the adapter holds the same tensors and gives the same logits to the bit.

    PEFT saves a named adapter into a folder of its name; from there it is loaded again.
    """
    act = f"loading it under the name {FIRST!r}"
    expected = _adapter(bench.tuned)
    with saved(bench.tuned) as folder:
        named = _attached(bench, folder, act, FIRST)
        _require_same_tensors(expected, _adapter(named, FIRST), act)
        _require_same_logits(bench, named, act)
        with saved(named) as parent:
            del named  # one adapter at a time beside the one on the bench
            _require_in_subfolder(bench, parent, FIRST, expected)
    return Held(
        message=f"under another name, and from the folder {FIRST}/ that PEFT makes for it, "
        f"{len(expected)} tensors and the logits are the same to the bit"
    )


def two_adapters_are_kept_apart(bench: Bench) -> Held:
    """A second adapter in the model, this one's negative, changes neither it nor what is saved.

    Saved together, each lies in a folder of its own, and each folder gives back its own.
    """
    if only := _only_alone(bench):
        return Held(message=f"not applicable: {only}")
    act = "adding a second adapter beside it"
    expected = _adapter(bench.tuned)
    # Not A as well: the product of two negatives is the same update.
    firsts = (f".{Part.A}", f".{Part.EMBEDDING_A}")
    opposite = {n: t if n.endswith(firsts) else -t for n, t in expected.items()}
    with saved(bench.tuned) as folder:
        both = _attached(bench, folder, act, FIRST)
        _write_weights(opposite, folder)
        with _must_load(act):
            both.load_adapter(str(folder), SECOND, torch_device="cpu")
    _require_same_tensors(expected, _adapter(both, FIRST), act)
    _require_same_tensors(opposite, _adapter(both, SECOND), "loading it second")
    _require_same_logits(bench, both, act)
    with saved(both) as parent:
        del both
        _require_in_subfolder(bench, parent, FIRST, expected)
        _require_in_subfolder(bench, parent, SECOND, opposite)
    return Held(
        message="with a second adapter beside it the logits are the same to the bit, and each is "
        f"saved into and loaded from a folder of its own ({FIRST}/, {SECOND}/)"
    )


def transformers_loads_the_same(bench: Bench) -> Held:
    """What transformers loads from the folder, as AutoModelForCausalLM does, is what PEFT loads.

    It is the private copy of the whole folder, with every file beside the adapter's: a file that
    transformers takes and PEFT does not would show. transformers 5.23 loses DoRA's magnitudes: it
    looks for them under a name that PEFT does not use, and goes on with those of an untrained
    adapter. That is said, and not held against the adapter.
    """
    from importlib.metadata import version

    from phi3_lora_qa.models.attach import shared_copy

    act = f"transformers {version('transformers')}'s load_adapter"
    expected = _adapter(bench.tuned)
    model = shared_copy(bench.run.base(bench).model)
    with _must_load(act, MEND_TRANSFORMERS):
        model.load_adapter(str(bench.folder.path), adapter_kwargs={"local_files_only": True})
    found = {PREFIX + name: tensor for name, tensor in _adapter(model).items()}
    _require_same_names(expected, found, act)
    # On a base of low precision PEFT keeps factors in float32, transformers in the base's dtype.
    there = {name: tensor.to(found[name].dtype) for name, tensor in expected.items()}
    if bench.config.use_dora and (lost := _changed_magnitudes(there, found)):
        return Held(
            message=f"{act} (AutoModelForCausalLM) loses {len(lost)} of DoRA's magnitudes and "
            f"answers differently, which is no fault of the adapter; {MEND_TRANSFORMERS}",
            measured={"lost": lost},
        )
    _require_same_tensors(there, found, act)
    if any(there[name].dtype != tensor.dtype for name, tensor in expected.items()):
        return Held(
            message=f"{act} gives the same {len(found)} tensors, rounded to the base's dtype"
        )
    _require_same_logits(bench, model.eval(), act)
    return Held(message=f"{act} gives the same {len(found)} tensors and logits, to the bit")


def _only_alone(bench: Bench) -> str:
    """Why PEFT 0.21 cannot hold a second such adapter; empty where it can."""
    if bench.config.bias != "none":
        return f"with bias={bench.config.bias!r} PEFT takes one adapter only"
    tied = bench.run.base(bench).model.config.tie_word_embeddings
    if bench.config.ensure_weight_tying and bench.config.modules_to_save and tied:
        return "of a second adapter with ensure_weight_tying PEFT drops the tied head"
    return ""


@contextmanager
def saved(model: Any, **options: Any) -> Iterator[Path]:
    """Save a PEFT model's adapters into a private folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder:
        model.save_pretrained(folder, save_embedding_layers=False, **options)
        yield Path(folder)


@contextmanager
def _must_load(act: str, mend: str = MEND_PEFT) -> Iterator[None]:
    """Say which round trip it was, whatever a library raises on what it cannot load."""
    try:
        yield
    except Exception as error:
        raise CheckFailedError(
            f"{act} fails ({type(error).__name__}: {escape(str(error), 300)})", mend
        ) from error


def _attached(bench: Bench, folder: Path, act: str, name: str = "default") -> Any:
    from phi3_lora_qa.models.attach import attach

    with _must_load(act):
        return attach(bench.run.base(bench).model, folder, name)


def _adapter(model: Any, name: str = "default") -> "dict[str, Tensor]":
    from phi3_lora_qa.models.attach import adapter_tensors

    return adapter_tensors(model, name)


def _write_weights(tensors: "Mapping[str, Tensor]", folder: Path) -> None:
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})


def _config(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for name in ("target_modules", "exclude_modules"):
        if isinstance(fields.get(name), list):
            fields[name] = sorted(fields[name])
    return fields


def _require_in_subfolder(
    bench: Bench, parent: Path, name: str, expected: "Mapping[str, Tensor]"
) -> None:
    """Load one of several saved adapters by its folder's name, as PEFT's users do."""
    from peft import PeftModel

    from phi3_lora_qa.models.attach import shared_copy

    act = f"loading it with subfolder={name!r}"
    with _must_load(act):
        model = PeftModel.from_pretrained(
            shared_copy(bench.run.base(bench).model),
            str(parent),
            subfolder=name,
            torch_device="cpu",
        )
    _require_same_tensors(expected, _adapter(model), act)


def _changed_magnitudes(
    expected: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> list[str]:
    """The magnitudes that differ; none where anything else does too."""
    import torch

    changed = sorted(n for n in expected if not torch.equal(expected[n], found[n]))
    return changed if all(name.endswith(f".{Part.MAGNITUDE}") for name in changed) else []


def _require_as_on_file(
    bench: Bench, names: Iterable[str], read: Callable[[str], Any], act: str
) -> int:
    import torch

    original, held = weights_of(bench.folder), _adapter(bench.tuned)
    own = [name for name in original.tensors if not name.endswith(f".{Part.BASE_WEIGHT}")]
    _require_same_names(own, names, act)
    for name in own:
        value = torch.from_numpy(original.tensor(name)).to(held[name].dtype)
        _require_same_values(to_float64(value), read(name), name, act)
    return len(own)


def _require_same_tensors(
    expected: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]", act: str
) -> None:
    _require_same_names(expected, found, act)
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype:
            raise CheckFailedError(
                f"{act} makes {name} {found[name].dtype}, not {tensor.dtype}", MEND_PEFT
            )
        _require_same_values(to_float64(tensor), to_float64(found[name]), name, act)


def _require_same_names(expected: Iterable[str], found: Iterable[str], act: str) -> None:
    before, after = set(expected), set(found)
    if before != after:
        lost, new = sorted(before - after), sorted(after - before)
        words = [f"loses {lost[0]}"] if lost else []
        words += [f"adds {new[0]}"] if new else []
        raise CheckFailedError(
            f"{act} {' and '.join(words)} ({len(lost)} lost, {len(new)} added)",
            MEND_PEFT,
            {"lost": lost[:20], "added": new[:20]},
        )


def _require_same_values(expected: Any, found: Any, name: str, act: str) -> None:
    if np.array_equal(expected, found):
        return
    by = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else np.inf
    raise CheckFailedError(
        f"{act} changes {name} by up to {by:.3g}", MEND_PEFT, {"tensor": name, "difference": by}
    )


def _require_same_logits(bench: Bench, model: Any, act: str) -> None:
    expected, found = (bench.run.logits(bench, m) for m in (bench.tuned, model))
    if not np.array_equal(expected, found, equal_nan=True):
        by = float(np.max(np.abs(expected - found)))
        raise CheckFailedError(
            f"{act} changes the logits on the probe by up to {by:.3g}, though every tensor is the "
            "same: a scaling, a setting or the active adapter differs",
            MEND_PEFT,
            {"difference": by},
        )
