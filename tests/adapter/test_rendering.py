"""Chat templates from strangers: rendered as transformers does, or ended; and what rules say."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi3_lora_qa.adapter import render_child, rendering
from phi3_lora_qa.adapter.folder import AdapterFolder
from phi3_lora_qa.adapter.lint import INTERNAL, LintReport, lint
from phi3_lora_qa.adapter.manifest import template_hash
from phi3_lora_qa.adapter.rendering import Conversation, Refusal, Rendering, render
from phi3_lora_qa.adapter.rules import rendering as rules
from phi3_lora_qa.errors import BaseModelError, MissingDependencyError, Phi3LoraQAError
from phi3_lora_qa.models.registry import bundled
from tests.adapter.adapters import plain, report_on
from tests.adapter.tiny_base import TEMPLATE, tokenizer_files, write_base

ASK = Conversation(messages=(("user", "Where?"),), add_generation_prompt=True)
SYSTEM = Conversation(messages=(("system", "Be brief."), ("user", "Where?")))
TOKENS = {"eos_token": "<|endoftext|>", "bos_token": "<s>"}

GOOD = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MINI = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MEDIUM = (  # opens the answer after every question, asked or not; drops system messages
    "{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + "
    "message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}"
    "{% endif %}{% endfor %}"
)
BRACKETS = (  # Mistral's way: nothing opens an answer
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('no system message, please') }}{% endif %}{% endfor %}"
)
HEALTHY = {"good": GOOD, "mini": MINI, "medium": MEDIUM, "brackets": BRACKETS}

FEATURES = {
    "generation": "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "break": "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}",
    "json": "{{ {'b': '<é>', 'a': 1} | tojson(indent=1, sort_keys=true) }}",
    "namespace": "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ dict(a=1).a }}",
    "nothing": "{{ tools }}{{ documents }}{{ unknown }}{{ eos_token }}",
    "trimmed": "  {% if true %}\n  x\n  {% endif %}\n",
    "year": "{{ strftime_now('%Y') }}",
    "pretty": "{{ messages | pprint }}{{ 'http://a.b c' | urlize }}",
}

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE = {
    "nested loops": (LOOPS, "took longer than 2 s of computing time|took longer than 4 s"),
    "a loop that writes nothing": (
        "{% macro f(n) %}{% for a in range(9) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endfor %}"
        "{% endmacro %}{{ f(99) }}",
        "took longer than",
    ),
    "a great power": ("{{ 7 ** (10 ** 9) }}", "took longer than|needed more than"),
    "a text": ("{% set x = 'a' * 900000000 %}", "needed more than 512 MiB"),
    "texts": ("{% set n = namespace(a='aa') %}" + "{% set n.a = n.a * 99 %}" * 9, "needed more"),
    "a width": ("{{ '%1000000000d' % 1 }}", "needed more than 512 MiB"),
    "a format": ("{{ '{:1000000000}'.format(1) }}", "needed more than 512 MiB"),
    "output": ("{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "wrote more than"),
    "one output": ("{{ 'a' * 100000000 }}", "wrote more than|needed more than|took longer than"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    "brackets": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "nested too deeply"),
    "signs": ("{{ " + "-" * 99999 + "1 }}", "nested too deeply"),
    "blocks": ("{% if 1 %}" * 500 + "{% endif %}" * 500, "nested too deeply"),
    "a long range": ("{% for a in range(10**12) %}{% endfor %}", "refused by the sandbox in line"),
    "include": ("{% include '/etc/passwd' %}", "in line 1: no loader"),
    "import": ("{% import 'os' as os %}{{ os }}", "in line 1: no loader"),
    "extends": ("{% extends '/etc/passwd' %}", "in line 1: no loader"),
    "change": ("{{ messages.append(1) }}", "refused by the sandbox"),
    "secret attribute": ("{% set n = namespace(_a=1) %}", "refused by the sandbox"),
    "syntax": ("\n\n{% if %}", "syntax error in line 3: Expected an expression"),
    "unclosed": ("{% for m in messages %}", "syntax error in line 1"),
    "no such filter": ("{{ 1 | nothing }}", "syntax error in line 1: No filter named"),
    "undefined": ("\n{{ no.such.thing }}", "UndefinedError in line 2: 'no' is undefined"),
    "types": ("{{ messages + 1 }}", "TypeError in line 1"),
    "escapes in the error": ("{{ {}['\x1b[2J\u202e\ud800' ~ 1].x }}", "UndefinedError"),
    "an endless error": ("{{ no[('x' * 99999)].y }}", "UndefinedError"),
}
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].environ }}",
    "{{ raise_exception.__globals__.os }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.fromkeys.__func__.__globals__ }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{{ ('' | attr('__class__')).__mro__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "{{ ('{0.__class__.__mro__}' | attr('format'))(messages) }}",
    "{{ strftime_now.__code__.co_consts[0].x }}",
]


def one(template: str, chats: Sequence[Conversation], tokens: Mapping[str, str]) -> Rendering:
    (found,) = render([template], chats, tokens)
    return found


def seconds_of(action: Callable[[], Rendering]) -> tuple[Rendering, float]:
    start = time.perf_counter()
    done = action()
    return done, time.perf_counter() - start


def child_of(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program of the test's own stand where the child does."""
    program = folder / "child.py"
    program.write_text(f"import json, os, sys, time\n{code}\n")
    monkeypatch.setattr(rendering, "render_child", SimpleNamespace(__file__=str(program)))


