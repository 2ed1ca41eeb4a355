"""The console script, and ``python -m phi3_lora_qa``.

Where the machine is too short of memory or file handles to load even the commands, Python would
end with a traceback and exit status 1, which is a rejection's.
"""

import os
import sys


def main() -> None:
    """Run the commands; exit status 2 where they cannot be loaded for want of something."""
    try:
        from phi3_lora_qa.cli import main as commands

        commands()
    except MemoryError:
        _give_up(b"memory; free some, or raise its limit (ulimit -v)")
    except OSError as error:
        import errno  # built in: takes no file

        if error.errno == errno.ENOMEM:
            _give_up(b"memory; free some, or raise its limit (ulimit -v)")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _give_up(b"file handles; close files, or raise their limit (ulimit -n)")
        raise


def _give_up(what: bytes) -> None:
    os.write(2, b"phi3-lora-qa: error: the machine is short of " + what + b"\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
