import subprocess
import sys

import pytest

from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour_child import CPU_SECONDS, allowance


def test_the_allowance_grows_with_the_time_of_the_base() -> None:
    assert allowance(0) == 3
    assert allowance(1.26) == 16
    assert allowance(10) < CPU_SECONDS


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
def test_the_cpu_time_limit_starts_now() -> None:
    code = (
        "import resource\n"
        "from phi3_lora_qa.adapter.tokenizer.tokenizer_behaviour_child import limit_seconds\n"
        "limit_seconds(7)\n"
        "print(*resource.getrlimit(resource.RLIMIT_CPU))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    soft, hard = map(int, done.stdout.split())
    assert 7 <= soft <= 12
    assert hard == soft + 1
