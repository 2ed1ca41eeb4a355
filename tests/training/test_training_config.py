from pathlib import Path

import pytest

from phi3_lora_qa.errors import InputError
from phi3_lora_qa.training.training_config import TrainConfig, load_config, parse_override

GOOD = """
[model]
base = "tiny"
[data]
train = "rows.jsonl"
[output]
dir = "out"
"""


def load(folder: Path, text: str, *overrides: str) -> TrainConfig:
    path = folder / "train.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.data.train == tmp_path / "rows.jsonl"
    assert config.output.dir == tmp_path / "out"


def test_the_name_of_a_base_is_kept_and_a_relative_path_resolved(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).model.base == "tiny"
    relative = load(tmp_path, GOOD.replace('"tiny"', '"./tiny"'))
    assert Path(relative.model.base) == tmp_path / "tiny"


def test_the_libraries_tables_are_kept_unchanged(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD + "[training]\nseed = 3\n[peft]\nr = 4\n[quantization]\n")
    assert (config.training, config.peft, config.quantization) == ({"seed": 3}, {"r": 4}, {})


def test_the_cookbooks_names_for_the_output_are_accepted(tmp_path: Path) -> None:
    text = GOOD.replace('[output]\ndir = "out"', "[training]\noutput_dir = 'checkpoint_dir'")
    config = load(tmp_path, text + "overwrite_output_dir = true\n")
    assert config.output.dir == tmp_path / "checkpoint_dir"
    assert config.output.overwrite
    assert not config.training


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.seed=3", {"training": {"seed": 3}}),
        ("training.learning_rate = 5e-6", {"training": {"learning_rate": 5e-6}}),
        ("training.bf16=true", {"training": {"bf16": True}}),
        ("training.bf16=True", {"training": {"bf16": "True"}}),
        ("model.base=tiny", {"model": {"base": "tiny"}}),
        ('model.base="a=b"', {"model": {"base": "a=b"}}),
        ("model.base=microsoft/Phi-3-mini", {"model": {"base": "microsoft/Phi-3-mini"}}),
        ('peft.target_modules=["qkv_proj"]', {"peft": {"target_modules": ["qkv_proj"]}}),
        ("training.a.b=false", {"training": {"a": {"b": False}}}),
    ],
)
def test_an_override_is_toml_and_a_bare_word_is_a_string(override: str, value: object) -> None:
    assert parse_override(override) == value


@pytest.mark.parametrize(
    "override",
    [
        "",
        "seed=3",
        "training.seed",
        "=3",
        "training.=3",
        "a.b=[1",
        'a.b="open',
        "a.b=",
        "a.b={",
        "a.b=" + "[" * 5000,
    ],
)
def test_an_invalid_override_is_rejected(override: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_override(override)


def test_an_override_sets_only_the_key_that_it_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--set"):
        load(tmp_path, GOOD, "training.seed=1\nother=2")


def test_overrides_are_applied_in_order(tmp_path: Path) -> None:
    text = GOOD + "[training]\nseed = 1\nmax_steps = 2\n"
    config = load(tmp_path, text, "training.seed=5", "training.seed=6", "hub.repo_id=me/mine")
    assert config.training == {"seed": 6, "max_steps": 2}
    assert config.hub.repo_id == "me/mine"


def test_a_path_in_an_override_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load(tmp_path, GOOD, "output.dir=mine")
    assert config.output.dir.absolute() == tmp_path / "elsewhere" / "mine"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[output]", "[outputs]", "unknown key 'outputs'; did you mean 'output'?"),
        ('base = "tiny"', 'bas = "tiny"', "[model]: unknown key 'bas'; did you mean 'base'?"),
        ("[data]", "[data]\nvalid = 'x'", "did you mean 'validation'?"),
        ('base = "tiny"', "torch_dtype = 'auto'", "did you mean 'dtype'?"),
        ('base = "tiny"', "", "[model]: base is missing"),
        ('dir = "out"', "", "[output]: dir is missing"),
        ('train = "rows.jsonl"', "", "[data]: train is missing"),
        ('base = "tiny"', "base = 3", "'base' is 3; use a string"),
        ('train = "rows.jsonl"', "train = 3", "'train' is 3; use a path"),
        ("[data]", "[data]\nseed = 1.5", "'seed' is 1.5; use a whole number"),
        ("[data]", "[data]\nseed = true", "'seed' is True; use a whole number"),
        ("[data]", "[data]\nvalidation_fraction = 0.0", "set a share between 0 and 1"),
        ("[data]", "[data]\nvalidation_fraction = 1", "set a share between 0 and 1"),
        ("[model]", "[model]\ndtype = 'int4'", "use one of auto, float32"),
        ("[output]", "[output]\noverwrite = 'yes'", "use true or false"),
        ("[output]", "[training]\noutput_dir = 'x'\n[output]", "both output.dir and"),
        ("[output]", "[engine]\nname = 'lorax'\n[output]", "use one of peft, loralib"),
        ("[output]", "[engine]\nmasks = { a = [true] }\n[output]", "for loralib's MergedLinear"),
        ("[output]", "training = 3\n[output]", "unknown key 'training'"),
        ("[model]", "training = 3\n[model]", "'training' is a value; make it a table"),
        ("[model]", "[model", "cannot read the training config"),
    ],
)
def test_an_invalid_config_is_rejected_with_the_fix(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert says in str(caught.value)


def test_a_config_that_is_not_a_file_is_rejected(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(InputError, match="cannot read the training config"):
            load_config(path)


def test_a_config_that_is_nested_too_deeply_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass a TOML file"):
        load(tmp_path, "[training]\nseed = " + "[" * 5000)


def test_the_home_of_an_unknown_user_is_a_relative_path(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD, "data.train=~nobody-here/rows.jsonl")
    assert config.data.train.parts[-2:] == ("~nobody-here", "rows.jsonl")


def test_an_override_below_a_value_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'base' is not a table"):
        load(tmp_path, GOOD, "model.base.name=3")


def test_loralib_masks_are_read_by_name_and_can_be_overridden(tmp_path: Path) -> None:
    text = GOOD + "[engine]\nname = 'loralib'\nmasks.qkv_proj = { q = true, k = true, v = true }\n"
    config = load(tmp_path, text, "engine.masks.qkv_proj.k=false")
    assert config.engine.masks == {"qkv_proj": {"q": True, "k": False, "v": True}}
