"""Internal: reads, renders and compares the chat templates of an untrusted adapter."""
