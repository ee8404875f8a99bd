"""A worker that waits for scores of pauses as long as they take.

On a busy machine some would be late and count as none: then it is not the turn detection that is
measured, but the machine.
"""

import sys

from voxtral_worker.server import ears
from voxtral_worker.turns import completeness
from voxtral_worker.worker import main

PATIENCE_S = 60.0

if __name__ == "__main__":
    completeness.PATIENCE_S = ears.SCORE_PATIENCE_S = PATIENCE_S
    sys.exit(main())
