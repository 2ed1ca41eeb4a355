"""Chat templates: healthy ones, features of transformers, and hostile ones."""

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
MINI_35 = MINI.replace("== 'system'", "== 'system' and message['content']")
MEDIUM = (  # always opens the answer after a question; drops system messages
    "{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + "
    "message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}"
    "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}"
    "{% endif %}{% endfor %}"
)
BRACKETS = (  # as Mistral's: nothing opens an answer
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
    "nested loops": (LOOPS, "took longer than 2 s of CPU time|took longer than 4 s"),
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
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "endless recursion"),
    "brackets": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "nesting that is too deep"),
    "signs": ("{{ " + "-" * 99999 + "1 }}", "nesting that is too deep"),
    "blocks": ("{% if 1 %}" * 500 + "{% endif %}" * 500, "nesting that is too deep"),
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
