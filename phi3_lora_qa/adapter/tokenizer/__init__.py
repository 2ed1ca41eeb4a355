"""Internal: reads, loads and compares the tokenizer of an untrusted adapter."""
