"""Rules that tell without rejecting: each is found, and the adapter is still accepted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phi3_lora_qa.adapter.base_files import BaseFiles
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import Severity, all_rules, lint
from tests.adapter.adapters import Adapter, factors, plain, report_on
from tests.adapter.healthy import HEALTHY
from tests.adapter.tiny_base import LEAVES, module_names, write_base


def double(adapter: Adapter) -> None:
    adapter.tensors = {n: adapter.array(n).astype("float64") for n in adapter.tensors}


def collapse(adapter: Adapter) -> None:
    for name in adapter.names("lora_B.weight"):
        array = adapter.array(name).copy()
        array[:, 1:] = array[:, :1] * np.array([2, -1, 0.5], "f4")
        adapter.tensors[name] = array


def move_into_b(adapter: Adapter, by: float) -> None:
    """Make A small and B large; what they make together stays the same."""
    for end, factor in (("lora_A.weight", 1 / by), ("lora_B.weight", by / 100)):
        for name in adapter.names(end):
            adapter.tensors[name] = adapter.array(name) * np.float32(factor)


def shrink_in_float16(adapter: Adapter) -> None:
    for name in adapter.names("lora_B.weight"):
        adapter.tensors[name] = (adapter.array(name) * np.float32(1e-4)).astype("float16")


def split_names(adapter: Adapter) -> None:
    adapter.config["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapter.tensors = factors(module_names(("o_proj",)))


def keep(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")


MILD: dict[str, Callable[[Adapter], object]] = {
    "files-code": lambda a: a.after.append(lambda f: keep(f, "modeling.py")),
    "files-settings": lambda a: a.after.append(lambda f: keep(f, "pytest.ini")),
    "files-pickle-beside": lambda a: a.after.append(lambda f: keep(f, "optimizer.pt")),
    "files-training-log": lambda a: a.files.update(
        {"trainer_state.json": b'{"log_history": [{"loss": NaN, "step": 3}]}'}
    ),
    "files-other-model": lambda a: a.after.append(lambda f: keep(f, "merged.gguf")),
    "config-base-source": lambda a: a.config.update(revision="develop"),
    "files-subfolders": lambda a: a.after.append(lambda f: (f / "checkpoint-1").mkdir()),
    "config-alpha-negative": lambda a: a.config.update(lora_alpha=-8),
    "config-task-type-null": lambda a: a.config.update(task_type=None),
    "config-machine-path": lambda a: a.config.update(base_model_name_or_path="/home/me/phi3"),
    "tensors-adapter-name": lambda a: a.rename(lambda n: n.replace(".weight", ".default.weight")),
    "tensors-float64": double,
    "tensors-target-idle": split_names,
    "values-rank-collapse": collapse,
    "values-float16-range": lambda a: move_into_b(a, 1e6),
    "values-float16-subnormal": shrink_in_float16,
}
ELSEWHERE = {"manifest-card-changed", "files-oversized", "files-sampling", "values-shared-a"}
"""Cases of these are in test_manifest.py, below, test_loader_rules.py and test_copy_rules.py."""
EXPORT = {
    "export-merge", "export-vllm", "export-llama-cpp", "export-scaling", "export-tied-tables",
}  # fmt: skip


@pytest.mark.parametrize("rule", MILD)
def test_a_mild_fault_is_told_and_accepted(rule: str, tmp_path: Path) -> None:
    adapter = plain()
    MILD[rule](adapter)
    report = report_on(adapter, tmp_path)
    assert {f.rule for f in report.findings} == {rule}, report.findings
    assert report.accepted


def test_every_mild_rule_has_a_case() -> None:
    mild = {
        rule.id
        for rule in all_rules()
        if rule.severity is not Severity.ERROR and rule.family != "tokenizer"
    }  # tokenizer: test_tokenizer_rules.py
    assert mild == {*MILD, *ELSEWHERE, *EXPORT}


@pytest.mark.parametrize(
    ("variant", "rules"),
    [
        ("plain", set()),
        ("bfloat16", set()),
        ("dora", {"export-vllm", "export-llama-cpp"}),
        ("lora_bias", {"export-merge", "export-vllm", "export-llama-cpp"}),
        ("rslora", {"export-scaling"}),
        ("rank_pattern", {"export-scaling"}),
        ("saved_head", {"export-vllm", "export-llama-cpp"}),
        ("embeddings", {"export-vllm"}),
        ("trained_tokens", {"export-vllm", "export-llama-cpp"}),
    ],
)
def test_what_other_programs_do_with_it_is_told(
    variant: str, rules: set[str], tmp_path: Path
) -> None:
    report = report_on(HEALTHY[variant](), tmp_path)
    assert {f.rule for f in report.findings if f.rule.startswith("export-")} == rules
    assert report.accepted


@pytest.mark.parametrize(("rank", "words"), [(16, ""), (32, "only if told"), (1024, "up to 512")])
def test_the_ranks_that_vllm_takes(rank: int, words: str, tmp_path: Path) -> None:
    names = module_names(("o_proj",))
    tensors = factors(names, ranks=dict.fromkeys(names, rank))
    adapter = Adapter(config={**plain().config, "r": rank}, tensors=tensors)
    adapter.config["target_modules"] = ["o_proj"]
    found = [f for f in report_on(adapter, tmp_path).findings if f.rule == "export-vllm"]
    assert len(found) == bool(words)
    assert all(words in f.message for f in found)


def test_tables_that_merging_unties_are_told(tmp_path: Path) -> None:
    tied = write_base(tmp_path / "base", tie_word_embeddings=True)
    for variant, told in (("saved_head", True), ("plain", False)):
        report = report_on(HEALTHY[variant](), tmp_path / variant, tied)
        assert ("export-tied-tables" in {f.rule for f in report.findings}) is told


def test_a_file_that_is_mostly_a_copy_of_the_base_is_told(tmp_path: Path) -> None:
    adapter = HEALTHY["embeddings"]()
    assert "files-oversized" in {f.rule for f in report_on(adapter, tmp_path).findings}


def test_a_scaling_of_another_program_is_told_by_its_number(tmp_path: Path) -> None:
    report = report_on(HEALTHY["rslora"](), tmp_path)
    (found,) = [f for f in report.findings if f.rule == "export-scaling"]
    assert "llama.cpp scales 8 of 8 modules otherwise" in found.message
    assert "by 2 in place of 4" in found.message


def test_an_idle_pattern_is_told(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["rank_pattern"] = {"q_proj": 4}
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings] == ["tensors-target-idle"]
    assert "q_proj matches no adapted module" in report.findings[0].message


@pytest.mark.parametrize("alpha", [0, 4])
def test_an_idle_pattern_with_an_alpha_of_zero_is_no_more_than_idle(
    alpha: float, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["alpha_pattern"] = {"nope": alpha}
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings if f.rule.partition("-")[0] != "export"] == [
        "tensors-target-idle"
    ]
    assert report.accepted


@pytest.mark.parametrize("based", [False, True])
def test_a_layer_that_is_not_there_is_told(based: bool, tmp_path: Path) -> None:
    """peft passes over it, so that without tensors for it nothing is lost."""
    adapter = plain()
    adapter.config["layers_to_transform"] = [0, 1, 99]
    base = write_base(tmp_path / "base") if based else None
    report = report_on(adapter, tmp_path / "adapter", base)
    assert [f.rule for f in report.findings] == ["tensors-target-idle"]
    assert "no layer 99" in report.findings[0].message


def test_a_layer_that_a_phi3_may_have_is_missed_where_no_base_tells(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["layers_to_transform"] = [0, 1, 2]
    assert "tensors-missing" in {f.rule for f in report_on(adapter, tmp_path).findings}
    told = report_on(adapter, tmp_path / "again", write_base(tmp_path / "base"))
    assert [f.rule for f in told.findings] == ["tensors-target-idle"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exclude_modules", ["q_proj"]),
        ("target_parameters", ["mlp.experts"]),
        ("modules_to_save", ["score"]),
        ("modules_to_save", ["lmhead"]),
    ],
)
def test_a_name_that_matches_nothing_is_told(field: str, value: object, tmp_path: Path) -> None:
    adapter = plain()
    adapter.config[field] = value
    report = report_on(adapter, tmp_path)
    assert {f.rule for f in report.findings if f.rule.startswith("tensors")} == {
        "tensors-target-idle"
    }
    assert report.accepted


def test_a_split_name_is_told_its_fused_one(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["target_modules"] = [*LEAVES, "up_proj"]
    assert "gate_up_proj in place of up_proj" in report_on(adapter, tmp_path).findings[0].fix


MINI = "microsoft/Phi-3-mini-4k-instruct"


@pytest.mark.parametrize(
    ("named", "given", "rule"),
    [
        (MINI, MINI, ""),
        ("/home/me/base", MINI, ""),
        (f"{MINI}/", MINI, ""),
        ("gpt2", MINI, "config-base-source"),
        (None, MINI, ""),
        ("acme/helpdesk", "", ""),
        (MINI, "/home/me/base", ""),
        (MINI, "tiny", "config-base-name"),
        ("evil/tiny", "tiny", "config-base-source"),
        ("evil/anything", "tiny", "config-base-name"),
        ("vonjack/Phi-3-mini-4k-instruct-LLaMAfied", "", ""),
        ("unsloth/Phi-3-mini-4k-instruct-bnb-4bit", MINI, "config-base-source"),
        ("unsloth/Phi-3-mini-4k-instruct-unsloth-bnb-4bit", MINI, "config-base-source"),
        (MINI, "someone/phi-3-mini-4k-instruct-GPTQ", "config-base-source"),
        ("mistralai/Mistral-7B-v0.1", "", "config-base-source"),
        ("microsoft/Phi-3-mini-128k-instruct", MINI, "config-base-name"),
        ("microsoft/Phi-3.5-mini-instruct", MINI, "config-base-name"),
        ("mistralai/Mistral-7B-v0.1", MINI, "config-base-name"),
    ],
)
def test_another_base_than_the_config_names_is_told(
    named: str | None, given: str, rule: str, tmp_path: Path
) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = named
    base = BaseFiles.open(write_base(tmp_path / "base"), id=given)
    report = lint(AdapterFolder.open(adapter.save(tmp_path / "a")), base)
    found = {f.rule for f in report.findings} & {"config-base-name", "config-base-source"}
    assert found == ({rule} if rule else set())
    assert report.accepted is (rule != "config-base-name")


@pytest.mark.parametrize(
    ("revision", "rule"),
    [
        ("a" * 40, ""),
        ("main", ""),
        (None, ""),
        ("b" * 40, "config-base-name"),
        ("refs/pr/66", "config-base-name"),
        ("refs/convert/parquet", "config-base-name"),
        (" refs/pr/1", "config-base-name"),
        ("refs/heads/../pr/1", "config-base-name"),
        ("pr/66", "config-base-name"),
        ("refs%2Fpr%2F1", "config-base-name"),
        ("develop", "config-base-source"),
        ("v1.0", "config-base-source"),
        ("refs/heads/x", "config-base-source"),
        ("a" * 7, "config-base-source"),
    ],
)
def test_a_base_from_the_hubs_cache_is_known_by_its_id_and_commit(
    revision: str | None, rule: str, tmp_path: Path
) -> None:
    cache = tmp_path / "models--microsoft--Phi-3-mini-4k-instruct" / "snapshots" / ("a" * 40)
    base = write_base(cache)
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": MINI, "revision": revision}
    report = report_on(adapter, tmp_path / "a", base)
    found = {f.rule for f in report.findings} & {"config-base-name", "config-base-source"}
    assert found == ({rule} if rule else set())
    adapter.config["base_model_name_or_path"] = "microsoft/Phi-3-mini-128k-instruct"
    assert "config-base-name" in {f.rule for f in report_on(adapter, tmp_path / "b", base).findings}


def test_a_commit_that_cannot_be_compared_is_told(tmp_path: Path) -> None:
    """The commit of a pull request has a hash as any other."""
    adapter = plain()
    adapter.config |= {"base_model_name_or_path": MINI, "revision": "c" * 40}
    base = BaseFiles.open(write_base(tmp_path / "base"), id=MINI)
    report = lint(AdapterFolder.open(adapter.save(tmp_path / "a")), base)
    assert [f.rule for f in report.findings] == ["config-base-source"]


def test_a_path_of_another_machine_may_have_any_part(tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = "/home/me/runs/phi-3"
    adapter.after.append(lambda folder: (folder / "runs").mkdir())
    assert report_on(adapter, tmp_path / "a").accepted


@pytest.mark.parametrize("named", ["base", "./base", "a/base", "x\\base"])
def test_a_base_in_the_adapters_own_folder_is_refused(named: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.config["base_model_name_or_path"] = named
    adapter.after.append(lambda folder: (folder / "base").mkdir())
    assert "config-base-name" in {f.rule for f in report_on(adapter, tmp_path / "a").findings}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ('{"log_history": [{"loss": 1.0, "step": 1}, {"loss": NaN, "step": 2}]}', "nan at step 2"),
        ('{"log_history": [{"eval_loss": -Infinity}]}', "eval_loss is -inf"),
        ('{"log_history": [{"loss": 1.0}, {"loss": 0.0}]}', "loss is 0 at the last step"),
        ('{"log_history": [{"loss": 0}]}', "loss is 0 at the last step"),
        ('{"log_history": [', "no valid JSON"),
        ('{"a": 1, "a": 1}', "stands twice"),
        ('{"log_history": [{"loss": 0.0}, {"loss": 1.0, "grad_norm": NaN}]}', ""),
        ('{"log_history": [{"loss": 1' + "0" * 400 + "}]}", ""),
        ('{"log_history": 5}', ""),
        ("{}", ""),
    ],
)
def test_the_log_of_training_is_read(state: str, words: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.files["trainer_state.json"] = state.encode()
    folder = AdapterFolder.open(adapter.save(tmp_path / "a"))
    for place in (folder, folder.snapshot(tmp_path / "copy")):
        messages = [f.message for f in lint(place).findings]
        assert [words in message for message in messages] == ([True] if words else [])


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *(
            (f"x{end}", "files-code")
            for end in (".exe", ".BAT", ".ps1", ".js", ".jar", ".pyd", ".py.gz")
        ),
        *(
            (f"x{end}", "files-pickle-beside")
            for end in (".npy", ".npz", ".dill", ".pth.tar", ".pkl.gz", ".nemo", ".keras", ".PT")
        ),
        *((name, "files-other-model") for name in ("config.json", "x.gguf")),
        *((name, "") for name in ("README.txt", "x.tar.gz", "eval.json", ".gitattributes")),
    ],
)
def test_files_are_known_by_their_names(name: str, rule: str, tmp_path: Path) -> None:
    adapter = plain()
    adapter.files[name] = b"x"
    report = report_on(adapter, tmp_path)
    assert [f.rule for f in report.findings] == ([rule] if rule else [])


@pytest.mark.parametrize(
    ("tables", "tied", "refused"),
    [(1, True, True), (1, False, False), (1, None, False), (2, False, False), (2, None, True)],
)
def test_factors_that_serve_two_tied_tables_are_refused_by_name(
    tables: int, tied: bool | None, refused: bool, tmp_path: Path
) -> None:
    """With ensure_weight_tying peft adapts the other table too, but only where they are tied.

    Without a base, factors for both tell that they were.
    """
    adapter = HEALTHY["embeddings"]()
    adapter.config["ensure_weight_tying"] = True
    if tables == 1:
        adapter.config["target_modules"] = ["embed_tokens"]
        adapter.tensors = {n: t for n, t in adapter.tensors.items() if "embed_tokens" in n}
    base = None if tied is None else write_base(tmp_path / "base", tie_word_embeddings=tied)
    report = report_on(adapter, tmp_path / "adapter", base)
    told = [f.message for f in report.findings if f.rule == "tensors-target-unsupported"]
    assert all("ensure_weight_tying" in message for message in told)
    assert (bool(told), not report.accepted) == (refused, refused)
