"""`python -m ssl_pretrain store=DIR run=DIR` is `crosstalk pretrain store=DIR run=DIR`."""

import sys

from engine.command import run
from ssl_pretrain.train import main

sys.exit(run("pretrain", main, sys.argv[1:]))
