"""What lies in an adapter's folder neither configures the gate nor runs in it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from phi3_lora_qa.record import load_record

pytestmark = pytest.mark.slow

RAN = "from pathlib import Path\nPath({!r}).write_text('')\n"


def gate(pytester: pytest.Pytester, *args: object) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "--phi3-report=out", "--phi3-stage=static", *map(str, args)
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pytest.ini", "[pytest]\naddopts = --phi3-lint-ignore=values\n"),
        ("pytest.ini", "[pytest]\nphi3_lint_ignore = values\n"),
        ("pytest.toml", "[pytest]\n"),
        ("phi3-lora-qa.toml", "lint_ignore = ['values']\n"),
        ("pyproject.toml", "[tool.phi3_lora_qa]\nlint_ignore = ['values']\n"),
        ("conftest.py", ""),
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_configuration_there_is_refused_and_its_conftest_is_not_run(
    file: str,
    text: str,
    outside: bool,
    pytester: pytest.Pytester,
    nan_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = pytester.path / "ran"
    (nan_adapter / file).write_text(text)
    (nan_adapter / "conftest.py").write_text(RAN.format(str(ran)))
    here = pytester.path if outside else nan_adapter
    where = [f"--rootdir={nan_adapter}", nan_adapter] if outside else []
    monkeypatch.chdir(here)
    result = gate(pytester, "--phi3-adapter", nan_adapter, *where)
    assert result.ret == 2
    assert "adapter's own folder" in result.stderr.str() + result.stdout.str()
    assert not ran.exists()


def test_tests_there_are_not_collected(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    adapter = adapter_copy("good").rename(pytester.path / "a")
    ran = pytester.path / "ran"
    (adapter / "conftest.py").write_text(RAN.format(str(ran)))
    (adapter / "test_theirs.py").write_text(RAN.format(str(ran)) + "def test_theirs(): pass\n")
    (pytester.path / "test_own.py").write_text("def test_own(): pass\n")
    result = gate(pytester, "--phi3-adapter", "a", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*test_own*"])
    assert "test_theirs" not in result.stdout.str()
    assert not ran.exists()


TRAP = "import os\nfrom pathlib import Path\nPath({!r}).write_text(__file__)\nos._exit(0)\n"
TRAPS = ("conftest.py", "test_theirs.py", "__init__.py", "plug.py", "below/conftest.py",
         "below/__init__.py", "below/test_theirs.py")  # fmt: skip
DOCTEST = "\n'''\n>>> exec(open(__file__).read())\n'''\n"
OPTION = "def pytest_addoption(parser):\n    parser.addoption('--mine')\n"
COLLECTS = """
import pytest
class Theirs(pytest.File):
    def collect(self):
        exec(compile(self.path.read_text(), str(self.path), "exec"), {"__file__": str(self.path)})
        return []
def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".yaml":
        return Theirs.from_parent(parent, path=file_path)
"""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How pytest could come upon an adapter's folder: where that lies, and what the user does."""

    at: str = "tests/a"
    args: tuple[str, ...] = ()
    given: tuple[str, ...] = ("--phi3-adapter={adapter}",)
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    status: int = 1


