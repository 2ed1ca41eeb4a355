"""Checkpoint stage, round trips: saving and loading by every path of PEFT and transformers.

Each check saves the attached adapter into a private folder and loads it onto a second module tree
that shares the base's tensors. So the base is in memory only once.
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
from phi3_lora_qa.gate.adapter_factors import open_weights
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.check import (
    Check,
    CheckOutcome,
    StopCheckError,
    checks_of,
    failed,
    passed,
)
from phi3_lora_qa.models.tensor_conversion import to_float64

if TYPE_CHECKING:
    from torch import Tensor

FIRST, SECOND = "first", "second"
FIX_PEFT = "train, save and serve with one version of peft that passes this check"
FIX_TRANSFORMERS = "load the adapter with peft.PeftModel.from_pretrained, which keeps it as saved"


def checks() -> tuple[Check, ...]:
    """Return the checks on saving and loading."""
    return checks_of(
        "checkpoint",
        saved_and_loaded_is_bit_exact,
        saving_again_is_byte_stable,
        another_name_changes_nothing,
        two_adapters_are_kept_apart,
        transformers_loads_the_same,
    )


def saved_and_loaded_is_bit_exact(session: AdapterSession) -> CheckOutcome:
    """Saved again by PEFT, as safetensors and as a pickle, the tensors are the same.

    Values are compared in the dtype in which PEFT keeps them. Copies of the base's tables are left
    out: saving has an option for them. The pickle is our own, and read without running code.
    """
    tuned = session.attach_adapter()
    with saved(tuned) as folder:
        again = open_weights(AdapterFolder.open(folder))
        act = f"saving {WEIGHTS}"
        if fault := _compare_with_file(session, again.tensors, again.tensor, act):
            return fault
    with saved(tuned, safe_serialization=False) as folder:
        import torch

        pickled = torch.load(folder / PICKLED_WEIGHTS, map_location="cpu", weights_only=True)
        act = f"saving {PICKLED_WEIGHTS}"
        if fault := _compare_with_file(
            session, pickled, lambda name: to_float64(pickled[name]), act
        ):
            return fault
    count = len(_own_tensors(session))
    return passed(f"{count} tensors came back value for value from {WEIGHTS} and {PICKLED_WEIGHTS}")


def saving_again_is_byte_stable(session: AdapterSession) -> CheckOutcome:
    """Saved, loaded and saved again, the weights are the same bytes, the config the same JSON.

    Lists that PEFT keeps as sets are compared as sets.
    """
    act = "saving, loading and saving again"
    with (
        saved(session.attach_adapter()) as first,
        saved(_attach(session, first, act)) as second,
    ):
        before, after = ((folder / WEIGHTS).read_bytes() for folder in (first, second))
        if before != after:
            return _explain_other_bytes(first, second, act)
        one, two = (_config(folder) for folder in (first, second))
        if changed := sorted(key for key in one.keys() | two if one.get(key) != two.get(key)):
            return failed(
                f"{act} changes {changed[0]} in {CONFIG} from {one.get(changed[0])!r} to "
                f"{two.get(changed[0])!r}",
                FIX_PEFT,
                {"fields": changed},
            )
    return passed(f"{act} gives the same {len(before)} bytes and the same {CONFIG}")


def another_name_changes_nothing(session: AdapterSession) -> CheckOutcome:
    """Under another name the adapter has the same tensors, and the same logits bit for bit.

    PEFT saves a named adapter into a folder of that name; it is loaded again from there.
    """
    act = f"loading it under the name {FIRST!r}"
    tuned = session.attach_adapter()
    expected = _adapter(tuned)
    with saved(tuned) as folder:
        named = _attach(session, folder, act, FIRST)
        if fault := _compare_tensors(expected, _adapter(named, FIRST), act) or _compare_logits(
            session, named, act
        ):
            return fault
        with saved(named) as parent:
            del named  # one more adapter at a time
            if fault := _compare_in_subfolder(session, parent, FIRST, expected):
                return fault
    return passed(
        f"under another name, and from the folder {FIRST}/ that PEFT makes for it, "
        f"{len(expected)} tensors and the logits are the same bit for bit"
    )


def two_adapters_are_kept_apart(session: AdapterSession) -> CheckOutcome:
    """A second adapter in the model, this one's negative, changes neither it nor what is saved.

    Saved together, each is in its own folder, and is loaded from there unchanged.
    """
    if only := _only_alone(session):
        return passed(f"not applicable: {only}")
    act = "adding a second adapter"
    tuned = session.attach_adapter()
    expected = _adapter(tuned)
    # A keeps its sign: the product of two negatives is the same update.
    firsts = (f".{Part.A}", f".{Part.EMBEDDING_A}")
    opposite = {n: t if n.endswith(firsts) else -t for n, t in expected.items()}
    with saved(tuned) as folder:
        both = _attach(session, folder, act, FIRST)
        _write_weights(opposite, folder)
        with _must_load(act):
            both.load_adapter(str(folder), SECOND, torch_device="cpu")
    if fault := (
        _compare_tensors(expected, _adapter(both, FIRST), act)
        or _compare_tensors(opposite, _adapter(both, SECOND), "loading it second")
        or _compare_logits(session, both, act)
    ):
        return fault
    with saved(both) as parent:
        del both
        if fault := (
            _compare_in_subfolder(session, parent, FIRST, expected)
            or _compare_in_subfolder(session, parent, SECOND, opposite)
        ):
            return fault
    return passed(
        "with a second adapter in the model the logits are the same bit for bit, and each adapter "
        f"is saved into and loaded from its own folder ({FIRST}/, {SECOND}/)"
    )


def transformers_loads_the_same(session: AdapterSession) -> CheckOutcome:
    """transformers, as AutoModelForCausalLM does, loads the same adapter from the folder as PEFT.

    It loads from the private copy of the whole folder, with every other file in it: a file that
    transformers uses and PEFT does not would show. transformers 5.23 loses DoRA's magnitudes: it
    looks for them under a name that PEFT does not use, and continues with those of an untrained
    adapter. That is reported, and is not counted against the adapter.
    """
    from importlib.metadata import version

    from phi3_lora_qa.models.attach import shared_copy
    from phi3_lora_qa.models.peft_config import read_lora_config
    from phi3_lora_qa.models.peft_config_patterns import has_unmatched_patterns

    act = f"transformers {version('transformers')}'s load_adapter"
    expected = _adapter(session.attach_adapter())
    model = shared_copy(session.load_base().model)
    folder = session.adapter.copy
    # Otherwise transformers reads the config itself, as a user's program does.
    own: Any = read_lora_config(folder) if has_unmatched_patterns(session.adapter.folder) else None
    with _must_load(act, FIX_TRANSFORMERS):
        model.load_adapter(str(folder), peft_config=own, adapter_kwargs={"local_files_only": True})
    found = {PREFIX + name: tensor for name, tensor in _adapter(model).items()}
    if fault := _compare_names(expected, found, act):
        return fault
    # On a base of low precision PEFT keeps factors in float32, transformers in the base's dtype.
    cast = {name: tensor.to(found[name].dtype) for name, tensor in expected.items()}
    if session.adapter.config.use_dora and (lost := _changed_magnitudes(cast, found)):
        return passed(
            f"{act} (AutoModelForCausalLM) loses {len(lost)} of DoRA's magnitudes and answers "
            f"differently, which is not a fault of the adapter; {FIX_TRANSFORMERS}",
            {"lost": lost},
        )
    if fault := _compare_tensors(cast, found, act):
        return fault
    if any(cast[name].dtype != tensor.dtype for name, tensor in expected.items()):
        return passed(f"{act} gives the same {len(found)} tensors, rounded to the base's dtype")
    return _compare_logits(session, model.eval(), act) or passed(
        f"{act} gives the same {len(found)} tensors and logits, bit for bit"
    )


def _only_alone(session: AdapterSession) -> str:
    """Return why PEFT 0.21 cannot load a second such adapter, or ``""``."""
    config = session.adapter.config
    if config.bias != "none":
        return f"with bias={config.bias!r} PEFT takes one adapter only"
    tied = session.load_base().model.config.tie_word_embeddings
    if config.ensure_weight_tying and config.modules_to_save and tied:
        return "PEFT drops the tied head of a second adapter with ensure_weight_tying"
    return ""


@contextmanager
def saved(model: Any, **options: Any) -> Iterator[Path]:
    """Save a PEFT model's adapters into a private folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="phi3-lora-qa-") as folder:
        model.save_pretrained(folder, save_embedding_layers=False, **options)
        yield Path(folder)


