"""One thin file for each process: it loads, decides, commits, sends."""
