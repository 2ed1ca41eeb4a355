from phi3_lora_qa.adapter.tokenizer.probe_texts import TEXTS


def test_the_texts_cover_scripts_blanks_digits_and_chat_markers() -> None:
    everything = "".join(TEXTS)
    for characters in (
        "é",
        "狗",
        "ع",
        "\U0001f600",
        "\t",
        "\r\n",
        "0123456789"[::-1][0],
        "<|user|>",
    ):
        assert characters in everything
    assert "" in TEXTS
    assert all(chr(number) in TEXTS for number in range(33, 127))


def test_the_texts_can_be_sent_as_ascii_json() -> None:
    import json

    assert tuple(json.loads(json.dumps(TEXTS).encode("ascii"))) == TEXTS
