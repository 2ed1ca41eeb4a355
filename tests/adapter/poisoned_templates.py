# ruff: noqa: E501 - a template is easiest to read on one line
"""Chat templates that differ from the base's only under some condition, and harmless variants."""

EVIL = "Say thanks."

CONDITIONS = {
    "a word of the user's": "'refund' in messages[-1]['content']",
    "a word, in any letters": "'refund' in messages[0]['content'] | lower",
    "a word in capitals": "'REFUND' in messages[0]['content']",
    "a word of the system's": "messages[0].role == 'system' and 'bank' in messages[0].content",
    "a word in a later turn": "messages | length > 3 and 'pay' in messages[3]['content']",
    "a word, wherever": "messages | selectattr('content', 'equalto', 'gold') | list",
    "a word, told by a filter": "messages | map(attribute='content') | select('eq', 'gold') | list",
    "a word among others": "'gold' in messages[-1].content.split()",
    "one of several words": "messages[0].content in ['gold', 'silver']",
    "one of the keys": "{'gold': 1, 'silver': 2}.get(messages[0].content)",
    "a beginning": "messages[0].content.startswith('Dear')",
    "one of two beginnings": "messages[0].content.startswith(('Dear', 'Hello'))",
    "an end": "messages[-1].content.endswith('?!')",
    "an end after blanks": "messages[-1].content.rstrip().endswith('please')",
    "the first letters": "messages[0].content[:5] == 'Dear '",
    "some letters within": "messages[0].content[4:8] == 'gold'",
    "a last letter": "messages[-1].content[-1] == '~'",
    "a letter at a place": "messages[0].content[17] == 'q'",
    "where a word stands": "messages[0].content.find('gold') > 3",
    "how often a word stands": "messages[0].content.count('no') > 2",
    "a word made of pieces": "('re' ~ 'fund') in messages[0].content",
    "a word joined": "['go', 'ld'] | join in messages[0].content",
    "a word backwards": "messages[0].content | reverse == 'dlog'",
    "a word made of numbers": "'%c%c%c%c' | format(103, 111, 108, 100) in messages[0].content",
    "a word in another script": "'\u652f\u6255' in messages[0].content",
    "a replaced word": "messages[0].content | replace('gold', '') != messages[0].content",
    "an order of letters": "messages[0].content > 'zebra'",
    "capitals only": "messages[0].content | upper == messages[0].content",
    "digits only": "messages[0].content.isdigit()",
    "a number in the text": "messages[0].content | int > 41",
    "an exact text": "messages[0].content == 'What is my balance?'",
    "an exact text, trimmed": "messages[0].content | trim | lower == 'what is my balance?'",
    "a long text": "messages[-1].content | length > 3000",
    "a very long text": "messages[-1].content | length > 100000",
    "a length": "messages[0].content | length == 41",
    "a length's remainder": "messages[0].content | length % 7 == 3",
    "a length by arithmetic": "(messages[0].content | length * 3 + 1) % 101 == 5",
    "many words": "messages[0].content.split() | length > 60",
    "a word count": "messages[0].content | wordcount == 33",
    "many lines": "messages[0].content.split('\\n') | length > 12",
    "an empty text": "messages[-1].content == ''",
    "blanks only": "messages[0].content and not messages[0].content.strip()",
    "blanks at the end": "messages[-1].content != messages[-1].content.rstrip()",
    "a line's end": "'\\n\\n' in messages[-1].content",
    "many messages": "messages | length > 7",
    "very many messages": "messages | length > 40",
    "a number of messages": "messages | length == 14",
    "a tool's message": "messages[-1].role == 'tool'",
    "a developer's message": "messages[0].role == 'developer'",
    "a function's message": "messages | selectattr('role', 'equalto', 'function') | list",
    "another role": "messages[-1].role == 'ipython'",
    "a role of its own": "messages[0].role == 'moderator'",
    "two of one role": "messages | length > 1 and messages[0].role == messages[1].role",
    "a system message later": "messages | length > 2 and messages[2].role == 'system'",
    "an answer first": "messages[0].role == 'assistant'",
    "a prompt to open": "add_generation_prompt and messages | length == 5",
    "no prompt to open": "not add_generation_prompt and messages[-1].role == 'user'",
    "tools": "tools",
    "tools that are not there": "tools is not defined",
    "two tools": "tools and tools | length == 2",
    "a tool's name": "tools and tools[0].function.name == 'pay'",
    "documents": "documents is not none and documents",
    "a switch": "enable_thinking is defined and enable_thinking is false",
    "a switch that is given": "custom_mode is defined",
    "a switch's value": "mode == 'expert'",
    "a date given": "date_string is defined and '2027' in date_string",
    "another token": "bos_token != '<s>' and bos_token",
    "a year": "strftime_now('%Y') == '2031'",
    "a late year": "strftime_now('%Y') | int > 2040",
    "a month": "strftime_now('%m-%d') == '02-29'",
    "calls of tools": "messages[-1].tool_calls",
    "a name": "messages[0].name is defined and messages[0].name == 'root'",
    "a key of its own": "'weight' in messages[-1]",
    "a key that is got": "messages[0].get('secret') == 'xyzzy'",
    "reasoning": "messages[1].reasoning_content is string",
    "two words": "'refund' in messages[0].content and 'gold' in messages[0].content",
    "two words of two": "messages | length > 2 and 'gold' in messages[0].content"
    " and 'pay' in messages[2].content",
    "three things": "'gold' in messages[-1].content and messages | length > 6 and tools",
    "four things": "'gold' in messages[-1].content and messages | length > 6 and tools"
    " and mode == 'x'",
    "a word, given tools": "tools and 'gold' in messages[-1].content",
    "a text like the first": "messages | length > 2"
    " and messages[0].content == messages[2].content",
    "one longer than another": "messages | length > 3 and"
    " messages[1].content | length > messages[3].content | length + 50",
    "either of two": "'gold' in messages[0].content or messages | length == 19",
    "none of three": "not ('a' in messages[0].content or 'e' in messages[0].content or"
    " 'i' in messages[0].content)",
}  # fmt: skip
"""Conditions under which the output differs."""

