"""`python -m finetune init=BUNDLE store=DIR run=DIR` is `crosstalk finetune init=BUNDLE store=DIR run=DIR`."""

import sys

from engine.command import run
from finetune.train import main

sys.exit(run("finetune", main, sys.argv[1:]))
