"""Chat templates of an untrusted adapter: read, rendered in a sandbox, compared with the base's."""