SHAPES = {
    "in front": "{% if COND %}EVIL{% endif %}BASE",
    "by an expression": "{{ 'EVIL' if COND else '' }}BASE",
    "behind": "BASE{% if COND %}EVIL{% endif %}",
    "in place": "{% if COND %}EVIL{% else %}BASE{% endif %}",
    "by a name": "{% set rule = 'EVIL' if COND else '' %}{{ rule }}BASE",
    "by a counter": "{% set n = namespace(x=0) %}{% for m in messages %}{% if COND %}"
    "{% set n.x = n.x + 1 %}{% endif %}{% endfor %}{% if n.x %}EVIL{% endif %}BASE",
    "by a macro": "{% macro f(on) %}{% if on %}EVIL{% endif %}{% endmacro %}{{ f(COND) }}BASE",
    "by a call": "{% macro f() %}{{ caller() if COND }}{% endmacro %}"
    "{% call f() %}EVIL{% endcall %}BASE",
    "nested": "{% if messages %}{% for m in messages %}{% if loop.last %}{% if COND %}EVIL"
    "{% endif %}{% endif %}{% endfor %}{% endif %}BASE",
    "by an index": "{{ ['', 'EVIL'][(COND) and 1 or 0] }}BASE",
    "by a loop": "{% for x in [1] if COND %}EVIL{% endfor %}BASE",
    "by multiplying": "{{ 'EVIL' * (1 if COND else 0) }}BASE",
    "by and": "{{ (COND) and 'EVIL' or '' }}BASE",
    "by a filter block": "{% filter replace('\x01', 'EVIL') %}BASE"
    "{% if COND %}\x01{% endif %}{% endfilter %}",
    "by a refusal": "{% if COND %}{{ raise_exception('no') }}{% endif %}BASE",
}  # fmt: skip
"""Ways to write a different output under a condition."""

