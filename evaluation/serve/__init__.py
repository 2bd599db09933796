"""The local page for one video: it is dropped, its progress is shown, its report appears."""
