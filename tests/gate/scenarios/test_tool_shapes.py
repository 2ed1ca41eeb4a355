"""An adapter is judged like its plain twin, in whichever way a tool wrote it."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from phi3_lora_qa.adapter.finding import Severity
from phi3_lora_qa.adapter.folder import WEIGHTS
from phi3_lora_qa.cli import app
from phi3_lora_qa.lint_adapter import lint_adapter
from phi3_lora_qa.record import Outcome, RunRecord
from phi3_lora_qa.run_gate import gate_adapter
from tests.split_layout import write_split_base
from tests.tool_shapes import SHAPES, TINY, write_plain, write_shape, write_unsloth

pytestmark = pytest.mark.slow

Outcomes = dict[str, Outcome]
KINDS = ["healthy", "damaged"]
VERDICTS = {"healthy": "PASS", "damaged": "FAIL"}


def damaged(adapter: Path, folder: Path) -> Path:
    """Write the adapter with a module whose delta outweighs its weight; return the folder."""
    write_plain(adapter, folder)
    tensors = load_file(folder / WEIGHTS)
    name = "base_model.model.model.layers.2.self_attn.o_proj.lora_B.weight"
    tensors[name] *= 1e4
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plain")
    plain = write_plain(TINY / "adapter", folder / "healthy")
    return {"healthy": plain, "damaged": damaged(plain, folder / "damaged")}


def gate(adapter: Path, base: str, report: Path) -> RunRecord:
    return gate_adapter(adapter, base=base, stages=["static", "math"], report=report)


def outcomes(record: RunRecord) -> Outcomes:
    return {check.id: check.outcome for check in record.checks}


def faults(adapter: Path, base: str) -> set[tuple[str, str]]:
    """Return the rules that complain, and where; notes about further files are no complaint."""
    findings = lint_adapter(adapter, base).findings
    return {(f.rule, f.where) for f in findings if f.severity is not Severity.INFO}


@pytest.fixture(scope="module")
def expected(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcomes for the plain twins, by kind and check."""
    found: Outcomes = {}
    for kind, source in sources.items():
        record = gate(source, "tiny", tmp_path_factory.mktemp(kind))
        assert record.verdict == VERDICTS[kind]
        found |= {f"{kind} {check}": outcome for check, outcome in outcomes(record).items()}
    return found


def assert_judged_like_its_twin(
    kind: str, adapter: Path, base: str, expected: Outcomes, report: Path
) -> None:
    record = gate(adapter, base, report)
    assert {f"{kind} {c}": o for c, o in outcomes(record).items()} == {
        check: outcome for check, outcome in expected.items() if check.startswith(kind)
    }
    assert record.verdict == VERDICTS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_tools_shape_changes_nothing(
    shape: str, kind: str, sources: dict[str, Path], expected: Outcomes, tmp_path: Path
) -> None:
    adapter = write_shape(shape, sources[kind], tmp_path / "adapter")
    assert faults(adapter, "tiny") == faults(sources[kind], "tiny")
    assert_judged_like_its_twin(kind, adapter, "tiny", expected, tmp_path / "report")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["split", "fused"])
def test_unsloths_shape_changes_nothing_split_or_fused(
    way: str, kind: str, sources: dict[str, Path], expected: Outcomes, tmp_path: Path
) -> None:
    adapter = write_unsloth(sources[kind], tmp_path / "split")
    base = str(write_split_base(TINY / "base", tmp_path / "base", "mistral"))
    if way == "fused":
        output, base = tmp_path / "fused", "tiny"
        command = ["convert", "fuse", str(adapter), "--base", base, "-o", str(output)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        adapter = output
    assert_judged_like_its_twin(kind, adapter, base, expected, tmp_path / "report")
