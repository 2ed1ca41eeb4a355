"""An untrusted adapter's tokenizer: read, loaded in a bounded process, compared with the base's."""
