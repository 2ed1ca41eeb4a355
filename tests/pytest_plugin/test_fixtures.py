"""The fixtures give a user's tests the models, and skip without an adapter."""

from pathlib import Path

import pytest

from tests.pytest_plugin.builders import gate

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


def test_the_users_own_tests_get_the_models(pytester: pytest.Pytester, good_adapter: Path) -> None:
    pytester.makepyfile(
        """
        def test_tuned(phi3_adapter, phi3_base_model, phi3_tuned_model, phi3_tokenizer,
                       phi3_generate, phi3_compare):
            assert (phi3_adapter / "adapter_config.json").is_file()
            assert not hasattr(phi3_base_model, "peft_config") or not phi3_base_model.peft_config
            assert phi3_tuned_model.peft_config
            answers = phi3_compare("What colour is the robin?")
            assert answers.tuned == phi3_generate("What colour is the robin?")
        """
    )
    result = gate(pytester, good_adapter)
    assert result.ret == 0, result.stdout.str()


def test_without_an_adapter_the_fixtures_skip_and_say_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(phi3_tuned_model): pass")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*--phi3-adapter=PATH*"])