@contextmanager
def _must_load(act: str, fix: str = FIX_PEFT) -> Iterator[None]:
    """Fail the check with the name of the round trip if a library cannot load what was saved."""
    try:
        yield
    except Exception as error:
        found = f"{act} fails ({type(error).__name__}: {escape(str(error), 300)})"
        raise StopCheckError(failed(found, fix)) from error


def _attach(session: AdapterSession, folder: Path, act: str, name: str = "default") -> Any:
    from phi3_lora_qa.models.attach import attach

    with _must_load(act):
        return attach(session.load_base().model, folder, name)


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


def _explain_other_bytes(first: Path, second: Path, act: str) -> CheckOutcome:
    """Return the outcome for two weights files that differ: names, then values, then the header."""
    once, twice = (open_weights(AdapterFolder.open(folder)) for folder in (first, second))
    if fault := _compare_names(once.tensors, twice.tensors, act):
        return fault
    for name in once.tensors:
        if fault := _compare_values(once.tensor(name), twice.tensor(name), name, act):
            return fault
    return failed(
        f"{act} changes the header of {WEIGHTS}: the tensors' order, dtypes or metadata", FIX_PEFT
    )


def _compare_in_subfolder(
    session: AdapterSession, parent: Path, name: str, expected: "Mapping[str, Tensor]"
) -> CheckOutcome | None:
    """Load one of several saved adapters by its folder's name, as PEFT's users do."""
    from peft import PeftModel

    from phi3_lora_qa.models.attach import shared_copy

    act = f"loading it with subfolder={name!r}"
    with _must_load(act):
        model = PeftModel.from_pretrained(
            shared_copy(session.load_base().model), str(parent), subfolder=name, torch_device="cpu"
        )
    return _compare_tensors(expected, _adapter(model), act)


