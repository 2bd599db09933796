"""From other people's files to clips on the device."""
