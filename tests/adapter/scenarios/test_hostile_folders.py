"""A hostile folder can only be rejected: it cannot crash, mislead or stall the linter."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import INTERNAL, LintReport, lint
from tests.adapter.adapters import Adapter, P, base_config, plain, report_on
from tests.adapter.packing import pack
from tests.adapter.tiny_base import module_names, tokenizer_files, write_base

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["(a|a)*b", "qkv_proj", ".*", "lm_head", "pissa", "\n::error::x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def folders(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, dict[str, bytes]]:
    """Return a strategy for a config, weights and other files, each valid or corrupted."""
    config = base_config()
    for _ in range(draw(st.integers(0, 3))):
        config[draw(st.sampled_from([*config, "auto_map", "é"]))] = draw(JSON)
    adapter = plain()
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(list(adapter.tensors)))
        tensor = adapter.tensors.pop(name)
        adapter.tensors[draw(st.text(max_size=30) | st.just(P + "lm_head.weight"))] = tensor
    weights = bytearray(pack(adapter.tensors) if "" not in adapter.tensors else b"")
    for _ in range(draw(st.integers(0, 3))):
        if weights:
            weights[draw(st.integers(0, len(weights) - 1))] = draw(st.integers(0, 255))
    files = tokenizer_files() if draw(st.booleans()) else {}
    files |= draw(
        st.dictionaries(
            st.sampled_from(
                ["lora_qa_manifest.json", "tokenizer.json", "chat_template.jinja",
                 "tokenizer_config.json", "README.md", "x.py"]
            ),
            st.binary(max_size=20) | JSON.map(lambda v: json.dumps(v).encode()),
            max_size=2,
        )
    )  # fmt: skip
    return config, bytes(weights), files


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFiles:
    return BaseFiles.open(write_base(tmp_path_factory.mktemp("base")))


@pytest.mark.slow
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(folders(), st.booleans())
def test_any_folder_gives_a_verdict_with_printable_texts(
    base: BaseFiles, content: tuple[dict[str, Any], bytes, dict[str, bytes]], based: bool
) -> None:
    import tempfile

    config, weights, files = content
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(weights)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        before = sorted(p.name for p in folder.iterdir())
        report = lint(AdapterFolder.open(folder), base if based else None)
        assert sorted(p.name for p in folder.iterdir()) == before
    assert INTERNAL not in {f.rule for f in report.findings}, report.findings
    for found in report.findings:
        texts = (found.where, found.message, found.fix)
        assert all(text and text.isprintable() for text in texts), found


def registered(report: LintReport) -> list[str]:
    return [found.rule for found in report.findings]


def many_modules() -> Adapter:
    names = [f"model.layers.{n}.x{n}.y" for n in range(7000)]
    tensor = ("F32", (1, 0), b"")
    return Adapter(
        config=base_config(),
        tensors={f"{P}{name}.lora_{part}.weight": tensor for name in names for part in "AB"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rank_pattern": {f"a{n}.y": 4 for n in range(512)}},
        {"rank_pattern": {f"(a|a)*b{n}|y": 4 for n in range(512)}},
        {"target_modules": [f"x{n}" for n in range(2048)]},
        {"exclude_modules": "(" * 30 + "(a|.)*" + ")*" * 30 + "b"},
    ],
)
def test_a_small_folder_takes_only_some_seconds(fields: dict[str, Any], tmp_path: Path) -> None:
    adapter = many_modules()
    adapter.config |= fields
    start = time.process_time()
    report = report_on(adapter, tmp_path)
    assert time.process_time() - start < 5
    assert not report.accepted


def test_a_declared_rank_does_not_allocate_memory(tmp_path: Path) -> None:
    import tracemalloc

    adapter = plain()
    adapter.config["r"] = 65536
    tracemalloc.start()
    assert not report_on(adapter, tmp_path).accepted
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_missing_module_that_is_named_in_full_is_found(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = module_names()
    gone = module_names()[-1]
    adapter.tensors = {n: t for n, t in adapter.tensors.items() if gone not in n}
    assert registered(report_on(adapter, tmp_path)) == ["tensors-missing"]
