"""The settings of every verb, as a Hydra tree."""
