"""The key is found in text from others in any encoding, whole or in pieces, before truncation."""

import base64
import html
import json
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote

import pytest

from phi3_lora_qa.errors import BaseModelError
from phi3_lora_qa.scoring.remote_scoring import Server
from phi3_lora_qa.scoring.secret_redaction import redact
from tests.scoring.serving import ModelServer

KEY = "sk-Pr0j/ä".replace("ä", "a") + "+9fQ&x72kLmNoPqRsTuVw=="
FORMS: dict[str, Callable[[str], str]] = {
    "unchanged": str,
    "in a URL": lambda key: quote(key, safe=""),
    "every character in a URL": lambda key: "".join(f"%{ord(char):02x}" for char in key),
    "in JSON": lambda key: "".join(f"\\u{ord(char):04x}" for char in key),
    "in a literal": lambda key: "".join(f"\\x{ord(char):02x}" for char in key),
    "in HTML": html.escape,
    "every character in HTML": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "in base64": lambda key: base64.b64encode(key.encode()).decode(),
    "as Basic": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "as Basic of another": lambda key: base64.b64encode(f"me:{key}".encode()).decode(),
    "in base64 for URLs": lambda key: base64.urlsafe_b64encode(f"a{key}".encode()).decode(),
    "in hexadecimal": lambda key: key.encode().hex(),
    "a half": lambda key: key[: len(key) // 2],
    "the other half": lambda key: key[len(key) // 2 :],
    "a piece": lambda key: f"xx{key[5:17]}yy",
}


def longest_shown_piece(key: str, text: str) -> int:
    """Return the length of the longest piece of a key that a text shows."""
    return max(
        (
            n
            for n in range(1, len(key) + 1)
            for at in range(len(key) - n + 1)
            if key[at : at + n] in text
        ),
        default=0,
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_key_is_removed_in_any_encoding(form: str) -> None:
    written = FORMS[form](KEY)
    found = redact(f"no such key: {written} (401)", KEY)
    assert written not in found
    assert longest_shown_piece(KEY, found) < 8
    assert found.startswith("no such key: ")
    assert found.endswith(" (401)")


def test_text_without_the_key_is_unchanged() -> None:
    text = r"the model %20 \u0041 &amp; is not there"
    assert redact(text, KEY) == text
    assert redact(text, "") == text


@pytest.mark.parametrize("form", ["unchanged", "in JSON", "in a URL", "as Basic"])
@pytest.mark.parametrize("blanks", ["x", " "])
def test_truncation_never_leaves_a_part_of_the_key(
    form: str, blanks: str, served: ModelServer, server: Server
) -> None:
    written = FORMS[form](KEY)
    keyed = replace(server, api_key=KEY)
    for before in (2000 - len(written) // 2, 200 - len(written) // 2, 1995, 195, 2000, 65530):
        body = blanks * before + written
        for sent in (body, json.dumps({"error": {"message": body}})):
            served.fault = lambda *_, sent=sent: (401, sent.encode())
            with pytest.raises(BaseModelError) as caught:
                keyed.models()
            assert longest_shown_piece(KEY, str(caught.value)) < 8, before
            assert written[:12] not in str(caught.value), before


def test_a_name_that_is_the_key_is_not_shown(served: ModelServer, server: Server) -> None:
    from phi3_lora_qa.models.registry import resolve_base

    served.fault = lambda *_: {"data": [{"id": f"{'x' * 60}{KEY}"}]}
    with pytest.raises(BaseModelError, match="it serves x") as caught:
        replace(server, api_key=KEY).served_names(resolve_base("tiny"), "adapter")
    assert longest_shown_piece(KEY, str(caught.value)) < 8