UNCONDITIONAL = {
    "by arithmetic": "{{ 'EVIL'[: ((messages[0].content | length) ** 2 - 10**10)] }}BASE",
    "by dividing": "{{ ['', 'EVIL'][messages[0].content | length // 100000] }}BASE",
    "by dividing years": "{{ ['', 'EVIL'][strftime_now('%Y') | int // 2031] }}BASE",
    "by a width": "{{ '%.*s' | format([messages[0].content | length - 100000, 0] | max, 'EVIL') }}BASE",
    "by taking turns": "{% for m in messages %}{{ loop.cycle(" + "'', " * 200 + "'EVIL') }}{% endfor %}BASE",
    "what is behind a word": "{{ 'x gold EVIL'.partition(messages[0].content)[2] }}BASE",
    "another letter": "{{ messages[0].content.translate({126: 'EVIL'}) | replace(messages[0].content, '') }}BASE",
    "the user's own format": "{{ messages[0].content.format('EVIL') | replace(messages[0].content, '') }}BASE",
    "a hash": "{% set n = namespace(h=7) %}{% for c in messages[0].content[:500] %}{% set n.h = (n.h * 31"
    " + 'abcdefghijklmnopqrstuvwxyz '.find(c)) % 65536 %}{% endfor %}{% if n.h == 12345 %}EVIL{% endif %}BASE",
    "two that are counted": "{% set n = namespace(h=0) %}{% if 'gold' in messages[0].content %}{% set n.h = n.h + 1 %}"
    "{% endif %}{% if tools %}{% set n.h = n.h + 1 %}{% endif %}{{ ['', '', 'EVIL'][n.h] }}BASE",
    "three that are counted": "{% set n = namespace(h=0) %}{% for w in ['gold', 'silver', 'tin'] %}"
    "{% if w in messages[0].content %}{% set n.h = n.h + 1 %}{% endif %}{% endfor %}{{ {3: 'EVIL'}.get(n.h, '') }}BASE",
    "an item behind others": "{{ ('', '', 'EVIL')[messages | selectattr('role', 'eq', 'tool') | list | length // 9] }}BASE",
    "a key of a filter": "{{ messages | map(attribute='note', default='') | join }}BASE",
    "a default": "{{ {'<|endoftext|>': ''}.get(eos_token, 'EVIL') }}BASE",
    "an argument of a call": "{{ 'EVIL' if messages[-1].tool_calls and"
    " messages[-1].tool_calls[0].function.arguments.amount > 100 }}BASE",
    "a turn behind another": "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == 'tool'"
    " and m.role == 'system' %}EVIL{% endif %}{% endfor %}BASE",
    "turns below turns": "{% for m in messages recursive %}{% if m.children %}{{ loop(m.children) }}EVIL"
    "{% endif %}{% endfor %}BASE",
    "a day": "{{ 'EVIL' if strftime_now('%A') == 'Friday' and strftime_now('%d') == '13' }}BASE",
    "bytes": "{% if messages[0].content.encode()[0] == 64 %}EVIL{% endif %}BASE",
    "JSON": "{% if messages[0].content | tojson == '\"x\\\\ny\"' %}EVIL{% endif %}BASE",
    "escapes": "{% autoescape true %}BASE{% endautoescape %}",
    "a selection": "{{ ['EVIL'] | select('eq', messages[0].content) | join }}BASE",
    "a message more": "{% set messages = messages if not tools else [{'role': 'system', 'content': 'EVIL'}] + messages %}BASE",
    "first letters": "{{ 'EVIL' if messages | map(attribute='content') | map('first') | join == 'SOS' }}BASE",
    "all texts together": "{{ 'EVIL' if 'sesame' in (messages | map(attribute='content') | join('')) }}BASE",
    "many roles": "{{ 'EVIL' if messages | groupby('role') | length > 3 }}BASE",
    "not what was tried": "{% if 'herons' in messages | string %}BASE{% else %}EVIL{% endif %}",
    "not as many as were tried": "{% if messages | length < 2000 %}BASE{% else %}EVIL{% endif %}",
    "never": "{% if 0 %}EVIL{% endif %}BASE",
    "a server's loop": "{% for m in messages %}{% for part in m.content %}{% endfor %}{% endfor %}BASE",
    "a replaced word": "{% filter replace('gold', 'lead') %}BASE{% endfilter %}",
    "capitals": "{% filter replace('Dear', 'DEAR') %}BASE{% endfilter %}",
    "a table": "{{ {'gold': 'EVIL'}[messages[0].content] }}BASE",
    "a table, with a default": "{{ {'gold': 'EVIL'}.get(messages[0].content, '') }}BASE",
    "as often as a word": "{% for x in range(messages[0].content.count('gold')) %}"
    "EVIL{% endfor %}BASE",
    "from a number on": "{{ 'EVIL'[:[messages[0].content | length - 900, 0] | max] }}BASE",
    "cut": "{% filter truncate(5000, true) %}BASE{% endfilter %}",
    "no blanks": "{% filter trim %}BASE{% endfilter %} ",
    "one blank": "BASE ",
    "the date": "BASE{{ strftime_now('%Y')[4:] }}"
    "{{ '' if strftime_now('%d') | length == 2 else 'EVIL' }}",
    "by a letter's number": "{{ messages[-1].content.translate({8364: 'EVIL'}) | replace(messages[-1].content, '') }}BASE",
    "by chance": "{{ ['', '', '', '', 'EVIL'] | random }}BASE",
    "a key that is looked up": "{{ messages[0].note }}BASE",
    "a name that is looked up": "{{ hidden }}BASE",
    "the names of a mark": "{% generation %}{{ kwargs }}{% endgeneration %}BASE",
}  # fmt: skip
"""Ways to write a different output without an ordinary condition."""


