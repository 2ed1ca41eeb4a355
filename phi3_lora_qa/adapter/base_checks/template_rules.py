"""Family basemodel: the base's chat template shows the model every turn, and answers can end."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from phi3_lora_qa.adapter.base_checks.base_rule import BaseUse, base_rule
from phi3_lora_qa.adapter.base_checks.base_view import GENERATION, BaseView
from phi3_lora_qa.adapter.base_checks.unseen_turns import QUESTION, Roles
from phi3_lora_qa.adapter.finding import FieldOf, Severity, Violation
from phi3_lora_qa.errors import escape

_TEMPLATE = "chat_template.jinja"


@base_rule(
    "basemodel-template",
    title="The base has a chat template that turns a question into a prompt",
    why="Without one, no conversation can be turned into a prompt, and the chat template of an "
    "adapter cannot be compared with the base's.",
    fix="use a base that was tuned for conversations, with its chat template",
    blocks=(BaseUse.ANSWERS, BaseUse.TEMPLATE),
)
def template_works(base: BaseView) -> Iterator[Violation]:
    """Render conversations with the default template, and look for the question of the simplest."""
    if base.template is None:
        yield Violation(_TEMPLATE, "the base has no chat template")
    elif base.trial.error:
        yield Violation(
            base.template.file, f"the chat template cannot be rendered: {base.trial.error}"
        )
    elif reason := (base.trial.refusals or {}).get(QUESTION):
        yield Violation(base.template.file, f"the chat template refuses a question: {reason!r}")
    elif QUESTION in (base.trial.unseen or {}):
        yield Violation(
            base.template.file, "the prompt that the chat template renders lacks the question"
        )


@base_rule(
    "basemodel-template-drops-turns",
    title="The base's chat template writes every turn of a conversation into the prompt",
    why="The model never sees a turn that the template leaves out, such as a system turn, and "
    "nothing reports that: neither transformers nor a server. An adapter cannot follow what it "
    "does not see.",
    fix="move the text of these turns into the user's turn, or use a base whose chat template "
    "writes them",
)
def every_turn_is_shown(base: BaseView) -> Iterator[Violation]:
    """Look for the turns of made-up conversations in the prompts."""
    unseen = base.trial.unseen or {}
    if not unseen or base.template is None or QUESTION in unseen:
        return
    systems = all(roles[turn] == "system" for roles, turns in unseen.items() for turn in turns)
    shown = min(
        unseen,
        key=lambda roles: (
            roles not in base.shapes,
            all(roles[turn] == "system" for turn in unseen[roles]),
            len(roles),
        ),
    )
    lost = " and ".join(f"turn {turn + 1} ({shown[turn]})" for turn in unseen[shown])
    what = (
        "the chat template leaves out system turns"
        if systems
        else f"the chat template leaves out {lost} of a conversation of {_described(shown)}"
    )
    yield Violation(base.template.file, what + _affected(base, unseen))


@base_rule(
    "basemodel-template-refuses-turns",
    severity=Severity.INFO,
    title="The base's chat template accepts conversations of every usual shape",
    why="An item or a training row that the template refuses cannot be used. Nothing is lost "
    "silently: the template says so itself.",
    fix="move the text of system turns into the user's turn, and alternate user and assistant "
    "turns",
)
def no_shape_is_refused(base: BaseView) -> Iterator[Violation]:
    """Look for conversations that the template refuses."""
    refusals = base.trial.refusals or {}
    if not refusals or base.template is None or QUESTION in refusals:
        return
    shown = min(refusals, key=lambda roles: (roles not in base.shapes, len(roles)))
    yield Violation(
        base.template.file,
        f"the chat template refuses a conversation of {_described(shown)}: "
        f"{refusals[shown]!r}{_affected(base, refusals, 'cannot be rendered')}",
    )


@base_rule(
    "basemodel-stop-tokens",
    title="The token that ends an answer in the base's chat template is one of its stop tokens",
    why="Generation ends only at the stop tokens of generation_config.json, or of config.json if "
    "there is no such file. If the template ends an answer with another token, answers run on to "
    "the limit, whatever the adapter has learned.",
    fix="add the token's id to eos_token_id in the base's generation_config.json",
    blocks=(BaseUse.ANSWERS,),
)
def answers_can_end(base: BaseView) -> Iterator[Violation]:
    """Compare what the template writes after an answer with the stop tokens."""
    end = base.trial.end
    if base.template is None or base.trial.error or end is None:
        return
    if not end:
        yield Violation(
            base.template.file,
            "the chat template writes nothing after an answer, so no answer can end",
            "use a base whose chat template has a stop token",
        )
        return
    file, value = base.stop_setting
    stops = _stops(value)
    if stops is None:
        yield Violation(
            FieldOf(file, "eos_token_id"),
            f"it must be a token id or a list of token ids: got {value!r}",
        )
    elif stops or file == GENERATION:  # config.json alone: the class of the model has defaults
        yield from _without_stop(base, end, stops, FieldOf(file, "eos_token_id"))


def _without_stop(
    base: BaseView, end: str, stops: Sequence[int], place: FieldOf
) -> Iterator[Violation]:
    added = base.added_tokens
    names = {number: token for token, number in added.items()}
    found = [(end.find(token), -len(token), token) for token in added if token and token in end]
    if found:
        token = min(found)[2]
        if added[token] not in stops:
            yield Violation(
                place,
                f"the chat template ends an answer with {token!r} (id {added[token]}), which is "
                f"not a stop token: {_listed(stops, names)}",
                f'write "eos_token_id": {sorted({*stops, added[token]})} into the base\'s '
                "generation_config.json",
            )
    elif base.tokenizer:
        names = {number: token for token, number in base.tokenizer.tokens.items()}
        if not any(_begins(end, names.get(number, "")) for number in stops):
            yield Violation(
                place,
                f"the chat template ends an answer with the text {end[:40]!r}, which contains no "
                f"stop token: {_listed(stops, names)}",
                "use the chat template that belongs to the base",
            )


def _listed(stops: Sequence[int], names: Mapping[int, str]) -> str:
    if not stops:
        return "none is named"
    return "they are " + ", ".join(
        f"{number} ({names[number]})" if number in names else f"{number}" for number in stops[:8]
    )


def _begins(end: str, token: str) -> bool:
    """Whether a text begins with an ordinary token, in the spelling of a vocabulary."""
    spelled = {"<0x0A>": "\n"}.get(token, token).replace("Ċ", "\n").replace("Ġ", " ")
    return bool(token) and end.startswith(spelled.replace("\u2581", " "))


def _stops(value: Any) -> tuple[int, ...] | None:
    """Return the stop tokens; empty if none is named, and None if the value is not valid."""
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(numbers) if all(type(n) is int and n >= 0 for n in numbers) else None


def _described(roles: Roles) -> str:
    return ", ".join(escape(role, 20) for role in roles[:6]) + (", …" if len(roles) > 6 else "")


def _affected(
    base: BaseView, found: Collection[Roles], what: str = "have a turn that the model never sees"
) -> str:
    """Say how many items of the suite are affected; empty without a suite."""
    if not base.shapes:
        return ""
    total = sum(base.shapes.values())
    count = sum(number for roles, number in base.shapes.items() if roles in found)
    if not count:
        return "; no item of the suite is affected"
    return f"; {count} of {total} items of the suite {what}"
