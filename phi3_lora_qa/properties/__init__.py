"""Executable properties of LoRA layers: for peft's, loralib's, an adapter's, and your own layers.

Describe your layer as a `Layer` (or a `TorchLayer`, if it is a torch module), and run every
property that applies to it as a separate test:

    @lora_properties(MyLayer)
    def test_my_layer(check):
        check()
"""

from phi3_lora_qa.models.tensor_conversion import to_float64, to_tensor
from phi3_lora_qa.properties.layer import Gradients, Layer
from phi3_lora_qa.properties.layer_property import Comparison, Property
from phi3_lora_qa.properties.property_catalogue import all_properties
from phi3_lora_qa.properties.property_runner import PropertyFailed, PropertyResult, run_property
from phi3_lora_qa.properties.testing import lora_properties
from phi3_lora_qa.properties.torch_layer import TorchLayer

__all__ = [
    "Comparison",
    "Gradients",
    "Layer",
    "Property",
    "PropertyFailed",
    "PropertyResult",
    "TorchLayer",
    "all_properties",
    "lora_properties",
    "run_property",
    "to_float64",
    "to_tensor",
]