INI = "[pytest]\n"
WAYS = {
    "its name begins with test": Way(at="test-adapter"),
    "in two words": Way(at="test-adapter", given=("--phi3-adapter", "{adapter}"), status=2),
    "below tests": Way(at="tests/test_a"),
    "below an argument": Way(at="models/test_a", args=("models",)),
    "below a testpath": Way(at="mine/test_a", files={"pytest.ini": INI + "testpaths = mine\n"}),
    "a testpath of its own": Way(files={"pytest.ini": INI + "testpaths = tests/a\n"}),
    "a testpath in it": Way(files={"pytest.ini": INI + "testpaths = tests/a/below/test_*.py\n"}),
    "below the value of an option": Way(
        args=("--mine", "models"), at="models/test_a", files={"conftest.py": OPTION}
    ),
    "the value of an option": Way(
        args=("--mine", "tests/a"), files={"conftest.py": OPTION}, status=2
    ),
    "confcutdir": Way(args=("--confcutdir=tests/a",)),
    "a link leads there": Way(at="b-1", links={"test-link": "b-1", "tests/link": "b-1"}),
    "a link to a file leads there": Way(
        at="b-1",
        links={"tests/conftest.py": "b-1/conftest.py", "tests/test_x.py": "b-1/test_theirs.py"},
    ),
    "named by a link": Way(
        at="test-a", links={"link-1": "test-a"}, given=("--phi3-adapter=link-1",)
    ),
    "named by the environment": Way(
        at="test-a", given=(), environment={"PHI3_LORA_QA_ADAPTER": "{adapter}"}
    ),
    "named by more options in the environment": Way(
        at="test-a",
        given=(),
        environment={"PYTEST_ADDOPTS": "-p no:randomly --phi3-adapter={adapter}"},
    ),
    "named by pytest's configuration": Way(
        at="test-a", given=(), files={"pytest.ini": INI + "phi3_adapter = test-a\n"}
    ),
    "named by addopts": Way(
        at="test-a", given=(), files={"pytest.ini": INI + "addopts = --phi3-adapter test-a\n"}
    ),
    "named by a settings file": Way(
        at="test-a", given=(), files={"phi3-lora-qa.toml": "adapter = ['test-a']\n"}
    ),
    "importlib": Way(at="test-a", args=("--import-mode=importlib",)),
    "doctests": Way(args=("--doctest-modules", "--doctest-glob=*.txt")),
    "another collector": Way(files={"conftest.py": COLLECTS}),
    "a module's name": Way(args=("--pyargs", "tests"), files={"tests/__init__.py": ""}),
    "its own module's name": Way(
        args=("--pyargs", "tests.a"), status=2, files={"tests/__init__.py": ""}
    ),
    "imported by a conftest.py": Way(files={"conftest.py": "import tests.a.plug\n"}, status=2),
    "a plugin of a conftest.py": Way(
        files={"conftest.py": "pytest_plugins = ['tests.a.plug']\n"}, status=2
    ),
    "imported by a test": Way(files={"test_x.py": "import tests.a.plug\n"}),
    "on the import path": Way(files={"pytest.ini": INI + "pythonpath = tests/a\n"}, status=2),
    "below on the import path": Way(
        files={"pytest.ini": INI + "pythonpath = tests/a/below\n"}, status=2
    ),
    "an argument": Way(args=("tests/a",), status=2),
    "a test of its own": Way(args=("tests/a/below/test_theirs.py::test",), status=2),
    "words from a file there": Way(args=("@tests/a/words.txt",), status=2),
    "configuration there": Way(args=("-c", "tests/a/pytest.toml"), status=2),
    "the root there": Way(args=("--rootdir=tests/a/below",), status=2),
}  # fmt: skip


