"""The kinds of layers in the supported libraries, by the names in test ids."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.properties.layer_property import Property, UnderTest
from phi3_lora_qa.properties.property_catalogue import all_properties

_PEFT = "phi3_lora_qa.properties.peft_layers"
_PEFT_OTHER = "phi3_lora_qa.properties.peft_embedding_conv"
_LORALIB = "phi3_lora_qa.properties.loralib_layers"
_PEFT_MODEL = "phi3_lora_qa.properties.peft_model"
_CLASSES = {
    "peft.linear": (_PEFT, "PeftLinear"),
    "peft.safe_merge": (_PEFT, "PeftSafeMerge"),
    "peft.mixed_dtypes": (_PEFT, "PeftMixed"),
    "peft.dora": (_PEFT, "PeftDora"),
    "peft.fan_in_fan_out": (_PEFT, "PeftConv1D"),
    "peft.embedding": (_PEFT_OTHER, "PeftEmbedding"),
    "peft.conv1d": (_PEFT_OTHER, "PeftConv1d"),
    "peft.conv2d": (_PEFT_OTHER, "PeftConv2d"),
    "peft.conv3d": (_PEFT_OTHER, "PeftConv3d"),
    "peft.dora_conv2d": (_PEFT_OTHER, "PeftDoraConv2d"),
    "peft.grouped_conv": (_PEFT_OTHER, "PeftGroupedConv"),
    "peft.model": (_PEFT_MODEL, "PeftPhi3"),
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
        return [prop for prop in all_properties() if prop.applies(self.under_test)]


def layer_kinds() -> Sequence[LayerKind]:
    """Return every kind; the libraries themselves are not imported."""
    return [
        LayerKind(
            name=name,
            library=name.partition(".")[0],
            under_test=getattr(importlib.import_module(module), attribute),
        )
        for name, (module, attribute) in _CLASSES.items()
    ]
