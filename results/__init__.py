"""Records of runs, with their commands and devices: package data that the pages read."""
