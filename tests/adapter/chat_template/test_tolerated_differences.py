from collections.abc import Callable

import pytest

from phi3_lora_qa.adapter.chat_template.conversation_generation import TemplateInput
from phi3_lora_qa.adapter.chat_template.tolerated_differences import ToleratedKind, tolerated_kind

Pair = tuple[str | None, str | None]


def case(*roles: str, opened: bool = False) -> TemplateInput:
    messages = [{"role": role, "content": f"Text {n}."} for n, role in enumerate(roles)]
    return TemplateInput(
        {"messages": messages, "add_generation_prompt": opened, "eos_token": "</s>"}
    )


def rendered(found: TemplateInput, end: str, dropped: tuple[str, ...]) -> str:
    turns = [
        f"<|{m['role']}|>\n{m['content']}<|end|>\n"
        for m in found.messages
        if m["role"] not in dropped
    ]
    opened = found.variables["add_generation_prompt"]
    return "".join(turns) + ("<|assistant|>\n" if opened else end)


def renders(our_end: str = "", extra: str = "") -> Callable[[TemplateInput], Pair]:
    def render(found: TemplateInput) -> Pair:
        has_tool = any(m["role"] == "tool" for m in found.messages)
        ours = rendered(found, our_end, ()) + (extra if has_tool else "")
        return ours, rendered(found, "</s>", ("tool",))

    return render


@pytest.mark.parametrize("end", ["", "\n", "<|endoftext|>", "</s>\n"])
def test_only_the_end_of_a_finished_chat_may_differ(end: str) -> None:
    found = case("user", "assistant")
    render = renders(end)
    assert tolerated_kind(found, *render(found), render) is ToleratedKind.FINISHED_CHAT


@pytest.mark.parametrize("end", ["<|end|>", "Say thanks.", "</s></s>"])
def test_any_other_end_is_a_difference(end: str) -> None:
    found = case("user", "assistant")
    render = renders(end)
    assert tolerated_kind(found, *render(found), render) is None


def test_the_end_of_a_prompt_may_not_differ() -> None:
    found = case("user", opened=True)
    render = renders()
    assert tolerated_kind(found, "<|assistant|>\n", "<|assistant|>", render) is None
    assert tolerated_kind(found, None, "", render) is None


@pytest.mark.parametrize("opened", [False, True])
def test_a_role_that_the_base_leaves_out_may_be_rendered(opened: bool) -> None:
    found = case("user", "assistant", "tool", "user", opened=opened)
    render = renders()
    assert tolerated_kind(found, *render(found), render) is ToleratedKind.OTHER_ROLE
    hidden = renders(extra="Say thanks.")
    assert tolerated_kind(found, *hidden(found), hidden) is None
