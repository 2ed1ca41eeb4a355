"""Streamed layers are those of the attached model, read in batches of rows of any size."""

from collections.abc import Iterator

import numpy as np
import pytest

from phi3_lora_qa.gate import weight_streaming
from phi3_lora_qa.gate.adapted_layers import LoraLayer
from phi3_lora_qa.gate.adapter_session import AdapterSession
from phi3_lora_qa.gate.weight_streaming import stream_layers
from phi3_lora_qa.models.quiet import quiet
from tests.gate.builders import MakeSession


def _stream(session: AdapterSession) -> Iterator[LoraLayer]:
    return stream_layers(session.job.require_base(), session.adapter, "float32")


def test_streamed_layers_are_the_attached_models(make_session: MakeSession) -> None:

    session = make_session()
    with quiet():
        attached = {layer.name: layer for layer in session.list_lora_layers()}
        for layer in _stream(session):
            twin = attached.pop(layer.name)
            assert np.array_equal(layer.base_weight(), twin.base_weight())
            assert np.array_equal(layer.peft_delta(), twin.peft_delta())
            some = np.array([1, 3])
            assert np.allclose(layer.peft_delta(2.0, some), 2.0 * twin.peft_delta()[some], 1e-5)
            assert np.array_equal(layer.peft_delta(), twin.peft_delta())  # B is whole again
            x = layer.draw_input(0, 1.0)
            assert np.array_equal(layer.forward(x), twin.forward(x))
        assert not attached


def test_weights_are_read_in_pieces_of_any_size(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session()
    with quiet():
        whole = [layer.base_weight() for layer in _stream(session)]
        for entries in (1, 1000):
            monkeypatch.setattr(weight_streaming, "_ENTRIES", entries)
            found = [layer.base_weight() for layer in _stream(session)]
            assert all(map(np.array_equal, whole, found))
