"""Hostile patterns, templates and JSON. A value @NAME:SIZE stands for a long text."""

import json
from collections.abc import Callable

PATTERNS = (
    "(a|a)*b", "(.*)*$", "(.*a){20}", "((a*)*)*b", "([a-z]+)+$", "(a?){50}a{50}", ".*" * 1500,
    "(" * 39 + "(a|.)*" + ")*" * 39 + "b", "(" * 300 + ")" * 300, "[", "[^", "[]", "[a-", "[z-a]",
    "\\", "\\1", "(?i)x", "(?=x)", "(?P<n>x)", "(?P<n", "x{4}{4}", "x{,}", "x{9999}", "(x{60}){60}",
    "((((x{9}){9}){9}){9}){9}", "|" * 8000, "(|)*" * 500, "." * 8192, "." * 8193, "^" * 2000,
    "(^|$)*", "\\b" * 1000 + ".*", "[\\d\\D]*" * 400, "[^" + "z" * 1900 + "]{1300}",
    "([" + "zy" * 900 + "a-y.0-9_]|l){1,900}", "(" + "|".join("abcdefgh" * 200) + ")*", "\ud800",
    ".*\u202e", "\n::error::x", "(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", ".*proj", "all-linear", "",
    "x{99999999999999999999}", "(x*){3999}", "(((((.?){9}){9}){9}){4})", "[" + "a-z" * 2000 + "]*",
)  # fmt: skip

TEMPLATES = (
    "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}", "{{ 'a' * 10**9 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ cycler.__init__.__globals__ }}",
    "{% set x = namespace(a='a') %}{% for i in range(60) %}{% set x.a = x.a ~ x.a %}{% endfor %}",
    "{{ raise_exception('\x1b[2J') }}", "{{ (" * 50, "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ 9 ** 9 ** 9 }}", "{% for a in messages %}{% for b in messages %}" * 8, "\ud800", "{{ '\n",
    "{{ messages[0].content.format(1) }}", "{{ '%0999999999d' % 1 }}", "{{ x | tojson }}" * 9000,
    "{% if true %}" * 200 + "{% endif %}" * 200, "x" * 500_000, "{{ ' ' | center(10**10) }}", "",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{{ 'hidden' }}",
)  # fmt: skip

LONG: dict[str, Callable[[int], str]] = {
    "digits": lambda n: "9" * n,
    "list": lambda n: "[" * n + "]" * n,
    "object": lambda n: '{"a":' * n + "1" + "}" * n,
    "open": lambda n: "[" * n,
    "text": lambda n: json.dumps("x" * n),
    "escapes": lambda n: '"' + "\\u202e" * n + '"',
    "names": lambda n: json.dumps([f"x{number}" for number in range(n)]),
    "dots": lambda n: json.dumps(["." * (1 + number % 40) + "x" for number in range(n)]),
    "integers": lambda n: json.dumps(list(range(n))),
    "empties": lambda n: "[" + ",".join(["[]"] * n) + "]",
    "table": lambda n: json.dumps({f"x{number}": 4 for number in range(n)}),
    "dotted": lambda n: json.dumps({f"{number}".rjust(36, "."): 4 for number in range(n)}),
    "lists": lambda n: json.dumps({f"x{number}": [0] for number in range(n)}),
    "tokens": lambda n: json.dumps({"embed_tokens": list(range(n)), "lm_head": list(range(n))}),
    "pattern": lambda n: json.dumps(PATTERNS[n % len(PATTERNS)]),
    "patterns": lambda n: json.dumps(dict.fromkeys(_variations(n, 500), 4)),
    "few": lambda n: json.dumps(dict.fromkeys(_variations(n, 20), 4)),
    "zone": lambda n: json.dumps(_variations(n, 50)),
    "pair": lambda n: json.dumps(_variations(n, 2)),
    "template": lambda n: json.dumps(TEMPLATES[n % len(TEMPLATES)]),
    "far": lambda n: json.dumps(["qkv_proj", "down_proj", f"model.layers.{n}.mlp.down_proj"]),
    "blocks": lambda n: json.dumps({
        "nblocks": 2, "match_strict": False,
        "target_modules_bd_a": [f"x{k}" for k in range(n)],
        "target_modules_bd_b": [f"y{k}" for k in range(n)],
    }),
}  # fmt: skip


def _variations(index: int, count: int) -> list[str]:
    """Return this number of similar patterns, or as many as fit in a config."""
    pattern = PATTERNS[index % len(PATTERNS)]
    count = min(count, 900_000 // (len(pattern) + 20))
    return [f"{pattern}|x{number}" for number in range(count)]


def raw(value: str) -> str:
    """Return the text that a value stands for, which may be invalid JSON."""
    if not value.startswith("@"):
        return value
    name, _, size = value[1:].partition(":")
    return LONG[name](int(size))