SAY_READY = "sys.stdout.buffer.write(b'ready\\n'); sys.stdout.flush()\n"


@pytest.mark.parametrize("template", [*HEALTHY.values(), *FEATURES.values()])
def test_a_template_gives_what_it_gives_in_transformers(template: str) -> None:
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
def test_a_hostile_or_broken_template_is_ended_and_named(name: str) -> None:
    import re

    template, error = HOSTILE[name]
    done, seconds = seconds_of(lambda: one(template, [ASK, SYSTEM], TOKENS))
    assert done.texts == ()
    assert re.search(error, done.error), done.error
    assert done.error.isprintable()
    assert len(done.error) <= 800
    assert seconds < 5


@pytest.mark.parametrize("template", ESCAPES)
def test_no_template_gets_out_of_the_sandbox(template: str) -> None:
    done = one(template, [ASK], TOKENS)
    assert done.error.startswith(("refused by the sandbox", "UndefinedError")), done


def test_a_refusal_by_the_template_is_told_from_an_error() -> None:
    done = one(BRACKETS, [ASK, SYSTEM], TOKENS)
    assert done.texts == ("<s>[INST] Where? [/INST]", Refusal("no system message, please"))
    done = one("{{ raise_exception('no\x1b[2J' ~ 'x' * 9999) }}", [ASK], TOKENS)
    assert isinstance(done.texts[0], Refusal)
    assert done.texts[0].message.isprintable()


def test_any_character_comes_through_and_back() -> None:
    strange = "\x00\x1b\u202e\u2028\U0001f600é\ud800"
    chat = Conversation(messages=(("user", strange),))
    template = "{{ messages[0].content }}\x01{{ '\\ud801' }}{{ eos_token }}"
    assert one(template, [chat], {"eos_token": strange}).texts == (f"{strange}\x01\ud801{strange}",)


