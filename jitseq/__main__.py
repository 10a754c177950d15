"""``python -m jitseq``: the command line of `jitseq.cli`."""

from jitseq.cli import main

raise SystemExit(main())
