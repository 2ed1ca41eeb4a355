"""Records and items in which every text is hostile."""

from dataclasses import replace

from phi3_lora_qa.record import (
    AdapterEntry,
    BaseEntry,
    BaseFinding,
    CheckResult,
    ItemRow,
    Outcome,
    RunRecord,
    SettingEntry,
    Timing,
    UnseenTurns,
)
from phi3_lora_qa.setting_specs import SourceKind
from tests.report.builders import failing, item, limit, metric, prompt, spectra

HOSTILE = {
    "script": "</script><script>window.pwned = 1</script>",
    "style": "</style></title></textarea><style>body{display:none}</style>",
    "image": '"><img src=x onerror="window.pwned = 1">',
    "attribute": "' onmouseover='window.pwned = 1' x='",
    "template": "{{ 7 * 7 }}{% raw %}{{ config }}",
    "comment": "<!-- --!><![CDATA[ ]]>",
    "entity": "&lt;b&gt; &#60;b&#62; &amp;amp;",
    "override": "\u202egpj.exe\u202c \u2066x\u2069",
    "nul": "a\x00b\x1b[31mred\x1b[0m\x07",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f",
    "half": "half \ud83d of a pair",
    "breaks": "one\r\ntwo\u2028three\x85four",
    "long": "word " * 200_000,
    "wide": "W" * 100_000,
}
"""What a model, or the author of an adapter, may write to break out of the page."""


def hostile_items() -> list[ItemRow]:
    return [
        item(
            n,
            id=text[:60],
            group=text[:40],
            prompt=prompt(text, system=text),
            reference=text,
            base_answer=f"base {text}",
            tuned_answer=f"tuned {text}",
            tuned_error=text if n % 2 else "",
        )
        for n, text in enumerate(HOSTILE.values())
    ]


def hostile_record() -> RunRecord:
    """Every string that a record can hold is hostile."""
    script, image = HOSTILE["script"], HOSTILE["image"]
    evil = script + image + HOSTILE["override"] + HOSTILE["nul"] + HOSTILE["half"]
    check = CheckResult(
        id=f"phi3::static::{evil}",
        stage="static",
        outcome=Outcome.FAILED,
        message=evil,
        fix=evil,
        measured={evil: evil, "nested": {evil: [evil, {evil: evil}]}},
    )
    return failing(
        reason=evil,
        adapter=AdapterEntry(
            path=evil, name=evil, sha256={evil: evil}, config={evil: [evil]}, manifest={evil: evil}
        ),
        base=BaseEntry(
            id=evil,
            fingerprint=evil,
            config={evil: evil},
            findings=(BaseFinding(rule=evil, severity=evil, where=evil, message=evil, fix=evil),),
            unseen=(UnseenTurns(roles=(evil,), turns=(0,)),),
        ),
        settings={evil: SettingEntry(value=evil, source="--phi3-" + evil, kind=SourceKind.OPTION)},
        checks=[check, replace(check, id=f"{evil}::2", stage=evil)],
        metrics=[
            metric(group=evil, metric=evil, method=evil, limit=limit(group=evil, metric=evil))
        ],
        spectra=[replace(spectra()[0], module=f"{evil}.{evil}")],
        timings=[Timing(phase=evil, seconds=1.0)],
        environment={evil: evil},
        started=evil,
    )
