"""Untrusted chat templates are rendered as in transformers, or stopped at a limit."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter import bounded_process, bounded_process_start
from phi3_lora_qa.adapter.chat_template import template_rendering
from phi3_lora_qa.adapter.chat_template.template_rendering import (
    Conversation,
    Refusal,
    Rendering,
    render,
)
from phi3_lora_qa.adapter.chat_template.template_sandbox import MAX_CHARACTERS
from phi3_lora_qa.errors import MissingDependencyError, Phi3LoraQAError
from tests.adapter.chat_templates import BRACKETS, ESCAPES, FEATURES, GOOD, HEALTHY, HOSTILE
from tests.adapter.stand_in_child import SAY_READY, child_of

pytestmark = pytest.mark.slow

ASK = Conversation(messages=(("user", "Where?"),), add_generation_prompt=True)
SYSTEM = Conversation(messages=(("system", "Be brief."), ("user", "Where?")))
TOKENS = {"eos_token": "<|endoftext|>", "bos_token": "<s>"}


def one(template: str, chats: Sequence[Conversation], tokens: Mapping[str, str]) -> Rendering:
    (found,) = render([template], chats, tokens)
    return found


def seconds_of(action: Callable[[], Rendering]) -> tuple[Rendering, float]:
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


@pytest.mark.parametrize("template", [*HEALTHY.values(), *FEATURES.values()])
def test_a_template_renders_as_in_transformers(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for chat in (ASK, Conversation(messages=(*ASK.messages, ("assistant", "There. <é>")))):
        tokens: dict[str, Any] = dict(TOKENS)
        expected = render_jinja_template(
            [[{"role": role, "content": text} for role, text in chat.messages]],
            chat_template=template,
            add_generation_prompt=chat.add_generation_prompt,
            **tokens,
        )[0]
        assert one(template, [chat], TOKENS).texts == tuple(expected)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_template_is_stopped_with_the_reason(name: str) -> None:
    import re

    template, error = HOSTILE[name]
    done, seconds = seconds_of(lambda: one(template, [ASK, SYSTEM], TOKENS))
    assert done.texts == ()
    assert re.search(error, done.error), done.error
    assert done.error.isprintable()
    assert len(done.error) <= 800
    assert seconds < 5


@pytest.mark.parametrize("template", ESCAPES)
def test_no_template_escapes_the_sandbox(template: str) -> None:
    done = one(template, [ASK], TOKENS)
    assert done.error.startswith(("refused by the sandbox", "UndefinedError")), done


def test_a_refusal_by_the_template_is_not_an_error() -> None:
    done = one(BRACKETS, [ASK, SYSTEM], TOKENS)
    assert done.texts == ("<s>[INST] Where? [/INST]", Refusal("no system message, please"))
    done = one("{{ raise_exception('no\x1b[2J' ~ 'x' * 9999) }}", [ASK], TOKENS)
    assert isinstance(done.texts[0], Refusal)
    assert done.texts[0].message.isprintable()


def test_any_character_is_preserved() -> None:
    characters = "\x00\x1b\u202e\u2028\U0001f600é\ud800"
    chat = Conversation(messages=(("user", characters),))
    template = "{{ messages[0].content }}\x01{{ '\\ud801' }}{{ eos_token }}"
    assert one(template, [chat], {"eos_token": characters}).texts == (
        f"{characters}\x01\ud801{characters}",
    )


def test_texts_up_to_the_limit_are_returned() -> None:
    template = "\U0001f600" * (MAX_CHARACTERS // 2)
    assert one(template, [ASK, ASK], TOKENS).texts == (template, template)
    done = one(template, [ASK, ASK, ASK], TOKENS)
    assert done.error == f"wrote more than {MAX_CHARACTERS} characters"


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.sampled_from(
            ["{{", "}}", "{%", "%}", "{#", "-", " for ", " in ", "messages", "[0]", ".content",
             " if ", " endif ", " endfor ", "x", "'", "1", "(", ")", "|", "tojson", " set ", "=",
             "**9", "*9", "range(9)", " macro f() ", " endmacro ", "f()", "\n", "\ud800", "\x00"]
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_any_template_gives_texts_or_a_printable_error(template: str) -> None:
    done = one(template, [ASK], TOKENS)
    assert (len(done.texts) == 1) != bool(done.error)
    assert done.error.isprintable()


def test_the_child_has_no_environment_and_no_site_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECRET_TOKEN", "PYTHONPATH", "PYTHONSTARTUP", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    report = "[json.dumps([sorted(os.environ), sys.path, 'site' in sys.modules])]"
    child_of(f"{SAY_READY}print(json.dumps([{{'texts': {report}}}]))", tmp_path, monkeypatch)
    (text,) = one(GOOD, [ASK], TOKENS).texts
    assert isinstance(text, str)
    environment, path, site = json.loads(text)
    allowed = {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LC_CTYPE"}
    assert set(environment) <= allowed  # LC_CTYPE: set by the interpreter
    assert str(tmp_path) not in path
    assert not [folder for folder in path if folder.endswith("site-packages")]
    assert not site


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lack some of the limits")
def test_the_child_has_limits_on_time_memory_files_and_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE"]
    code = f"""