IN_WORKERS = (
    "its name begins with test", "below a testpath", "a link leads there",
    "named by the environment", "named by more options in the environment", "another collector",
    "its own module's name", "imported by a test", "a plugin of a conftest.py",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *(pytest.param(name, (), id=name) for name in WAYS),
        *(pytest.param(name, ("-n2",), id=f"{name}, in workers") for name in IN_WORKERS),
    ],
)
def test_no_file_in_an_adapters_folder_runs(
    name: str,
    workers: tuple[str, ...],
    pytester: pytest.Pytester,
    nan_adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way, ran = WAYS[name], pytester.path / "ran"
    adapter = pytester.path / way.at
    (pytester.path / "tests").mkdir(exist_ok=True)
    adapter.parent.mkdir(exist_ok=True)
    nan_adapter.rename(adapter)
    (adapter / "below").mkdir()
    for trap in TRAPS:
        (adapter / trap).write_text(TRAP.format(str(ran)) + DOCTEST)
    (adapter / "a.yaml").write_text(TRAP.format(str(ran)))
    (adapter / "a.txt").write_text(f">>> exec({TRAP.format(str(ran))!r})\n")
    (adapter / "words.txt").write_text("--phi3-lint-ignore=values\n")
    (adapter / "pytest.toml").write_text("[pytest]\nphi3_lint_ignore = ['values']\n")
    for file, text in way.files.items():
        (pytester.path / file).write_text(text)
    for link, target in way.links.items():
        (pytester.path / link).symlink_to(pytester.path / target)
    for variable, value in way.environment.items():
        monkeypatch.setenv(variable, value.format(adapter=adapter))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    given = [word.format(adapter=adapter) for word in way.given]
    result = gate(pytester, *given, *way.args, *workers)
    assert not ran.exists(), ran.read_text()
    assert result.ret == way.status, result.stdout.str() + result.stderr.str()
    record = pytester.path / "out" / "record.json"
    assert not record.exists() or load_record(record).verdict in ("FAIL", "INCOMPLETE")


def test_an_adapter_in_another_ones_folder_is_kept_apart_too(
    pytester: pytest.Pytester, adapter_copy: Callable[[str], Path]
) -> None:
    outer, inner = pytester.path / "test-outer", pytester.path / "test-outer" / "test-inner"
    adapter_copy("outer").rename(outer)
    adapter_copy("inner").rename(inner)
    ran = pytester.path / "ran"
    for folder in (outer, inner):
        (folder / "conftest.py").write_text(TRAP.format(str(ran)))
    both = (f"--phi3-adapter={inner}", f"--phi3-adapter={outer}")
    for given in (both, both[::-1]):
        assert gate(pytester, *given, ".").ret == 0
    result = gate(pytester, f"--phi3-adapter={outer}", inner)
    assert result.ret == 2
    assert not ran.exists()


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_plugin_there_that_was_loaded_before_anybody_was_asked_ends_the_run(
    by: str, pytester: pytest.Pytester, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(good_adapter, pytester.path / "a")
    (pytester.path / "a" / "plug.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    if by == "environment":
        monkeypatch.setenv("PYTEST_PLUGINS", "a.plug")
    args = ("-p", "a.plug") if by == "option" else ()
    result = gate(pytester, "--phi3-adapter=a", *args)
    assert result.ret == 2
    assert "modules already imported" in result.stderr.str()
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    assert gate(pytester, "--phi3-adapter=a").ret == 0


def test_a_module_of_the_users_own_is_found_as_ever(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "conftest.py").write_text("import helper\n")
    (pytester.path / "helper.py").write_text("")
    (pytester.path / "test_own.py").write_text(
        "import helper, json, sys\ndef test_own(): import colorsys\n"
    )
    result = gate(pytester, f"--phi3-adapter={good_adapter}")
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=11)


def test_a_pytest_that_loads_a_conftest_in_another_way_is_named(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    (pytester.path / "newer.py").write_text(
        "from _pytest.config import PytestPluginManager\ndel PytestPluginManager._importconftest\n"
    )
    result = gate(pytester, "-p", "newer", f"--phi3-adapter={good_adapter}")
    assert result.ret == 2
    assert "PytestPluginManager._importconftest" in result.stderr.str()


def test_a_folder_called_as_an_installed_package_is_refused(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    """Its entry points would be pytest's plugins."""
    shutil.copytree(good_adapter, pytester.path / "evil-1.0.dist-info")
    result = gate(pytester, "--phi3-adapter=evil-1.0.dist-info", "--phi3-only")
    assert result.ret == 2
    assert "looks like a Python package" in result.stderr.str()


def test_a_folder_among_compiled_modules_is_refused(
    pytester: pytest.Pytester, good_adapter: Path
) -> None:
    """Python and pytest would read a module's code from it, and write it there."""
    shutil.copytree(good_adapter, pytester.path / "__pycache__")
    result = gate(pytester, "--phi3-adapter=__pycache__", "--phi3-only")
    assert result.ret == 2
    assert "compiled modules" in result.stderr.str()
