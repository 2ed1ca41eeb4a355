"""The kinds of layers that the installed libraries have, by the names that test ids use."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.properties.layer_property import Property, UnderTest, all_properties

_PEFT = "phi3_lora_qa.properties.peft_layers"
_OTHERS = "phi3_lora_qa.properties.peft_embedding_conv"
_LORALIB = "phi3_lora_qa.properties.loralib_layers"
_MODEL = "phi3_lora_qa.properties.peft_model"
_CLASSES = {
    "peft.linear": (_PEFT, "PeftLinear"),
    "peft.safe_merge": (_PEFT, "PeftSafeMerge"),
    "peft.mixed_dtypes": (_PEFT, "PeftMixed"),
    "peft.dora": (_PEFT, "PeftDora"),
    "peft.fan_in_fan_out": (_PEFT, "PeftConv1D"),
    "peft.embedding": (_OTHERS, "PeftEmbedding"),
    "peft.conv1d": (_OTHERS, "PeftConv1d"),
    "peft.conv2d": (_OTHERS, "PeftConv2d"),
    "peft.conv3d": (_OTHERS, "PeftConv3d"),
    "peft.dora_conv2d": (_OTHERS, "PeftDoraConv2d"),
    "peft.grouped_conv": (_OTHERS, "PeftGroupedConv"),
    "peft.model": (_MODEL, "PeftPhi3"),
    "loralib.linear": (_LORALIB, "LoralibLinear"),
    "loralib.fan_in_fan_out": (_LORALIB, "LoralibTransposed"),
    "loralib.embedding": (_LORALIB, "LoralibEmbedding"),
    "loralib.merged_linear": (_LORALIB, "LoralibMergedLinear"),
    "loralib.conv1d": (_LORALIB, "LoralibConv1d"),
    "loralib.conv2d": (_LORALIB, "LoralibConv2d"),
    "loralib.conv3d": (_LORALIB, "LoralibConv3d"),
}


@dataclass(frozen=True, kw_only=True)
class LayerKind:
    """One kind of layer of an installed library.

    Attributes:
        name: Such as ``peft.linear``.
        library: The package that it needs.
        under_test: The class that builds and uses it.
    """

    name: str
    library: str
    under_test: type[UnderTest]

    def properties(self) -> Sequence[Property]:
        """Return the properties that apply."""
        return [tested for tested in all_properties() if tested.applies(self.under_test)]


def layer_kinds() -> Sequence[LayerKind]:
    """Return every kind; the libraries themselves are not imported here."""
    return [
        LayerKind(
            name=name,
            library=name.partition(".")[0],
            under_test=getattr(importlib.import_module(module), attribute),
        )
        for name, (module, attribute) in _CLASSES.items()
    ]
