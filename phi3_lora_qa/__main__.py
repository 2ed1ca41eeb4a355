"""``python -m phi3_lora_qa``: the console script without a console script."""

from phi3_lora_qa.cli import main

main()