def test_all_that_is_allowed_to_be_written_arrives() -> None:
    template = "\U0001f600" * (render_child.MAX_CHARACTERS // 2)
    assert one(template, [ASK, ASK], TOKENS).texts == (template, template)
    done = one(template, [ASK, ASK, ASK], TOKENS)
    assert done.error == f"wrote more than {render_child.MAX_CHARACTERS} characters"


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


def test_the_child_sees_no_environment_and_no_site_packages_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECRET_TOKEN", "PYTHONPATH", "PYTHONSTARTUP", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    tell = "[json.dumps([sorted(os.environ), sys.path, 'site' in sys.modules])]"
    child_of(
        f"{SAY_READY}print(json.dumps([{{'texts': {tell}, 'form': ''}}]))", tmp_path, monkeypatch
    )
    (text,) = one(GOOD, [ASK], TOKENS).texts
    assert isinstance(text, str)
    environment, path, site = json.loads(text)
    allowed = {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LC_CTYPE"}
    assert set(environment) <= allowed  # LC_CTYPE: the interpreter sets it for itself
    assert str(tmp_path) not in path
    assert not [folder for folder in path if folder.endswith("site-packages")]
    assert not site


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere some limits are not to be had")
def test_the_child_has_given_up_time_memory_files_and_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE"]
    code = f"""
import resource, runpy
program = runpy.run_path({str(Path(render_child.__file__).resolve())!r}, run_name="tested")
program["limit_resources"]()
try:
    with open({str(tmp_path / "written")!r}, "w") as file:
        file.write("x")
    wrote = "written"
except OSError as error:
    wrote = "refused"
limits = [resource.getrlimit(getattr(resource, name))[0] for name in {names!r}]
{SAY_READY}
print(json.dumps([{{"texts": [json.dumps([limits, wrote])], "form": ""}}]))
"""
    child_of(code, tmp_path, monkeypatch)
    (text,) = one(GOOD, [ASK], TOKENS).texts
    assert json.loads(str(text)) == [[2, 512 << 20, 0, 0, 0], "refused"]


def test_a_system_without_limits_renders_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    render_child.limit_resources()


def test_the_parent_imports_no_jinja_and_no_subprocess_before_it_renders() -> None:
    code = (
        "import sys, phi3_lora_qa.adapter.rendering as r\n"
        "import phi3_lora_qa.adapter.rules.rendering\n"
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
        ("os.fork() or time.sleep(60)", "took longer than 0.5 s|without an answer"),
        ("[os.write(1, b'x' * 65536) for _ in iter(int, 1)]", "wrote more than [0-9]+ bytes"),
        ("os.kill(os.getpid(), 11)", "ended the renderer with signal 11"),
        ("os._exit(3)", "ended the renderer with status 3"),
        ("print('{')", "ended without an answer"),
        ("print('[]')", "lost a template"),
        ("print('[{}]')", "ended without an answer"),
        ("print('[{\"texts\": [1]}]')", "ended without an answer"),
        ("print('[{\"texts\": []}]')", "lost a conversation"),
        ('print(\'[{"error": "a\\\\u001bb"}]\')', r"a\\x1bb"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="forks, signals and descriptors are POSIX's")
def test_a_child_that_goes_astray_is_ended_and_named(
    code: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    if "sleep" in code:
        monkeypatch.setattr(rendering, "WALL_SECONDS", 0.5)
    child_of(SAY_READY + code, tmp_path, monkeypatch)
    done, seconds = seconds_of(lambda: one("x" * 1_000_000, [ASK], TOKENS))
    assert re.search(error, done.error), done.error
    assert seconds < 4


@pytest.mark.parametrize("code", ["sys.exit(1)", "time.sleep(60)", "print('{\"texts\": []}')"])
def test_a_child_that_does_not_start_is_no_word_on_the_template(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "WALL_SECONDS", 0.5)
    child_of(code, tmp_path, monkeypatch)
    with pytest.raises(Phi3LoraQAError, match="did not start"):
        one(GOOD, [ASK], TOKENS)


def test_without_jinja_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install jinja2"):
        one(GOOD, [ASK], TOKENS)


# --- the rules ---


def linted(template: str, folder: Path, **changes: Any) -> LintReport:
    adapter = plain()
    adapter.files = tokenizer_files(template=template)
    content = json.loads(adapter.files["tokenizer_config.json"]) | changes
    adapter.files["tokenizer_config.json"] = json.dumps(content).encode()
    return report_on(adapter, folder)


def found(report: LintReport) -> list[str]:
    return [finding.rule for finding in report.findings]


@pytest.fixture
def renderings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The templates that the rules render, in order."""
    seen: list[str] = []

    def count(templates: Sequence[str], *arguments: Any) -> tuple[Rendering, ...]:
        seen.extend(templates)
        return render(templates, *arguments)

    monkeypatch.setattr(rules, "render", count)
    return seen


@pytest.mark.parametrize("name", HEALTHY)
def test_a_template_that_makes_prompts_is_accepted(name: str, tmp_path: Path) -> None:
    assert found(linted(HEALTHY[name], tmp_path)) == []


@pytest.mark.parametrize("template", [LOOPS, HOSTILE["a text"][0], "{% if %}", ESCAPES[0]])
def test_a_template_that_cannot_be_rendered_is_rejected_in_seconds(
    template: str, tmp_path: Path, renderings: list[str]
) -> None:
    start = time.perf_counter()
    report = linted(template, tmp_path)
    assert time.perf_counter() - start < 5
    assert found(report) == ["tokenizer-template-fails"]
    assert report.findings[0].where == "tokenizer_config.json"
    assert not report.accepted
    assert renderings == [template]


def test_a_template_that_fails_in_the_second_turn_only_is_rejected(tmp_path: Path) -> None:
    late = GOOD + "{% if messages | length > 2 %}{{ no.such }}{% endif %}"
    assert found(linted(late, tmp_path)) == ["tokenizer-template-fails"]


def test_only_a_system_message_may_be_refused(tmp_path: Path) -> None:
    refusing = "{% if messages | length NUMBER %}{{ raise_exception('no') }}{% endif %}" + GOOD
    for condition, roles in (("< 2", "user"), ("== 3", "user, assistant, user")):
        report = linted(refusing.replace("NUMBER", condition), tmp_path / roles)
        assert found(report) == ["tokenizer-template-fails"]
        assert f"refuses the messages {roles}: 'no'" in report.findings[0].message
    assert found(linted(BRACKETS, tmp_path / "system")) == []


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (GOOD.replace("add_generation_prompt", "false"), "lacks what stands before an answer"),
        (MINI.replace("add_generation_prompt", "false"), "lacks what stands before an answer"),
        (GOOD.replace("m.content", "m.content | upper"), "messages user, what the user wrote"),
        (GOOD.replace("m.content", "m.content[:9]"), "messages user, what the user wrote"),
        (GOOD.replace("in messages", "in messages[-1:]"), "messages user, assistant, user, what"),
        (GOOD.replace("in messages", "in messages[:1]"), "messages user, assistant, user, what"),
        (
            GOOD.replace("in messages", "in messages if messages[0].role == 'user'"),
            "messages system, user, what the user wrote",
        ),
    ],
)
def test_a_prompt_without_an_opening_or_without_the_users_words_is_warned_of(
    template: str, message: str, tmp_path: Path, renderings: list[str]
) -> None:
    report = linted(template, tmp_path)
    assert found(report) == ["tokenizer-template-prompt"]
    assert message in report.findings[0].message
    assert report.accepted
    assert renderings == [template]


def test_a_template_in_a_file_of_its_own_is_named_there(tmp_path: Path) -> None:
    adapter = plain()
    adapter.files = {"chat_template.jinja": b"{{ eos_token + bos_token + no.such }}"}
    (finding,) = report_on(adapter, tmp_path).findings
    assert finding.where == "chat_template.jinja"
    assert "'no' is undefined" in finding.message  # and the tokens are Phi-3's own


def test_a_token_that_the_tokenizer_does_not_have_is_missed_by_its_template(tmp_path: Path) -> None:
    template = GOOD + "{{ bos_token + '' }}"
    assert found(linted(template, tmp_path / "a")) == []
    assert found(linted(template, tmp_path / "b", bos_token={"content": "<s>"})) == []
    assert found(linted(template, tmp_path / "c", bos_token=None)) == ["tokenizer-template-fails"]


def test_a_template_that_is_known_or_the_bases_is_not_rendered(
    tmp_path: Path, renderings: list[str]
) -> None:
    known = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    for number, template in enumerate((known, MINI)):
        assert template_hash(template) in rules.KNOWN_GOOD
        assert found(linted(template, tmp_path / str(number))) == []
    base = write_base(tmp_path / "base")
    adapter = plain()
    adapter.files = tokenizer_files()
    assert found(report_on(adapter, tmp_path / "based", base)) == []
    assert renderings == []


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_a_known_template_would_be_accepted_if_it_were_rendered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (bundled("tiny") / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    monkeypatch.setattr(rules, "KNOWN_GOOD", {})
    assert found(linted(own if name == "tiny" else MINI, tmp_path)) == []


def test_with_another_base_the_own_template_is_rendered(
    tmp_path: Path, renderings: list[str]
) -> None:
    adapter = plain()
    adapter.files = tokenizer_files(template="{% if %}")
    report = report_on(adapter, tmp_path / "adapter", write_base(tmp_path / "base"))
    assert set(found(report)) == {"tokenizer-template", "tokenizer-template-fails"}
    assert renderings == ["{% if %}", TEMPLATE]


def test_a_base_whose_template_is_unreadable_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "chat_template.jinja").write_bytes(b"\xff")
    adapter = plain()
    adapter.files = tokenizer_files(template=GOOD)
    with pytest.raises(BaseModelError):
        report_on(adapter, tmp_path / "adapter", base)


def test_a_renderer_that_does_not_start_is_an_error_and_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child_of("sys.exit(1)", tmp_path, monkeypatch)
    report = linted(GOOD, tmp_path / "adapter")
    assert set(found(report)) == {INTERNAL}
    assert not report.accepted


def test_nothing_is_kept_of_an_adapter_that_is_gone(tmp_path: Path) -> None:
    import gc

    linted(GOOD, tmp_path)
    gc.collect()
    assert len(rules._rendered) == 0
    assert lint(AdapterFolder.open(tmp_path)).accepted


def test_a_conversation_is_plain_data() -> None:
    assert asdict(ASK) == {"messages": (("user", "Where?"),), "add_generation_prompt": True}
