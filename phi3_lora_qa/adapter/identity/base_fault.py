"""Says that an adapter is for another base, or for another layout, than the one of the check."""

from dataclasses import dataclass

from phi3_lora_qa.adapter.architecture import ARCHITECTURES
from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import CONFIG, WEIGHTS
from phi3_lora_qa.adapter.identity.adapter_words import AdapterWords
from phi3_lora_qa.adapter.identity.base_of_adapter import BaseOfAdapter
from phi3_lora_qa.adapter.identity.model_names import family_of_id, part_with_name
from phi3_lora_qa.adapter.identity.module_layout import Layout
from phi3_lora_qa.adapter.phi_family import is_phi

FUSE = "phi3-lora-qa convert fuse ADAPTER --base BASE -o DIR"
_NAME = f"{CONFIG}: base_model_name_or_path"
_SUPPORTED = ", ".join(a.name for a in ARCHITECTURES.values())
_NOT_CAUSAL = ("SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")


@dataclass(frozen=True, kw_only=True)
class BaseFault:
    """Why an adapter does not fit the base of the check.

    Attributes:
        is_layout: Whether only the layout differs, and not the model.
        where: The place that shows it.
        message: What is wrong.
        fix: How to fix it.
    """

    is_layout: bool
    where: str
    message: str
    fix: str


def base_fault(
    words: AdapterWords, own: BaseOfAdapter, base: BaseFiles | None, *, any_base: bool
) -> BaseFault | None:
    """Return why an adapter does not fit the base; None if nothing speaks against it.

    Args:
        words: What the adapter says.
        own: Which base the adapter is for.
        base: The base of the check, if there is one.
        any_base: Whether the user accepts other bases than a Phi-3.
    """
    if base is not None:
        return _fault_with_base(words, own, base, any_base=any_base)
    return _fault_without_base(words, own, any_base=any_base)


def _fault_without_base(
    words: AdapterWords, own: BaseOfAdapter, *, any_base: bool
) -> BaseFault | None:
    layout = words.layout.layout
    if own.is_phi:
        is_fused = words.base_id.lower().startswith("microsoft/") or words.class_name.startswith(
            "Phi3"
        )
        if layout is Layout.SPLIT and is_fused:
            named = words.base_id or words.class_name
            return _split_layout(words, f"{named} has fused ones (qkv_proj, gate_up_proj)")
        return None
    if own.is_phi is None:
        if layout is not Layout.SPLIT or any_base:
            return None
        return BaseFault(
            is_layout=False,
            where=_NAME if words.base_id else WEIGHTS,
            message=f"nothing says that the adapter is for a Phi-3: {_joined(own)}, which is "
            "Llama's layout",
            fix="pass its base: --base DIR_OR_ID if that is a Phi-3 in Llama's layout, "
            f"{_any_base()} if it is another model",
        )
    has_layout = layout in (Layout.SPLIT, Layout.SHARED) or not words.layout.count
    supported = own.may_be_in_the_table and has_layout
    if any_base and supported:
        return None
    return _other_base(words, own, "not for a Phi-3", can_be_checked=supported)


def _fault_with_base(
    words: AdapterWords, own: BaseOfAdapter, base: BaseFiles, *, any_base: bool
) -> BaseFault | None:
    layout, theirs = words.layout, base.architecture
    base_is_phi = is_phi(base.config, family_name(base), base)
    against = f"not for the {'Phi-3' if base_is_phi else theirs.name} of this check"
    is_supported = own.may_be_in_the_table and not (own.family and own.family.is_phi)
    is_other = own.is_phi is False
    if layout.layout is Layout.SPLIT and theirs.is_fused:
        if not is_other and (own.is_phi or _has_width(words, base)):
            size = "" if _has_width(words, base) else " of another size, so it is another Phi-3"
            return _split_layout(words, f"the base has fused ones (qkv_proj, gate_up_proj){size}")
        is_other, is_supported = True, is_supported or own.is_phi is None
    elif layout.layout is Layout.FUSED and not theirs.is_fused:
        if base_is_phi and not is_other:
            return _fused_layout(words)
        is_other, is_supported = True, False
    elif layout.layout is Layout.SHARED and not theirs.is_fused and words.idle_parts:
        if base_is_phi and not is_other:
            return _fused_layout(words)
    elif layout.is_fused_for_sure:
        is_other = False  # only a Phi-3 has these names, and config-base-source compares the ids
    elif layout.layout is not Layout.OTHER and is_other and (any_base or not base_is_phi):
        # The user accepted the base, even if its template is Phi-3's: only another architecture
        # than its own is wrong.
        is_other = own.family is not None and own.family.model_type not in ("", theirs.model_type)
    elif own.is_phi and not base_is_phi:
        named = family_of_id(words.base_id)
        is_other = named is not None and named.is_phi and not _has_sizes(words, base)
        is_supported = False
    return _other_base(words, own, against, can_be_checked=is_supported) if is_other else None


