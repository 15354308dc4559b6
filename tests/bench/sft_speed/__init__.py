"""Our training beside TRL's: `python -m tests.bench.sft_speed.run`."""
