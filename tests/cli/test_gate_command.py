"""The printed command names the base exactly if the gate could not find it by itself."""

import shlex
from pathlib import Path

from phi3_lora_qa.cli.gate_command import gate_command


def test_a_known_base_that_the_config_names_is_left_out() -> None:
    shown = gate_command(Path("out"), "smollm2", configured="smollm2")
    assert shown == "pytest --phi3-adapter=out"


def test_any_other_base_is_one_word_of_the_command() -> None:
    path = "/models/my phi"
    for base, configured in ((path, path), (path, ""), ("tiny", ""), ("a/b", "a/b")):
        words = shlex.split(gate_command(Path("an adapter"), base, configured=configured))
        assert words == ["pytest", "--phi3-adapter=an adapter", f"--phi3-base={base}"]
