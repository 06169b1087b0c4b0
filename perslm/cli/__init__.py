"""The command line: ``perslm COMMAND``.

The one place that composes the library with builders and service, each imported only by the
command that needs it, so that ``perslm --help`` is fast and a machine that only scores needs no
extra. ``main`` puts it together; ``building`` has the commands that read mail, ``models`` those
that ask a store, ``serving`` and ``demo`` one each; ``common`` and
``progress`` what they share.
"""
