"""Reads, loads and compares the tokenizer of an untrusted adapter."""
