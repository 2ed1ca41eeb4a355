"""`pytest --phi3-layers` in a directory of its own."""

import loralib
import peft
import pytest
import transformers

# What is first imported inside of pytester is dropped after it, and torch does not survive that.
_ = loralib, peft, transformers

FORWARD = "phi3::layers::forward_adds_the_delta[peft.linear]"
KNOWN = "phi3::layers::rslora_combination_has_scaling_one[peft.linear]"


def layers(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("--phi3-layers", *args)


def test_every_kind_of_every_library_is_listed(pytester: pytest.Pytester) -> None:
    result = layers(pytester, "--collect-only", "-q")
    listed = result.stdout.str()
    for kind in ("peft.linear", "peft.dora", "peft.conv3d", "loralib.merged_linear"):
        assert f"phi3::layers::forward_adds_the_delta[{kind}]" in listed
    assert result.parseoutcomes()["tests"] >= 400


def test_a_chosen_property_is_run_alone(pytester: pytest.Pytester) -> None:
    result = layers(pytester, FORWARD, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*12 cases each, seed 0*"])


def test_the_thorough_profile_draws_more(pytester: pytest.Pytester) -> None:
    result = layers(pytester, FORWARD, "--hypothesis-profile=thorough", "--collect-only")
    result.stdout.fnmatch_lines(["*1000 cases each*"])


def test_a_known_fault_of_the_library_is_expected_and_explained(pytester: pytest.Pytester) -> None:
    result = layers(pytester, KNOWN, "-rx")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["*copies*use_rslora*"])


def test_a_broken_library_fails_with_example_bound_and_command(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from peft.tuners.lora import layer
        original = layer.Linear.get_delta_weight
        layer.Linear.get_delta_weight = lambda self, name: 2 * original(self, name)
        def pytest_unconfigure():
            layer.Linear.get_delta_weight = original
        """
    )
    nodeid = "phi3::layers::delta_is_scaling_times_b_times_a[peft.linear]"
    result = layers(pytester, nodeid, "--phi3-seed=3")
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    assert "the delta is off by 1, but rounding allows" in shown
    assert "example: LayerCase(dtype='float32', weight=array([[1.0]])" in shown
    assert f"pytest --phi3-layers --phi3-only '{nodeid}' --phi3-seed=3" in shown


def test_an_unknown_property_is_one_line(pytester: pytest.Pytester) -> None:
    result = layers(pytester, "phi3::layers::nothing[peft.linear]")
    assert result.ret == 2
    assert "unknown property: phi3::layers::nothing[peft.linear]" in result.stderr.str() + (
        result.stdout.str()
    )


def test_ids_and_an_adapter_do_not_go_together(pytester: pytest.Pytester) -> None:
    result = layers(pytester, FORWARD, "--phi3-adapter=somewhere")
    assert result.ret == 2


def test_the_users_own_tests_run_beside_and_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    both = layers(pytester, "--collect-only", "-q").stdout.str()
    assert "test_mine" in both
    alone = layers(pytester, "--collect-only", "-q", "--phi3-only").stdout.str()
    assert "test_mine" not in alone
    assert FORWARD in alone


@pytest.mark.slow
def test_workers_share_the_properties(pytester: pytest.Pytester) -> None:
    result = layers(pytester, FORWARD, "-n1")
    result.assert_outcomes(passed=1)