import resource
try:
    with open({str(tmp_path / "written")!r}, "w") as file:
        file.write("x")
    wrote = "written"
except OSError as error:
    wrote = "refused"
limits = [resource.getrlimit(getattr(resource, name))[0] for name in {names!r}]
{SAY_READY}
print(json.dumps([{{"texts": [json.dumps([limits, wrote])]}}]))
"""
    child_of(code, tmp_path, monkeypatch)
    (text,) = one(GOOD, [ASK], TOKENS).texts
    assert json.loads(str(text)) == [[2, 512 << 20, 0, 0, 0], "refused"]


def test_a_system_without_resource_limits_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    bounded_process_start.limit_resources(2, 512, 16)


def test_the_parent_imports_jinja_never_and_subprocess_only_to_render() -> None:
    code = (
        "import sys, phi3_lora_qa.adapter.chat_template.template_rendering as r\n"
        "import phi3_lora_qa.adapter.rules.template_rendering\n"
        "print('subprocess' in sys.modules)\n"
        "r.render('x', [], {})\n"
        "print('jinja2' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("time.sleep(60)", "took longer than 0.5 s"),
        ("os.close(1); time.sleep(60)", "took longer than 0.5 s"),
        ("os.fork() or time.sleep(60)", "took longer than 0.5 s|without a result"),
        ("[os.write(1, b'x' * 65536) for _ in iter(int, 1)]", "wrote more than [0-9]+ bytes"),
        ("os.kill(os.getpid(), 11)", "exited with signal 11"),
        ("os._exit(3)", "exited with status 3"),
        ("print('{')", "ended without a result"),
        ("print('[]')", "returned no result for a template"),
        ("print('[{}]')", "ended without a result"),
        ("print('[{\"texts\": [1]}]')", "ended without a result"),
        ("print('[{\"texts\": []}]')", "returned no result for a conversation"),
        ('print(\'[{"error": "a\\\\u001bb"}]\')', r"a\\x1bb"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX forks, signals and descriptors")
def test_a_misbehaving_child_is_stopped_with_the_reason(
    code: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    if "sleep" in code:
        monkeypatch.setattr(
            template_rendering, "LIMITS", replace(template_rendering.LIMITS, wall_seconds=0.5)
        )
    child_of(SAY_READY + code, tmp_path, monkeypatch)
    done, seconds = seconds_of(lambda: one("x" * 1_000_000, [ASK], TOKENS))
    assert re.search(error, done.error), done.error
    assert seconds < 4


@pytest.mark.parametrize("code", ["sys.exit(1)", "time.sleep(60)", "print('{\"texts\": []}')"])
def test_a_child_that_does_not_start_is_not_an_error_of_the_template(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        template_rendering, "LIMITS", replace(template_rendering.LIMITS, wall_seconds=0.5)
    )
    child_of(code, tmp_path, monkeypatch)
    with pytest.raises(Phi3LoraQAError, match="did not start"):
        one(GOOD, [ASK], TOKENS)


def test_without_jinja_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_process, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install jinja2"):
        one(GOOD, [ASK], TOKENS)


def test_a_conversation_is_plain_data() -> None:
    assert asdict(ASK) == {"messages": (("user", "Where?"),), "add_generation_prompt": True}
