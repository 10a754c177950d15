"""The model zoo and the side-by-side timings behind `python -m jitseq bench`."""