def _changed_magnitudes(
    expected: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> list[str]:
    """Return the magnitudes that differ; none if anything else differs, too."""
    import torch

    changed = sorted(n for n in expected if not torch.equal(expected[n], found[n]))
    return changed if all(name.endswith(f".{Part.MAGNITUDE}") for name in changed) else []


def _own_tensors(session: AdapterSession) -> list[str]:
    """Return the names of the tensors in the file, without copies of the base's tables."""
    names = session.adapter.weights.tensors
    return [name for name in names if not name.endswith(f".{Part.BASE_WEIGHT}")]


def _compare_with_file(
    session: AdapterSession, names: Iterable[str], read: Callable[[str], Any], act: str
) -> CheckOutcome | None:
    import torch

    original, attached = session.adapter.weights, _adapter(session.attach_adapter())
    own = _own_tensors(session)
    if fault := _compare_names(own, names, act):
        return fault
    for name in own:
        value = torch.from_numpy(original.tensor(name)).to(attached[name].dtype)
        if fault := _compare_values(to_float64(value), read(name), name, act):
            return fault
    return None


def _compare_tensors(
    expected: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]", act: str
) -> CheckOutcome | None:
    if fault := _compare_names(expected, found, act):
        return fault
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype:
            return failed(f"{act} makes {name} {found[name].dtype}, not {tensor.dtype}", FIX_PEFT)
        if fault := _compare_values(to_float64(tensor), to_float64(found[name]), name, act):
            return fault
    return None


def _compare_names(expected: Iterable[str], found: Iterable[str], act: str) -> CheckOutcome | None:
    before, after = set(expected), set(found)
    if before == after:
        return None
    lost, new = sorted(before - after), sorted(after - before)
    words = [f"loses {lost[0]}"] if lost else []
    words += [f"adds {new[0]}"] if new else []
    return failed(
        f"{act} {' and '.join(words)} ({len(lost)} lost, {len(new)} added)",
        FIX_PEFT,
        {"lost": lost[:20], "added": new[:20]},
    )


def _compare_values(expected: Any, found: Any, name: str, act: str) -> CheckOutcome | None:
    if np.array_equal(expected, found):
        return None
    by = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else np.inf
    return failed(
        f"{act} changes {name} by up to {by:.3g}", FIX_PEFT, {"tensor": name, "difference": by}
    )


def _compare_logits(session: AdapterSession, model: Any, act: str) -> CheckOutcome | None:
    expected, found = map(session.compute_probe_logits, (session.attach_adapter(), model))
    if np.array_equal(expected, found, equal_nan=True):
        return None
    by = float(np.max(np.abs(expected - found)))
    return failed(
        f"{act} changes the logits on the probe by up to {by:.3g}, though every tensor is the "
        "same: a scaling, a setting or the active adapter differs",
        FIX_PEFT,
        {"difference": by},
    )
