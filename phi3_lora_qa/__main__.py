"""The console script, and ``python -m phi3_lora_qa``.

Without enough memory or file handles to load the commands, Python would end with a traceback and
exit status 1, which means that an adapter was rejected. Here it ends with status 2.
"""

import os
import sys


def main() -> None:
    """Run the commands; exit with status 2 if the machine cannot load them."""
    try:
        from phi3_lora_qa.cli import main as commands

        commands()
    except MemoryError:
        _exit_short_of(b"memory; free some, or raise its limit (ulimit -v)")
    except SystemError as error:  # Python itself had no memory for the exception
        if "exception" not in str(error):
            raise
        _exit_short_of(b"memory; free some, or raise its limit (ulimit -v)")
    except OSError as error:
        import errno  # built in, so importing it opens no file

        if error.errno == errno.ENOMEM:
            _exit_short_of(b"memory; free some, or raise its limit (ulimit -v)")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _exit_short_of(b"file handles; close files, or raise their limit (ulimit -n)")
        raise


def _exit_short_of(what: bytes) -> None:
    os.write(2, b"phi3-lora-qa: error: the machine ran out of " + what + b"\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
