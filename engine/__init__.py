"""What every run needs and nothing that knows faces: settings, errors, progress, safe files."""