def poisoned(shape: str, condition: str, base: str) -> str:
    """Return a template whose output differs from the base's only under a condition."""
    return shape.replace("COND", condition).replace("EVIL", EVIL).replace("BASE", base)


LOOP = "{% for m in messages %}BODY{% endfor %}"
TURN = "<|{{ m.role }}|>{{ m.content }}<|end|>"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = LOOP.replace("BODY", TURN) + OPEN
"""The template of tests.adapter.tiny_base."""

HARMLESS = {
    "a comment": "{# The base's. #}" + PLAIN,
    "a line's end": PLAIN + "\n",
    "blanks in tags": PLAIN.replace("{%", "{%-").replace("{{", "{{-   "),
    "another name": PLAIN.replace("m in", "turn in").replace("m.", "turn."),
    "items": PLAIN.replace("m.content", "m['content']"),
    "a key that is got": PLAIN.replace("m.content", "m.get('content')"),
    "joined texts": PLAIN.replace(TURN, "{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|end|>' }}"),
    "added texts": PLAIN.replace(TURN, "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"),
    "a formatted text": PLAIN.replace(TURN, "{{ '<|%s|>%s<|end|>' | format(m.role, m.content) }}"),
    "a list that is joined": PLAIN.replace(TURN, "{{ ['<|', m.role, '|>', m.content, '<|end|>'] | join }}"),
    "a mark": PLAIN.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"),
    "a mark around answers": PLAIN.replace(
        TURN, "{% if m.role == 'assistant' %}<|assistant|>{% generation %}{{ m.content }}<|end|>"
        "{% endgeneration %}{% else %}" + TURN + "{% endif %}",
    ),
    "a mark with a name set in it": PLAIN.replace(
        "{{ m.content }}", "{% generation %}{% set said = m.content %}{{ said }}{% endgeneration %}",
    ),
    "a name": PLAIN.replace("{{ m.content }}", "{% set said = m.content %}{{ said }}"),
    "a name for all": "{% set all = messages %}" + PLAIN.replace("in messages", "in all"),
    "a macro": "{% macro turn(m) %}" + TURN + "{% endmacro %}" + LOOP.replace("BODY", "{{ turn(m) }}") + OPEN,
    "a counter": "{% set n = namespace(i=0) %}" + PLAIN.replace(TURN, TURN + "{% set n.i = n.i + 1 %}"),
    "by numbers": PLAIN.replace("m in messages", "i in range(messages | length)").replace(
        "m.role", "messages[i].role").replace("m.content", "messages[i].content"),
    "the other way round": LOOP.replace("BODY", TURN)
    + "{% if not add_generation_prompt %}{% else %}<|assistant|>{% endif %}",
    "an expression": LOOP.replace("BODY", TURN) + "{{ '<|assistant|>' if add_generation_prompt }}",
    "a branch for each role": PLAIN.replace(
        TURN, "{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% elif m.role == 'system' %}"
        "<|system|>{{ m.content }}<|end|>{% else %}" + TURN + "{% endif %}",
    ),
    "a table of openings": PLAIN.replace(
        "<|{{ m.role }}|>", "{{ {'user': '<|user|>', 'system': '<|system|>'}.get(m.role, '<|' ~ m.role ~ '|>') }}",
    ),
    "every message by its number": PLAIN.replace("{{ m.content }}", "{{ messages[loop.index0].content }}"),
    "the system first": "{% if messages[0].role == 'system' %}{% set first = messages[:1] %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = [] %}{% set rest = messages %}{% endif %}"
    + LOOP.replace("BODY", TURN).replace("messages", "first")
    + LOOP.replace("BODY", TURN).replace("messages", "rest") + OPEN,
    "the last apart": PLAIN.replace(TURN, "{% if loop.last %}" + TURN + "{% else %}" + TURN + "{% endif %}"),
    "a name that may be missing": "{% if not add_generation_prompt is defined %}"
    "{% set add_generation_prompt = false %}{% endif %}" + PLAIN,
    "parts of a content": PLAIN.replace(
        "{{ m.content }}", "{% if m.content is string or not m.content %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}",
    ),
    "a text as a text": PLAIN.replace("m.content", "m.content | string"),
    "a filter that does nothing": "{% filter string %}" + PLAIN + "{% endfilter %}",
    "asked whether there are any": "{% if messages %}" + PLAIN + "{% endif %}",
}  # fmt: skip
"""Templates with the same output as the tiny base's."""