def _fused_layout(words: AdapterWords) -> BaseFault:
    names = ", ".join(words.layout.names)
    shown = f"{words.layout.count} modules are named {names} and so on"
    if words.idle_parts:
        shown = f"it targets {', '.join(words.idle_parts)}, but only {names} was trained"
    return BaseFault(
        is_layout=True,
        where=WEIGHTS,
        message=f"the adapter is for Phi-3's own layout: {shown}, and the base has split "
        "projections (q_proj, gate_proj, …)",
        fix="pass the same Phi-3 in its own layout with --base, such as microsoft/"
        "Phi-3-mini-4k-instruct",
    )


def family_name(base: BaseFiles) -> str:
    """Return the base's id, or the last part of its folder's path that may name a model."""
    return base.id if base.id and not base.id.startswith("/") else part_with_name(str(base.path))


def _has_width(words: AdapterWords, base: BaseFiles) -> bool:
    """Whether the projections read as many numbers as the base's do."""
    hidden = next((m.inputs for m in base.modules.values() if m.leaf == "qkv_proj"), None)
    read = {words.sizes.get((name, "in")) for name in ("q_proj", "k_proj", "v_proj", "gate_proj")}
    return read - {None} <= {hidden}


def _has_sizes(words: AdapterWords, base: BaseFiles) -> bool:
    """Whether the sizes of all kinds of modules are the base's."""
    theirs = {(m.leaf, "in"): m.inputs for m in base.modules.values()}
    theirs |= {(m.leaf, "out"): m.outputs for m in base.modules.values()}
    return all(theirs.get(kind) == size for kind, size in words.sizes.items())


def _split_layout(words: AdapterWords, other: str) -> BaseFault:
    names = ", ".join(words.layout.names)
    return BaseFault(
        is_layout=True,
        where=WEIGHTS,
        message=f"the adapter has split projections, as Phi-3 has in Llama's layout ({names}), "
        f"but {other}",
        fix=f"convert it with the fused copy of the Phi-3 that it was trained on: {FUSE}; or check "
        "it against that Phi-3 in Llama's layout with --base",
    )


def _other_base(
    words: AdapterWords, own: BaseOfAdapter, against: str, *, can_be_checked: bool
) -> BaseFault:
    family = own.family.name if own.family else ""
    if family and not family.startswith(("a ", "another ")):
        family = f"{'an' if family[0] in 'AEIO' else 'a'} {family}"
    family = family or (f"a model like {words.layout.family}" if words.layout.family else "")
    named = part_with_name(words.base_id)
    what = f"{named} ({family})" if named and family else named or family or "another model"
    is_known = words.layout.is_whole and words.layout.layout is not Layout.OTHER
    if can_be_checked and is_known and words.task_type not in _NOT_CAUSAL:
        fix = f"check it against its own base: {_any_base()}"
    else:
        fix = (
            "check it with another tool: this one checks adapters of causal language models of "
            f"these architectures: {_SUPPORTED}"
        )
    return BaseFault(
        is_layout=False,
        where=_NAME if words.base_id else WEIGHTS,
        message=f"the adapter is for {what}, {against}: {_joined(own)}",
        fix=fix,
    )


def _any_base() -> str:
    return "--base DIR_OR_ID --any-base (--phi3-base and --phi3-any-base in the gate)"


def _joined(own: BaseOfAdapter) -> str:
    return ", and ".join(filter(None, (", ".join(own.evidence[:-1]), own.evidence[-1])))
