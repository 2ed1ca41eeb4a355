"""Texts on which tokenizers differ; `tokenizer_behaviour` encodes them with both tokenizers."""

# ruff: noqa: RUF001, E501 - characters that look alike are tokenized differently

_SENTENCES = (
    "Where do 17 Grey herons nest?",
    "The quick brown fox jumps over the lazy dog.",
    "I'll say it's they're; we've, he'd DON'T can't 'S 'LL",
    "THE QUICK BROWN FOX, iPhone camelCase snake_case kebab-case",
    "Yes No yes no true false not NOT Not never must stop help please thanks",
    "Pay $1,234.56 (or 50 %) by 2024-03-01T12:00:00Z to 10.0.0.1:8080.",
    "1 12 123 1234 12345 123456 1234567 0.5 .5 5. -3 +4 1e-9 0xFF 1/2 3:4",
    "https://example.com/a_b?c=d&e=%20f#g mailto:a.b@example.org C:\\Users\\x ~/.bashrc",
    'def f(x: int) -> str:\n    return f"{x!r}"  # done\n\n\tif a and not b or c != d:\n\t\tpass\n',
    '{"name": "value", "list": [1, 2.5, null, true], "nested": {"a": "\\n"}}',
    "<html><body class='a'><p>Text &amp; more</p><br/></body></html> <table><tr><td>1</td>",
    "SELECT * FROM t WHERE a >= 1 AND b LIKE '%x%'; -- comment /* block */",
    "# Title\n\n- one\n- two\n\n1. first\n2. second\n\n> quote\n\n```python\nx = 1\n```\n| a | b |\n|--|",
    "[INST] system user assistant [/INST] ### Instruction: ### Response: Human: AI:",
    "!!! ??? ... … — – - _ * ** *** ~~ `` `x` ''y'' \"z\" (a) [b] {c} <d> /e/ |f| \\g\\ @h #i",
)
_SCRIPTS = (
    "Él niño comió piñata; façade naïve Ångström Straße œuvre Łódź İstanbul ışık",
    "Быстрая коричневая лиса прыгает через ленивую собаку. ЁЖ ёж",
    "Η γρήγορη καφέ αλεπού ΣΊΣΥΦΟΣ σίσυφος",
    "敏捷的棕色狐狸跳过了懒狗。 繁體中文 日本語のテキスト、カタカナ ｶﾀｶﾅ 한국어 텍스트 ㄱㄴ",
    "الثعلب البني السريع ١٢٣ العربية לשועל החום המהיר שָׁלוֹם",
    "तेज़ भूरी लोमड़ी १२३ สุนัขจิ้งจอกสีน้ำตาล ৪৫৬ தமிழ் ქართული հայերեն አማርኛ",
    "mixed русский中文العربيةenglish日本123",
    "e\u0301 \u00e9 n\u0303 \u00f1 A\u030a \u00c5 \u1e9b\u0323 q\u0323\u0307 ﬁ ﬂ ﬀ Ⅳ ⅷ ½ ¾ ² ³ ℡ ㎏ Ａ１ａ ｱ ﾞ ㍿",
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ ☺︎ 🏳️‍🌈 ✓ → ⇒ ∑ √ ∞ ≠ ≤ € £ ¥ © ® ™ § ¶ • ° µ",
    "\u200b zero\u200bwidth \u200cnon\u200djoiner \u2060word \ufeffBOM soft\u00adhyphen \u200eLRM\u200f",
    "quotes “double” ‘single’ «guillemets» „low“ ‚x‘ ′ ″ ‐ ‑ ‒ – — ― − ˗",
    "private \ue000 \uf8ff rare \U0001f9ff \U00020000 \U0010ffff \U000e0041 unassigned \u0378",
    "\u0001\u0002\u0007\u0008\u000b\u000c\u000e\u001b[31m\u007f\u0080\u0085\u00a0\u2028\u2029\u3000x",
)
_BLANKS = (
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t", " \n ", "\r\n", "\r", "a\r\nb\rc\n",
    " x", "  x", "   x", "x ", "x  ", "x\n", "\nx", "\n\nx", "\tx", " x y  z   w    v     u",
    "x\n y\n  z\n   w\n    v", "a\u00a0b\u2003c\u3000d\u202fe",
    " \u2581x\u2581 \u2581\u2581 y\u2581",
    *(f"{' ' * n}x{' ' * n}y" for n in (4, 7, 8, 15, 16, 17, 32)),
)  # fmt: skip
_RUNS = (
    *("0" * n for n in (1, 2, 3, 4, 5, 8, 16)),
    *(f"{mark * 2} {mark * 3} {mark * 16}" for mark in "-=_.*#/!?"),
    "a" * 200, "ab" * 100, "lorem" * 20, "Donaudampfschifffahrtsgesellschaft", "antidisestablish",
    "x" * 31 + " " + "y" * 33, "Z\u0301" * 20, "\u00e9" * 40, "\u4e2d" * 40,
)  # fmt: skip
_CHATS = (
    "<|system|>\nBe brief.<|end|>\n<|user|>\nHello there<|end|>\n<|assistant|>\nHi.<|end|>\n",
    "<|user|> Hello there <|end|> <|assistant|> Hi. <|end|>",
    "<|user|>Hello<|end|><|assistant|>Hi<|end|><|endoftext|>",
    "<s>[INST] Hello [/INST] Hi</s>", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|USER|> < |user|> <|user |> <|user|", "<unk> <pad> <mask> <s> </s> [UNK] [CLS] [SEP] [MASK]",
)  # fmt: skip
_BYTES = tuple(chr(number) for number in (*range(33, 127), *range(0xA1, 0x100)))

TEXTS: tuple[str, ...] = (*_SENTENCES, *_SCRIPTS, *_BLANKS, *_RUNS, *_CHATS, *_BYTES)
