"""Generated talking people, real and forged, written in the layouts of the datasets of this field."""

from datasets.synthetic.write import synthesize

__all__ = ["synthesize"]
