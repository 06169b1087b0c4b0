"""``python -m perslm`` is the command ``perslm``."""

from perslm.cli.main import main

main()
